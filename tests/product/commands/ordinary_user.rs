//! Commands of a user who may not read the data: they say so, instead of that there is nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use super::migrated;
use crate::harness::{Installation, MEMGATE, is_root};

/// Runs a command as nobody, with the settings of the installation.
fn as_nobody(installation: &Installation, program: &str, arguments: &[&str]) -> Output {
    let prepared = installation.memgate(&[]);
    let variables = prepared.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]);
    command.envs(variables).args(arguments).output().unwrap()
}

//
#[test]
fn nothing_to_see_is_not_nothing_there() {
    if !is_root() {
        return;
    }
    let installation = migrated();
    fs::set_permissions(installation.dir(), Permissions::from_mode(0o755)).unwrap();
    // Where nobody can run it.
    let program = installation.dir().join("memgate");
    fs::copy(MEMGATE, &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let program = program.to_str().unwrap();
    let data = installation.data();
    for mode in [0o711, 0o700] {
        fs::set_permissions(&data, Permissions::from_mode(mode)).unwrap();
        for command in [
            ["down"].as_slice(),
            &["down", "--purge"],
            &["down", "--dry-run"],
            &["user", "list"],
            &["user", "add", "bob@example.org", "--no-wait"],
            &["token", "list", "ada@example.org"],
            &["instance", "list"],
            &["audit", "list"],
            &["migrate"],
        ] {
            let output = as_nobody(&installation, program, command);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{command:?}, mode {mode:o}: {stderr}");
            let told = ["Permission denied", "belongs to user"].iter().any(|text| stderr.contains(text))
                || stderr.contains("as root");
            assert!(told, "{command:?}, mode {mode:o}: {stderr}");
            let wrong = ["nothing to do", "is missing", "no memgate data", "os error"];
            assert!(!wrong.iter().any(|text| stderr.contains(text)), "{command:?}, mode {mode:o}: {stderr}");
        }
        let output = as_nobody(&installation, program, &["down"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("Permission denied") && stderr.contains("run this as root"), "{stderr}");
        // `config check` says what it couldn't look at.
        let output = as_nobody(&installation, program, &["config", "check", "--set", "webui.plan=gold"]);
        let printed = [&output.stdout[..], &output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed);
        assert!(printed.contains("Permission denied"), "mode {mode:o}: {printed}");
        assert!(!printed.contains("there is no such plan"), "mode {mode:o}: {printed}");
    }
    assert!(data.join("token.key").exists() && data.join("db/memgate.db").exists());
}
