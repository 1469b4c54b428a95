//! A product for one test: starts it, observes it, and removes everything that it created.

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::database::OwnDatabase;

pub(crate) const MEMGATE: &str = env!("CARGO_BIN_EXE_memgate");
/// Text that must not occur in a log: parts of the clients' keys and values, and the prefix of lane credentials.
const NEVER_LOGGED: [&str; 4] = ["secret-key", "secret-value", r"\r\nEND", "lane:"];
/// The first start builds the image.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// A setting for what the provisioner finds out with a resync.
pub(crate) const LOOK_EVERY_SECOND: (&str, &str) = ("MEMGATE_PROVISIONER__RECONCILE_SECONDS", "1");

/// The second byte of the next installation's pool of networks, `10.N.0.0/16`.
static NEXT_POOL: AtomicU8 = AtomicU8::new(100);

/// A running `memgate up`. When dropped, it is stopped and purged.
pub(crate) struct Product {
    up: Option<Child>,
    installation: Installation,
    /// The lines that `up` printed on stdout.
    pub(crate) stdout_lines: Vec<String>,
    /// Passwords that must not occur in a log.
    secrets: Mutex<Vec<String>>,
}

/// An installation of memgate with its own data directory, ports and log.
pub(crate) struct Installation {
    dir: TempDir,
    ports: [u16; 5],
    /// A pool of its own: between `down` and the next start another installation could take its subnet.
    subnets: String,
    /// PostgreSQL, if that is its store.
    store_url: Option<String>,
    /// Its database, if the tests' server of PostgreSQL has it: each role has a user of its own there.
    database: Option<OwnDatabase>,
}

/// The output of `user add` and `token create`.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) email: String,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) token: String,
}

impl Installation {
    /// One whose store is SQLite, unless the tests are to run with PostgreSQL.
    pub(crate) fn new() -> Self {
        let database = OwnDatabase::create();
        Self { store_url: database.as_ref().map(OwnDatabase::url), database, ..Self::with_sqlite() }
    }

    /// One whose store is SQLite in any case.
    pub(crate) fn with_sqlite() -> Self {
        // A private directory, like /root: the unprivileged roles must be able to reach the data in it.
        let dir = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
        let subnets = format!("10.{}.0.0/16", NEXT_POOL.fetch_add(1, Ordering::Relaxed));
        let ports = std::array::from_fn(|_| testkit::free_port().port());
        Self { dir, ports, subnets, store_url: None, database: None }
    }

    /// One whose store is PostgreSQL.
    pub(crate) fn with_postgres(url: String) -> Self {
        Self { store_url: Some(url), ..Self::with_sqlite() }
    }

    /// Gives it the pool of networks of another one, whose backup it is to restore.
    pub(crate) fn share_subnets(&mut self, other: &Self) {
        self.subnets.clone_from(&other.subnets);
    }

    /// Whether its store is PostgreSQL.
    pub(crate) fn has_postgres(&self) -> bool {
        self.store_url.is_some()
    }

    /// The URL of its store, if that is PostgreSQL.
    pub(crate) fn store_url(&self) -> Option<&str> {
        self.store_url.as_deref()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn endpoint(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.ports[0]).into()
    }

