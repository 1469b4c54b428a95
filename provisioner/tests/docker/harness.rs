//! An installation for one test: a store, a provisioner, and their removal.

use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use daemon::{Process, Shutdown};
use provisioner::Config;
use serde_json::Value;
use store::{
    Database, DesiredState, Instance, InstanceState, LaneKey, NewToken, NewUser, Route, Store, TokenKey,
};
use tokio::sync::Notify;

static LOG: std::sync::Once = std::sync::Once::new();

/// Interval at which conditions are checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

pub(crate) struct Installation {
    pub(crate) id: String,
    pub(crate) store: Store,
    pub(crate) config: Config,
    pub(crate) lane_key: LaneKey,
    token_key: TokenKey,
    running: Option<Provisioner>,
    dir: tempfile::TempDir,
}

/// A provisioner that runs, until it is dropped.
pub(crate) struct Provisioner {
    shutdown: Shutdown,
    crash: Arc<Notify>,
    thread: Option<JoinHandle<Result<(), provisioner::Error>>>,
}

impl Provisioner {
    /// Waits until it ends by itself, which is an error.
    pub(crate) fn error(mut self) -> provisioner::Error {
        self.thread.take().expect("it runs").join().expect("no panic").expect_err("it ended without an error")
    }

    /// Stops it. Returns how long that took.
    pub(crate) fn stop(mut self) -> Duration {
        let started = Instant::now();
        self.shutdown.begin();
        self.thread.take().expect("it runs").join().expect("no panic").expect("no error");
        started.elapsed()
    }
}

impl Provisioner {
    /// Ends it in the middle of whatever it does.
    fn crash(mut self) {
        self.crash.notify_one();
        self.thread.take().expect("it runs").join().expect("no panic").expect("no error");
    }
}

impl Drop for Provisioner {
    fn drop(&mut self) {
        self.shutdown.begin();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Installation {
    /// An installation whose provisioner is ready.
    pub(crate) async fn start() -> Self {
        let mut installation = Self::new().await;
        installation.start_provisioner();
        installation.until_ready().await;
        installation
    }

    /// An installation without a provisioner.
    pub(crate) async fn new() -> Self {
        LOG.call_once(|| daemon::telemetry::init("provisioner=info", daemon::telemetry::LogFormat::Text));
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Database::Sqlite(dir.path().join("memgate.db"))).await.unwrap();
        Self {
            id: store::new_installation_id(),
            store,
            config: Config { health: free_port(), ready_instances: 0, ..Config::default() },
            lane_key: LaneKey::load_or_create(&dir.path().join("lane.key")).unwrap(),
            token_key: TokenKey::load_or_create(&dir.path().join("token.key")).unwrap(),
            running: None,
            dir,
        }
    }

    pub(crate) fn start_provisioner(&mut self) {
        assert!(self.running.is_none());
        self.running = Some(self.spawn(self.config.clone()));
    }

    /// Starts another provisioner of this installation; the config has another health port. Declared after the
    /// installation, it stops before that is removed, also when a test fails.
    pub(crate) fn spawn(&self, config: Config) -> Provisioner {
        let shutdown = Shutdown::new();
        let process = Process { shutdown: shutdown.clone(), ..Process::default() };
        let (key, path) = (self.lane_key.clone(), self.dir.path().join("memgate.db"));
        let id = self.id.clone();
        let crash = Arc::new(Notify::new());
        let crashed = Arc::clone(&crash);
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let store = Store::open(&Database::Sqlite(path)).await.unwrap();
                daemon::health::serve(config.health, &process.health, &process.shutdown).await.unwrap();
                tokio::select! {
                    ended = provisioner::run(config, store, &id, key, process) => ended,
                    () = crashed.notified() => Ok(()),
                }
            })
        });
        Provisioner { shutdown, crash, thread: Some(thread) }
    }

    /// Stops the provisioner. Returns how long that took.
    pub(crate) fn stop_provisioner(&mut self) -> Duration {
        self.running.take().expect("it runs").stop()
    }

    /// Ends the provisioner without a shutdown.
    pub(crate) fn crash_provisioner(&mut self) {
        self.running.take().expect("it runs").crash();
    }

    pub(crate) async fn until_ready(&self) {
        until("ready", Duration::from_secs(60), || async { ready(self.config.health).then_some(()) }).await;
    }

    pub(crate) async fn sign_up(&self) -> Instance {
        let email = format!("{}@example.org", rand::random::<u64>());
        let new = NewUser { email: &email, password_hash: None, plan: "default", is_admin: false };
        let user = self.store.sign_up(&new, &NewToken::generate(&self.token_key, "first")).await.unwrap();
        self.store.first_instance_of(&user.id).await.unwrap().unwrap()
    }

    /// Signs a user up and waits for the cache.
    pub(crate) async fn running_instance(&self) -> (Instance, Route) {
        let instance = self.sign_up().await;
        let route = self.until_running(&instance, 0).await;
        (instance, route)
    }

    /// Waits until the instance runs in a later generation than `after`, and returns its route.
    pub(crate) async fn until_running(&self, instance: &Instance, after: i64) -> Route {
        self.until_route(instance, |r| r.state == InstanceState::Running && r.generation > after).await
    }

    pub(crate) async fn until_route(&self, instance: &Instance, matches: impl Fn(&Route) -> bool) -> Route {
        until("the route", Duration::from_secs(30), || async {
            self.route(instance).await.filter(|route| matches(route))
        })
        .await
    }

    pub(crate) async fn route(&self, instance: &Instance) -> Option<Route> {
        self.store.instance(&instance.id).await.unwrap().unwrap().route
    }

    pub(crate) fn container(&self, instance: &Instance) -> String {
        format!("memgate-{}-{}", self.id, instance.id)
    }

    /// Logs in as a lane does, sends one line, and returns the reply to it.
    pub(crate) fn request(&self, instance: &Instance, route: &Route, line: &str) -> Option<String> {
        let address: SocketAddr = format!("{}:11211", route.address.as_ref()?).parse().unwrap();
        let mut lane = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        lane.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let credential = self.lane_key.credential(&instance.id, route.generation);
        write!(lane, "{}{line}\r\n", credential.login_command()).ok()?;
        let mut replies = BufReader::new(lane).lines();
        assert_eq!(replies.next()?.ok()?, "STORED");
        replies.next()?.ok()
    }

    /// Stores `count` items of `size` bytes over one lane, and waits until memcached has read all.
    pub(crate) fn fill(
        &self,
        instance: &Instance,
        route: &Route,
        lane: usize,
        (size, count): (usize, usize),
    ) {
        let value = vec![b'v'; size];
        // Quiet stores are answered only on failure; memcached may run out of memory.
        self.pipeline(instance, route, |requests| {
            for item in 0..count {
                write!(requests, "ms {size}-{lane}-{item} {size} q\r\n")?;
                requests.write_all(&value)?;
                requests.write_all(b"\r\n")?;
            }
            Ok(())
        });
    }

    /// How many of the items are there that `fill` stored with lane 0.
    pub(crate) fn hits(&self, instance: &Instance, route: &Route, (size, count): (usize, usize)) -> usize {
        let replies = self.pipeline(instance, route, |requests| {
            (0..count).try_for_each(|item| write!(requests, "mg {size}-0-{item}\r\n"))
        });
        replies.iter().filter(|reply| *reply == "HD").count()
    }

    /// Logs in as a lane does, sends requests at once, and returns the lines of all replies.
    fn pipeline(
        &self,
        instance: &Instance,
        route: &Route,
        write: impl FnOnce(&mut BufWriter<TcpStream>) -> std::io::Result<()>,
    ) -> Vec<String> {
        let address: SocketAddr = format!("{}:11211", route.address.as_ref().unwrap()).parse().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        let mut requests = BufWriter::new(stream.try_clone().unwrap());
        let credential = self.lane_key.credential(&instance.id, route.generation);
        requests.write_all(credential.login_command().as_bytes()).unwrap();
        write(&mut requests).unwrap();
        requests.write_all(b"mn\r\n").unwrap();
        requests.flush().unwrap();
        let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
        assert_eq!(lines.next().as_deref(), Some("STORED"));
        lines.take_while(|line| line != "MN").collect()
    }

    /// Changes the database as another program does.
    pub(crate) fn execute(&self, sql: &str) {
        let program = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], timeout=20); \
                       db.executescript(sys.argv[2]); db.commit()";
        let database = self.dir.path().join("memgate.db");
        output("python3", &["-c", program, database.to_str().unwrap(), sql]);
    }

    /// Changes the limits of an instance that is to run.
    pub(crate) async fn set_limits(&self, instance: &Instance, assignments: &str) {
        self.execute(&format!("UPDATE instances SET {assignments} WHERE id = '{}'", instance.id));
        // Tells the provisioner.
        self.store.set_desired_state(&instance.id, DesiredState::Running).await.unwrap();
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        self.running = None;
        let id = self.id.clone();
        let removed =
            std::thread::spawn(move || runtime().block_on(provisioner::teardown(&Config::default(), &id)))
                .join();
        if !std::thread::panicking() {
            removed.expect("no panic").expect("all removed");
        }
    }
}

