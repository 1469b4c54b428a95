//! A PostgreSQL server that a test can kill and start again.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::free_port;

/// PostgreSQL refuses to run as root.
const USER: &str = "postgres";
/// Its owner is trusted; all others need a password.
const ACCESS: &str = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A server with an empty database, on loopback. Killed when dropped, and by the kernel when the test process ends.
#[derive(Debug)]
pub struct Postgres {
    binaries: PathBuf,
    folder: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Postgres {
    /// Makes a cluster and starts its server. Needs root and the user `postgres`.
    pub fn start() -> Self {
        let (binaries, folder) = (binaries(), tempfile::tempdir().unwrap());
        chown(folder.path(), Some(id("-u")), Some(id("-g"))).unwrap();
        let mut initdb = as_user(&binaries.join("initdb"));
        initdb.args(["-A", "trust", "-E", "UTF8", "--no-locale", "-N", "-U", USER, "-D"]);
        let made = initdb.arg(folder.path().join("data")).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::write(folder.path().join("data/pg_hba.conf"), ACCESS).unwrap();
        let mut server = Self { binaries, folder, port: free_port().port(), process: None };
        server.start_again();
        server
    }

    /// The URL of its database.
    pub fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{USER}", self.port)
    }

    /// Runs SQL in the database with this URL, and returns the rows: each a line of values with spaces between them.
    pub fn query(url: &str, sql: &str) -> Vec<String> {
        let output = Command::new(binaries().join("psql"))
            .args(["-X", "-q", "-A", "-t", "-F", " ", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql])
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Kills the server, and with it all connections, as a crash of its machine would.
    pub fn kill(&mut self) {
        let pid = std::fs::read_to_string(self.folder.path().join("data/postmaster.pid")).unwrap();
        let pid = pid.lines().next().unwrap().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        self.process.take().unwrap().wait().unwrap();
    }

    /// Starts the server after it was killed, and waits until it takes connections.
    pub fn start_again(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.is_ready() {
            // While processes of the killed one still end, it doesn't start.
            if self.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some()) {
                self.process = Some(self.command().spawn().unwrap());
            }
            assert!(Instant::now() < deadline, "PostgreSQL doesn't start");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--reuid", USER, "--regid", USER, "--init-groups", "--"]);
        command.arg(self.binaries.join("postgres")).arg("-D").arg(self.folder.path().join("data"));
        command.arg("-k").arg(self.folder.path()).args(["-p", &self.port.to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn is_ready(&self) -> bool {
        let port = self.port.to_string();
        let mut asked = Command::new(self.binaries.join("pg_isready"));
        asked.args(["-q", "-h", "127.0.0.1", "-p", &port]).status().unwrap().success()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

fn as_user(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--init-groups", "--"]).arg(program).current_dir("/");
    command
}

fn id(flag: &str) -> u32 {
    let output = Command::new("id").args([flag, USER]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().expect("the user postgres exists")
}

/// The folder of the newest version's programs: Debian doesn't put it into the PATH.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.map(|entry| entry.path()).max_by_key(number);
    newest.expect("PostgreSQL is installed: `apt-get install postgresql`").join("bin")
}