    pub(crate) fn web(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.ports[3]).into()
    }

    /// The health endpoints of proxy, provisioner and web UI.
    pub(crate) fn health(&self) -> [SocketAddr; 3] {
        [1, 2, 4].map(|port| ([127, 0, 0, 1], self.ports[port]).into())
    }

    /// Its ports and networks as a settings file, for commands that don't see the environment.
    pub(crate) fn settings_file(&self) -> String {
        let [proxy, proxy_health, provisioner, web, web_health] =
            self.ports.map(|port| format!("\"127.0.0.1:{port}\""));
        format!(
            "[proxy]\nlisten = {proxy}\nhealth = {proxy_health}\n[webui]\nlisten = {web}\nhealth = {web_health}\n\
             [provisioner]\nhealth = {provisioner}\nsubnets = \"{}\"\n",
            self.subnets
        )
    }

    /// A `memgate` command for this installation, without the environment's own `MEMGATE_*` variables.
    pub(crate) fn memgate(&self, arguments: &[&str]) -> Command {
        self.command(Path::new(MEMGATE), arguments)
    }

    /// The same for another file.
    pub(crate) fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MEMGATE_") {
                command.env_remove(name);
            }
        }
        let keys =
            ["PROXY__LISTEN", "PROXY__HEALTH", "PROVISIONER__HEALTH", "WEBUI__LISTEN", "WEBUI__HEALTH"];
        for (key, port) in keys.iter().zip(self.ports) {
            command.env(format!("MEMGATE_{key}"), format!("127.0.0.1:{port}"));
        }
        command.env("MEMGATE_PROVISIONER__SUBNETS", &self.subnets);
        // They would be made for each test, and counted by some.
        command.env("MEMGATE_PROVISIONER__READY_INSTANCES", "0");
        if let Some(url) = &self.store_url {
            command.env("MEMGATE_STORE__URL", url);
        }
        command.env("MEMGATE_DATA", self.data()).args(arguments).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.memgate(arguments).output().unwrap()
    }

    /// Runs a command with `--json`, which must succeed, and parses its output.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.memgate(arguments).arg("--json").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// Address of a role's health endpoint.
    pub(crate) fn role_health(&self, role: &str) -> SocketAddr {
        let port = match role {
            "proxy" => self.ports[1],
            "provisioner" => self.ports[2],
            _ => self.ports[4],
        };
        ([127, 0, 0, 1], port).into()
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("memgate.log")
    }

    pub(crate) fn read_log(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Starts `memgate up` and waits until it is ready.
    pub(crate) fn up(&self) -> (Child, Vec<String>) {
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        // The most verbose log: at the end of the test it is searched for secrets.
        self.up_with(self.memgate(&["up"]).env("MEMGATE_LOG__FILTER", "trace").stderr(log))
    }

    /// The same with a prepared command.
    pub(crate) fn up_with(&self, command: &mut Command) -> (Child, Vec<String>) {
        if self.database.is_some() && !self.data().exists() {
            self.json(&["migrate", "--roles"]);
        }
        let mut up = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = up.stdout.take().unwrap();
        let lines = wait_for_lines(stdout, START_TIMEOUT);
        if lines.last().map(String::as_str) != Some("memgate is ready") {
            let _ = up.kill();
            let status = up.wait();
            panic!(
                "memgate up printed {lines:?} and exited with {status:?}; its log:\n{}",
                without_details(&self.read_log())
            );
        }
        (up, lines)
    }
}

/// Reads lines until `memgate is ready`, the end of the stream, or the timeout.
fn wait_for_lines(stdout: impl std::io::Read + Send + 'static, timeout: Duration) -> Vec<String> {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + timeout;
    let mut lines = Vec::new();
    while let Ok(line) = receive.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        lines.push(line);
        if lines.last().is_some_and(|line| line == "memgate is ready") {
            break;
        }
    }
    lines
}

impl Product {
    pub(crate) fn start() -> Self {
        Self::start_at(Installation::new())
    }

    pub(crate) fn start_at(installation: Installation) -> Self {
        let started = installation.up();
        Self::running(installation, started)
    }