/// Waits until `check` returns a value. Fails, naming `what`, after `within`.
pub(crate) async fn until<T, F>(what: &str, within: Duration, mut check: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Waits until that many more resyncs have ended.
pub(crate) async fn resyncs(health: SocketAddr, count: u64) {
    let ended = || {
        let metrics = get(health, "/metrics").unwrap_or_default();
        let name = "memgate_provisioner_resync_duration_seconds_count ";
        metrics.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok()).unwrap_or(0)
    };
    let before = ended();
    until("resyncs", Duration::from_secs(60), || async { (ended() >= before + count).then_some(()) }).await;
}

/// The response of `/readyz`.
pub(crate) fn readyz(health: SocketAddr) -> Option<String> {
    get(health, "/readyz")
}

pub(crate) fn ready(health: SocketAddr) -> bool {
    readyz(health).is_some_and(|response| response.starts_with("HTTP/1.1 200"))
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// The output of a command that must not fail.
pub(crate) fn output(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).output().unwrap();
    assert!(output.status.success(), "{command} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn docker(arguments: &[&str]) -> String {
    output("docker", arguments)
}

pub(crate) fn inspect(kind: &str, name: &str) -> Value {
    serde_json::from_str(&docker(&[kind, "inspect", "-f", "{{json .}}", name])).unwrap()
}

/// The number of an installation's resources of one kind.
pub(crate) fn count(kind: &str, id: &str) -> usize {
    let filter = match kind {
        "image" => format!("reference=memgate-{id}-memcached"),
        _ => format!("label=memgate={id}"),
    };
    let all: &[&str] = if kind == "container" { &["-a"] } else { &[] };
    docker(&[&[kind, "ls", "-q", "--filter", &filter], all].concat()).lines().count()
}

pub(crate) fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
