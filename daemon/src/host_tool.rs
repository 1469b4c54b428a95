//! Programs of the operating system that a role or command runs, such as nft.

use std::process::Command;

/// Where root looks for programs. An inherited PATH may name folders that other users write.
const ROOT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command that runs a program of the system. Root finds it in the folders of the system only, and so does what it
/// runs itself; other users in their own PATH.
#[must_use]
pub fn host_tool(program: &str) -> Command {
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        command.env("PATH", ROOT_PATH);
    }
    command
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    //
    #[test]
    fn root_runs_no_program_of_an_inherited_path() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let planted = dir.path().join("getent");
        fs::write(&planted, "#!/bin/sh\necho planted\n").unwrap();
        fs::set_permissions(&planted, fs::Permissions::from_mode(0o755)).unwrap();
        let this = std::env::current_exe().unwrap();
        let path = format!("{}:{ROOT_PATH}", dir.path().display());
        let arguments = ["--ignored", "--exact", "host_tool::tests::getent_in_the_path_of_this_process"];
        let run = Command::new(this).args(arguments).env("PATH", path).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    }

    #[test]
    #[ignore = "runs in a process of its own, with a planted program in its PATH"]
    fn getent_in_the_path_of_this_process() {
        let text = |command: &mut Command| String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert_eq!(text(&mut Command::new("getent")), "planted\n");
        assert!(text(host_tool("getent").args(["passwd", "root"])).starts_with("root:"));
        assert_eq!(text(host_tool("sh").args(["-c", "echo $PATH"])).trim_end(), ROOT_PATH);
    }
}