    /// One with settings, as environment variables. Clients that send much would fill the most verbose log: it has the default's.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Self {
        let installation = Installation::new();
        let log = File::create(installation.log()).unwrap();
        let mut up = installation.memgate(&["up"]);
        let started = installation.up_with(up.envs(settings.iter().copied()).stderr(log));
        Self::running(installation, started)
    }

    /// A product that [`Installation::up_with`] has started.
    pub(crate) fn running(installation: Installation, started: (Child, Vec<String>)) -> Self {
        let (up, stdout_lines) = started;
        Self { up: Some(up), installation, stdout_lines, secrets: Mutex::default() }
    }

    /// Makes PostgreSQL its store from the next start on.
    pub(crate) fn use_postgres(&mut self, url: String) {
        self.installation.store_url = Some(url);
    }

    /// Restarts it after [`Product::interrupt`].
    pub(crate) fn restart(&mut self) {
        let (up, stdout_lines) = self.installation.up();
        self.up = Some(up);
        self.stdout_lines = stdout_lines;
    }

    /// Sends SIGINT, like Ctrl-C. Returns the time until everything has stopped.
    pub(crate) fn interrupt(&mut self) -> Duration {
        let started = Instant::now();
        if let Some(mut up) = self.up.take() {
            signal(up.id(), "INT");
            let deadline = Instant::now() + Duration::from_secs(20);
            wait_until(deadline, "memgate up exits", || up.try_wait().unwrap().is_some());
        }
        started.elapsed()
    }

    pub(crate) fn id(&self) -> String {
        self.json(&["status"])["installation"].as_str().unwrap().to_owned()
    }

    /// The process id of `memgate up`.
    pub(crate) fn supervisor(&self) -> u32 {
        self.up.as_ref().unwrap().id()
    }

    /// Names and process ids of the roles.
    pub(crate) fn roles(&self) -> Vec<(String, u32)> {
        let up = self.supervisor();
        let children = fs::read_to_string(format!("/proc/{up}/task/{up}/children")).unwrap();
        let role = |pid: &str| {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (command.split('\0').nth(1).unwrap_or_default().to_owned(), pid.parse().unwrap())
        };
        children.split_whitespace().map(role).collect()
    }

    pub(crate) fn role(&self, name: &str) -> Option<u32> {
        self.roles().into_iter().find(|(role, _)| role == name).map(|(_, pid)| pid)
    }

    /// Creates a user with a running cache.
    pub(crate) fn add_user(&self, email: &str) -> Credentials {
        self.credentials(&["user", "add", email])
    }

    /// Runs a command that creates a token. Its password must not occur in any log.
    pub(crate) fn credentials(&self, arguments: &[&str]) -> Credentials {
        let printed = self.json(arguments);
        let text = |key: &str| printed[key].as_str().unwrap_or_else(|| panic!("{key} is missing")).to_owned();
        assert_eq!(text("endpoint"), self.endpoint().to_string());
        self.secrets.lock().unwrap().push(text("password"));
        Credentials {
            email: text("email"),
            username: text("username"),
            password: text("password"),
            token: text("token"),
        }
    }

    /// Carries out an operation, which must be done in the end. Returns what it says.
    pub(crate) fn operate(&self, arguments: &[&str]) -> String {
        let operation = self.json(arguments);
        assert_eq!(operation["state"], "done", "{arguments:?}: {operation}");
        operation["message"].as_str().unwrap().to_owned()
    }

    /// Registers text that must not occur in any log at the end of the test.
    pub(crate) fn register_secret(&self, secret: &str) {
        self.secrets.lock().unwrap().push(secret.to_owned());
    }

    /// The id of the container that runs a user's cache.
    pub(crate) fn container(&self, email: &str) -> String {
        self.json(&["instance", "show", email])["container"].as_str().unwrap_or_default().to_owned()
    }
}

impl std::ops::Deref for Product {
    type Target = Installation;

    fn deref(&self) -> &Installation {
        &self.installation
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        self.interrupt();
        // A database of PostgreSQL isn't memgate's to remove.
        let purge: &[&str] = if self.has_postgres() { &["down"] } else { &["down", "--purge"] };
        let down = self.run(purge);
        // The name of a module is no secret of a lane.
        let log = self.read_log().replace("proxy::lane::", "");
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "the product's log:\n{}", without_details(&log));
            return;
        }
        assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
        let secrets = self.secrets.lock().unwrap();
        for secret in secrets.iter().map(String::as_str).chain(NEVER_LOGGED) {
            if let Some(line) = log.lines().find(|line| line.contains(secret)) {
                panic!("{secret} is in the log:\n{line}");
            }
        }
    }
}

/// A trace log without its trace and debug lines, for the report of a failed test.
fn without_details(log: &str) -> String {
    let detail = |line: &&str| [" TRACE ", " DEBUG "].iter().any(|level| line.contains(level));
    log.lines().filter(|line| !detail(line)).collect::<Vec<_>>().join("\n")
}

/// Waits for a condition; panics with `what` at the deadline.
pub(crate) fn wait_until(deadline: Instant, what: &str, mut holds: impl FnMut() -> bool) {
    while !holds() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn deadline_in(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

/// Runs `docker` and returns the words of its output.
pub(crate) fn docker(arguments: &[&str]) -> Vec<String> {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}

/// Everything that an installation still has in Docker and the firewall.
pub(crate) fn remaining_resources(installation: &str) -> Vec<String> {
    let label = format!("label=memgate={installation}");
    let mut remaining = docker(&["ps", "-aq", "--filter", &label]);
    remaining.extend(docker(&["network", "ls", "-q", "--filter", &label]));
    remaining.extend(docker(&["volume", "ls", "-q", "--filter", &label]));
    let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
    let tables = String::from_utf8_lossy(&tables.stdout).into_owned();
    remaining.extend(tables.lines().filter(|line| line.contains(installation)).map(str::to_owned));
    remaining
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether `./deploy/test --long` runs this test.
pub(crate) fn is_long() -> bool {
    std::env::var_os("MEMGATE_TEST_LONG").is_some()
}
