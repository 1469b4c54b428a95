//! What root, or the user running memgate, refuses to open although its name is right.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::process::{Command, Stdio};

use crate::harness::{Installation, deadline_in, is_root, signal, wait_until};
use crate::victim::Victim;

/// Runs a command that must fail without touching the victim. Returns its error line.
fn refused(installation: &Installation, victim: &Victim, arguments: &[&str]) -> String {
    let output = installation.memgate(&["--set", "provisioner.docker_socket=/nonexistent.sock"]);
    let output = { output }.args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
    victim.assert_unchanged(&stderr);
    stderr
}

// should such a name exist all the same.
#[test]
fn names_that_lead_elsewhere_are_refused() {
    let installation = Installation::with_sqlite();
    assert!(installation.run(&["migrate"]).status.success());
    let victim = Victim::new(installation.dir());
    let data = installation.data();
    let mut files = vec!["memgate.toml", "installation.id", "token.key", "lane.key", "up.lock"];
    if is_root() {
        files.extend(["db/memgate.db", "db/memgate.db-wal", "db/memgate.db-shm"]);
    }
    for name in files {
        let (path, kept) = (data.join(name), installation.dir().join("kept"));
        let existed = fs::rename(&path, &kept).is_ok();
        let command: &[&str] = if name == "memgate.toml" { &["config", "check"] } else { &["up"] };
        symlink(&victim.path, &path).unwrap();
        let error = refused(&installation, &victim, command);
        assert!(error.contains("is not a regular file"), "{name}: {error}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refused(&installation, &victim, command);
        fs::remove_dir(&path).unwrap();
        let made = Command::new("mkfifo").args(["-m", "600"]).arg(&path).status().unwrap();
        assert!(made.success());
        refused(&installation, &victim, command);
        fs::remove_file(&path).unwrap();
        if existed {
            fs::rename(&kept, &path).unwrap();
        }
    }
    // What `up` writes takes the place of a link, and an old draft doesn't matter.
    let server = data.join("server.pem");
    symlink(&victim.path, &server).unwrap();
    fs::create_dir(data.join("server.key.new")).unwrap();
    // Without Docker it waits.
    let mut up = installation.memgate(&["up", "--set", "provisioner.docker_socket=/nonexistent.sock"]);
    let mut up = up.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until(deadline_in(30), "the certificate is written", || {
        fs::symlink_metadata(&server).is_ok_and(|meta| meta.is_file()) || up.try_wait().unwrap().is_some()
    });
    signal(up.id(), "TERM");
    assert!(up.wait().unwrap().success());
    victim.assert_unchanged("after up");
    assert!(fs::symlink_metadata(&server).unwrap().is_file());
}

//
#[test]
fn settings_and_folders_of_other_users_are_refused() {
    if !is_root() {
        return;
    }
    let installation = Installation::with_sqlite();
    assert!(installation.run(&["migrate"]).status.success());
    let victim = Victim::new(installation.dir());
    let settings = installation.data().join("memgate.toml");
    fs::write(&settings, "[provisioner]\nimage = \"attacker.example/evil:1\"\n").unwrap();
    fs::set_permissions(&settings, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(installation.json(&["config", "check"])["provisioner"]["image"], "attacker.example/evil:1");
    chown(&settings, Some(12345), None).unwrap();
    let error = refused(&installation, &victim, &["config", "check"]);
    assert!(error.contains("belongs to user 12345"), "{error}");
    let named = ["config", "check", "--config", settings.to_str().unwrap()];
    assert!(refused(&installation, &victim, &named).contains("belongs to user 12345"));
    let sudo = installation.memgate(&named).env("SUDO_UID", "12345").output().unwrap();
    assert!(sudo.status.success(), "the user who runs sudo may name a file of his own");
    chown(&settings, Some(0), None).unwrap();
    fs::set_permissions(&settings, fs::Permissions::from_mode(0o664)).unwrap();
    assert!(refused(&installation, &victim, &["config", "check"]).contains("can be changed by other users"));
    fs::remove_file(&settings).unwrap();
    fs::set_permissions(installation.data(), fs::Permissions::from_mode(0o777)).unwrap();
    for command in [["user", "list"].as_slice(), &["down", "--purge"], &["token", "list", "ada@example.org"]]
    {
        let error = refused(&installation, &victim, command);
        assert!(error.contains("can be changed by every user"), "{error}");
    }
    fs::set_permissions(installation.dir(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refused(&installation, &victim, &["up"]).contains("can be changed by every user"));
}
