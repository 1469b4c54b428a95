//! A proxy in this process, with real sockets and a store of its own.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown as Direction, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use daemon::listener::{self, Listeners};
use daemon::{Process, Shutdown, Takeover, fd_passing};
use store::{
    Database, DenialRecord, LaneKey, LiveConnections, NewCache, NewToken, NewUser, Permissions, Plan, Store,
    Token, TokenId, TokenKey,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::exclusive::Shared;
use crate::{free_port, raise_file_limit, text};

const START_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the proxy may take to write to the store what it has seen.
const REPORT_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running proxy and its store. Stops the proxy when dropped, and fails if that ended with an error.
pub struct TestProxy {
    /// The proxy's settings, its addresses included.
    pub config: proxy::Config,
    /// The folder of the database and the keys.
    pub data_dir: Arc<TempDir>,
    /// For calls of the store.
    pub runtime: Runtime,
    /// The proxy's store.
    pub store: Store,
    /// Stops the proxy.
    pub shutdown: Shutdown,
    /// The proxy's thread, until a test joins it.
    pub thread: Option<JoinHandle<Result<(), proxy::Error>>>,
    takeover: Takeover,
    /// Kept for a successor.
    listeners: Vec<TcpListener>,
    _shared: Shared,
}

impl TestProxy {
    /// Starts a proxy with default settings.
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// Starts a proxy with settings that `change` makes from the defaults.
    pub fn start_with(change: impl FnOnce(&mut proxy::Config)) -> Self {
        let mut config = proxy::Config::default();
        change(&mut config);
        Self::start_in(tempfile::tempdir().unwrap(), config)
    }

    /// Starts a proxy with its data in `data_dir` and the settings of `config`, but on free ports: of 127.0.0.1, or of the
    /// IPv6 address that it listens on.
    pub fn start_in(data_dir: TempDir, config: proxy::Config) -> Self {
        let shared = Shared::take();
        let (data_dir, runtime) = (Arc::new(data_dir), Runtime::new().unwrap());
        let store = runtime.block_on(open_store(data_dir.path()));
        let shutdown = Shutdown::new();
        let mut listen = free_port();
        if config.listen.is_ipv6() {
            listen.set_ip(config.listen.ip());
        }
        let config = proxy::Config { listen, health: free_port(), ..config };
        let listeners = listener::bind(listen, config.workers()).unwrap();
        let takeover = Takeover::default();
        let process = process(&shutdown, &listeners, takeover.clone());
        let thread = Some(spawn(config.clone(), data_dir.path(), process));
        Self { config, data_dir, runtime, store, shutdown, thread, takeover, listeners, _shared: shared }
    }

    /// Starts a proxy that takes over from this one, as in an upgrade, and returns once it accepts connections. Its health endpoint
    /// has another address.
    pub fn start_successor(&self) -> Self {
        let (predecessor, successor) = fd_passing::message_pair().unwrap();
        let takeover = Takeover::from_predecessor(Some(predecessor));
        let shutdown = Shutdown::new();
        let config = proxy::Config { health: free_port(), ..self.config.clone() };
        let listeners: Vec<_> = self.listeners.iter().map(|kept| kept.try_clone().unwrap()).collect();
        let process = process(&shutdown, &listeners, takeover.clone());
        self.takeover.announce_successor(successor);
        let thread = Some(spawn(config.clone(), self.data_dir.path(), process));
        self.runtime.block_on(self.takeover.begun());
        let (data_dir, runtime, store) = (self.data_dir.clone(), Runtime::new().unwrap(), self.store.clone());
        Self {
            config,
            data_dir,
            runtime,
            store,
            shutdown,
            thread,
            takeover,
            listeners,
            _shared: Shared::take(),
        }
    }

    /// Starts a proxy on the store of this one, as a second one, that receives sessions through a socket.
    pub fn start_with_predecessor(&self, predecessor: OwnedFd) -> Self {
        self.start_other(Takeover::from_predecessor(Some(predecessor)))
    }

    /// A socket through which a process says that it takes over from this one, which sends it its sessions.
    pub fn announce_successor(&self) -> OwnedFd {
        let (predecessor, successor) = fd_passing::message_pair().unwrap();
        self.takeover.announce_successor(successor);
        predecessor
    }

    /// Starts a second proxy on the store of this one, as another machine would.
    pub fn start_second(&self) -> Self {
        self.start_other(Takeover::default())
    }

    fn start_other(&self, takeover: Takeover) -> Self {
        let data_dir = self.data_dir.clone();
        let shutdown = Shutdown::new();
        let config = proxy::Config { listen: free_port(), health: free_port(), ..self.config.clone() };
        let listeners = listener::bind(config.listen, config.workers()).unwrap();
        let process = process(&shutdown, &listeners, takeover.clone());
        let thread = Some(spawn(config.clone(), self.data_dir.path(), process));
        let (runtime, store) = (Runtime::new().unwrap(), self.store.clone());
        Self {
            config,
            data_dir,
            runtime,
            store,
            shutdown,
            thread,
            takeover,
            listeners,
            _shared: Shared::take(),
        }
    }

    /// Creates a user with a cache and returns the first token.
    pub fn sign_up(&self, email: &str) -> Token {
        let token = NewToken::generate(&token_key(self.data_dir.path()), "test");
        let user = NewUser { email, password_hash: None, plan: "default", is_admin: false };
        self.runtime.block_on(self.store.sign_up(&user, &token)).unwrap();
        token.token
    }

    /// Creates another token, limited to `permissions`, for the cache of `token`.
    pub fn create_token(&self, token: &Token, permissions: Permissions) -> Token {
        let new = NewToken::generate(&token_key(self.data_dir.path()), "limited").limited_to(permissions);
        self.runtime.block_on(self.store.create_token(&self.cache_id(token), &new)).unwrap();
        new.token
    }

    /// Creates another cache for the user of `token`, and returns a token of it.
    pub fn create_cache(&self, token: &Token, name: &str) -> Token {
        let new = NewToken::generate(&token_key(self.data_dir.path()), "other cache");
        self.runtime.block_on(async {
            let user_id = self.store.token(&token.id()).await.unwrap().unwrap().user_id;
            let name = name.parse().unwrap();
            let cache = NewCache { user_id: &user_id, name: &name, plan: None };
            let cache = self.store.create_cache(&cache, usize::MAX).await.unwrap();
            self.store.create_token(&cache.id, &new).await.unwrap();
        });
        new.token
    }

    /// Changes a token's permissions.
    pub fn update_permissions(&self, id: &TokenId, change: impl FnOnce(&mut Permissions)) {
        self.runtime.block_on(self.store.update_permissions(id, change)).unwrap();
    }

    /// Changes the plan of all users.
    pub fn update_plan(&self, change: impl FnOnce(&mut Plan)) {
        self.runtime.block_on(self.store.update_plan("default", change)).unwrap();
    }

    /// Returns the id of the cache that `token` belongs to.
    pub fn cache_id(&self, token: &Token) -> String {
        self.runtime.block_on(self.store.token(&token.id())).unwrap().unwrap().cache_id
    }

    /// Returns the id of the instance that `token` gives access to.
    pub fn instance_id(&self, token: &Token) -> String {
        self.runtime.block_on(self.store.grant(&token.id())).unwrap().unwrap().instance_id
    }

    /// Connects as a client that hasn't authenticated. Reads time out after 10 s.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.config.listen).unwrap();
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        stream
    }

    /// Connects and logs in with `token` by the text protocol.
    pub fn log_in(&self, token: &Token) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(text::login(token).as_bytes()).unwrap();
        let mut reply = [0; 8];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"STORED\r\n");
        stream
    }

    /// Sends `request` on a new connection, ends sending, and returns all bytes until the proxy closes.
    pub fn exchange(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        stream.shutdown(Direction::Write).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        reply
    }

    /// The same as [`exchange`](Self::exchange), for text.
    pub fn exchange_text(&self, request: &str) -> String {
        String::from_utf8(self.exchange(request.as_bytes())).unwrap()
    }

    /// Returns the HTTP response, head and body, to a GET of `path` on the health port.
    pub fn http_get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.config.health).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    /// Returns the proxy's metrics in Prometheus' text format.
    pub fn metrics(&self) -> String {
        self.http_get("/metrics")
    }

    /// Returns the value of a series of the metrics, which must be there.
    pub fn metric(&self, series: &str) -> f64 {
        let metrics = self.metrics();
        let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in {metrics}")).parse().unwrap()
    }

    /// Waits until the proxy has applied all changes of the store.
    pub fn wait_until_applied(&self) {
        let revision = self.runtime.block_on(self.store.revision()).unwrap() as f64;
        let deadline = Instant::now() + REPORT_TIMEOUT;
        while self.metric("memgate_proxy_feed_applied_revision") < revision {
            assert!(Instant::now() < deadline, "{}", self.metrics());
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits until the store holds `count` denial records of `token`, and returns them.
    pub fn wait_for_denials(&self, token: &Token, count: usize) -> Vec<DenialRecord> {
        let deadline = Instant::now() + REPORT_TIMEOUT;
        loop {
            let found = self.runtime.block_on(self.store.denials_of(token.id().as_str())).unwrap();
            if found.len() >= count {
                return found;
            }
            assert!(Instant::now() < deadline, "{found:?}");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits until `count` connections to the cache of `token` are live, and returns them.
    pub fn wait_for_connections(&self, token: &Token, count: usize) -> LiveConnections {
        let deadline = Instant::now() + REPORT_TIMEOUT;
        let instance = self.instance_id(token);
        loop {
            let live = self.runtime.block_on(self.store.live_connections(&instance)).unwrap();
            if live.connections.len() == count && live.unanswered == 0 {
                return live;
            }
            assert!(Instant::now() < deadline, "{live:?}");
        }
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        self.shutdown.begin();
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            assert!(
                matches!(result, Ok(Ok(()))) || std::thread::panicking(),
                "the proxy ended with {result:?}"
            );
        }
    }
}

/// Runs a proxy in a thread of its own, with as many open files as its role would have; returns when it accepts connections.
fn spawn(config: proxy::Config, data: &Path, process: Process) -> JoinHandle<Result<(), proxy::Error>> {
    raise_file_limit();
    let (health, data) = (config.health, data.to_owned());
    let thread = std::thread::spawn(move || {
        Runtime::new().unwrap().block_on(async {
            let store = open_store(&data).await;
            daemon::health::serve(config.health, &process.health, &process.shutdown).await.unwrap();
            proxy::run(config, store, token_key(&data), lane_key(&data), process).await
        })
    });
    let deadline = Instant::now() + START_TIMEOUT;
    while !is_ready(health) {
        assert!(Instant::now() < deadline, "the proxy doesn't get ready");
        std::thread::yield_now();
    }
    thread
}

/// Whether the proxy says that it accepts connections.
fn is_ready(health: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(health) else { return false };
    let request = "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut reply = String::new();
    let asked = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut reply));
    asked.is_ok() && reply.starts_with("HTTP/1.1 200")
}

fn process(shutdown: &Shutdown, listeners: &[TcpListener], takeover: Takeover) -> Process {
    let duplicates: Vec<_> = listeners.iter().map(|listener| listener.try_clone().unwrap()).collect();
    let (shutdown, listeners) = (shutdown.clone(), Listeners::from(duplicates));
    Process { shutdown, listeners, takeover, ..Process::default() }
}

async fn open_store(data: &Path) -> Store {
    Store::open(&Database::Sqlite(data.join("memgate.db"))).await.unwrap()
}

/// Loads or creates the key that secrets of tokens are hashed with.
pub fn token_key(data_dir: &Path) -> TokenKey {
    TokenKey::load_or_create(&data_dir.join("token.key")).unwrap()
}

/// Loads or creates the key that credentials of lanes are derived from.
pub fn lane_key(data_dir: &Path) -> LaneKey {
    LaneKey::load_or_create(&data_dir.join("lane.key")).unwrap()
}
