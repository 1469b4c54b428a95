//! README from a bare clone, as an ordinary user of this machine who may use sudo: `./deploy/up` and the blocks run as they are
//! written. Only the ports are others, and the build is the one that this test belongs to.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::client_libraries::tool;
use crate::documents::{blocks, read};
use crate::harness::{Installation, MEMGATE, Product, is_root, signal};

/// Name of the users, which the process id follows.
const USER: &str = "memgate-test-";
const SUDOERS: &str = "/etc/sudoers.d";

/// A user who may run everything with sudo, and whose password nobody knows. Removed when dropped.
struct OrdinaryUser {
    name: String,
    home: PathBuf,
}

/// Stops the `memgate up` that a failed start leaves behind: it belongs to root, and sudo started it.
struct StopUp(PathBuf);

fn succeed(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl OrdinaryUser {
    fn create(home: &Path) -> Self {
        remove_users_of_killed_tests();
        let user = Self { name: format!("{USER}{}", std::process::id()), home: home.to_path_buf() };
        let home = home.to_str().unwrap();
        succeed("useradd", &["--no-create-home", "--home-dir", home, "--shell", "/bin/bash", &user.name]);
        user.allow_sudo("");
        let path = user.run("sudo printenv PATH");
        let path = String::from_utf8(path.stdout).unwrap();
        assert!(path.contains("/usr/local/bin"), "sudo finds what README links there: {path}");
        // README's link goes to this user's folder instead, which sudo searches for this user only.
        let bin = user.home.join("bin");
        user.allow_sudo(&format!(
            "Defaults:{} secure_path=\"{}:{}\"\n",
            user.name,
            bin.display(),
            path.trim()
        ));
        user
    }

    fn allow_sudo(&self, defaults: &str) {
        let file = Path::new(SUDOERS).join(&self.name);
        fs::write(&file, format!("{defaults}{} ALL=(ALL:ALL) NOPASSWD: ALL\n", self.name)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o440)).unwrap();
        succeed("visudo", &["--check", "--quiet", "--file", file.to_str().unwrap()]);
    }

    /// A shell of this user in the clone, with the variables of a new login.
    fn shell(&self, script: &str) -> Command {
        let mut shell = Command::new("setpriv");
        shell.args(["--reuid", &self.name, "--regid", &self.name, "--init-groups", "--reset-env", "--"]);
        let path = format!("PATH=$HOME/.cargo/bin:$HOME/bin:$PATH; {script}");
        shell.args(["bash", "-c", &path]).current_dir(&self.home);
        shell
    }

    fn run(&self, script: &str) -> Output {
        self.shell(script).output().unwrap()
    }

    /// Writes a program of this user.
    fn program(&self, name: &str, script: &str) {
        let path = self.home.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }
}

impl Drop for OrdinaryUser {
    fn drop(&mut self) {
        remove_user(&self.name);
    }
}

impl Drop for StopUp {
    fn drop(&mut self) {
        let lock = fs::read_to_string(self.0.join("up.lock")).unwrap_or_default();
        let Some(pid) = lock.lines().next().and_then(|line| line.parse().ok()) else { return };
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if command.contains("memgate\0up") {
            signal(pid, "TERM");
        }
    }
}

fn remove_user(name: &str) {
    let _ = fs::remove_file(Path::new(SUDOERS).join(name));
    let _ = Command::new("userdel").args(["--force", name]).output();
}

fn remove_users_of_killed_tests() {
    for entry in fs::read_dir(SUDOERS).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(USER).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove_user(&name);
        }
    }
}

/// What git knows of this repository, without what it ignores: a build, for example.
fn clone_to(folder: &Path) {
    let files = "cd \"$0\" && git -c safe.directory=* ls-files -z --cached --others --exclude-standard \
                 | tar --create --null --files-from=- --ignore-failed-read | tar --extract --directory=\"$1\" --no-same-owner";
    succeed("bash", &["-o", "pipefail", "-c", files, env!("CARGO_MANIFEST_DIR"), folder.to_str().unwrap()]);
}

/// The Python libraries that README's examples need, which `pip` would install; with the distribution's Python, because the
/// one that they were installed with may be in root's home.
fn give_python(user: &OrdinaryUser) {
    let python = tool("MEMGATE_TEST_PYTHON", "target/tools/python/bin/python");
    let ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])";
    let installed = succeed(python.to_str().unwrap(), &["-c", ask]);
    let libraries = user.home.join("libraries");
    succeed("cp", &["--recursive", installed.trim(), libraries.to_str().unwrap()]);
    user.program("bin/python3", &format!("PYTHONPATH={} exec /usr/bin/python3 \"$@\"", libraries.display()));
}

#[test]
fn readme_runs_from_a_bare_clone_with_sudo() {
    if !is_root() {
        return;
    }
    let installation = Installation::with_sqlite();
    let folder = installation.dir().to_path_buf();
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    let user = OrdinaryUser::create(&folder);
    clone_to(&folder);
    give_python(&user);
    // What cargo would build is built.
    fs::copy(MEMGATE, folder.join("built")).unwrap();
    let build = "mkdir -p \"$HOME/target/release\" && mv \"$HOME/built\" \"$HOME/target/release/memgate\"";
    user.program(
        ".cargo/bin/cargo",
        &format!("if [ \"$1\" = --version ]; then echo cargo 1.99.0; else {build}; fi"),
    );
    let owner = format!("{0}:{0}", user.name);
    succeed("chown", &["--recursive", &owner, folder.to_str().unwrap()]);
    // The ports of this machine may be taken.
    fs::create_dir(installation.data()).unwrap();
    fs::write(installation.data().join("memgate.toml"), installation.settings_file()).unwrap();
    let _stop_up = StopUp(installation.data());
    let log = File::create(installation.log()).unwrap();
    let started = installation.up_with(user.shell("exec ./deploy/up").stderr(log));
    let product = Product::running(installation, started);
    let log = product.read_log();
    assert!(log.contains("building memgate") && log.contains("sudo ln -sf"), "{log}");
    let mut printed = String::new();
    for block in blocks(&read("README.md")) {
        let output = user.run(&block.script(&product, &folder, true));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}\n{stderr}", block.text);
        printed.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    let ada: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("ada.json")).unwrap()).unwrap();
    product.register_secret(ada["password"].as_str().unwrap());
    assert!(printed.contains("VALUE greeting 0 5\r\nhello\r\nEND"), "{printed}");
    assert!(printed.matches("hello").count() >= 5, "memccat, text, TLS, and Python twice: {printed}");
    let shown = product.json(&["token", "show", ada["username"].as_str().unwrap()]);
    assert!(shown["revoked_at"].is_i64(), "the last block reports the token as leaked");
}
