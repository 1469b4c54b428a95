//! The proxy in this process, over real sockets and a real store; and what its callers say to log in.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use daemon::Shutdown;
use store::{Database, LaneKey, NewToken, NewUser, Store, Token, TokenKey};
use tempfile::TempDir;

/// A proxy with a store of its own; stops when dropped.
pub(crate) struct Door {
    pub(crate) config: proxy::Config,
    pub(crate) folder: TempDir,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) store: Store,
    pub(crate) shutdown: Shutdown,
    pub(crate) proxy: Option<JoinHandle<Result<(), proxy::Error>>>,
}

impl Door {
    pub(crate) fn open() -> Self {
        Self::open_in(tempfile::tempdir().unwrap(), proxy::Config::default())
    }

    /// With its data in `folder`, and `config` but for the ports.
    pub(crate) fn open_in(folder: TempDir, config: proxy::Config) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let database = Database::Sqlite(folder.path().join("memgate.db"));
        let store = runtime.block_on(Store::open(&database)).unwrap();
        let shutdown = Shutdown::new();
        let config = proxy::Config { listen: free_port(), health: free_port(), ..config };
        let (token_key, lane_key) = (token_key(folder.path()), lane_key(folder.path()));
        let (own, stop, theirs) = (config.clone(), shutdown.clone(), database);
        let proxy = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let store = Store::open(&theirs).await.unwrap();
                proxy::run(own, store, token_key, lane_key, stop).await
            })
        });
        let door = Self { config, folder, runtime, store, shutdown, proxy: Some(proxy) };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(door.config.listen).is_err() {
            assert!(Instant::now() < deadline, "the proxy doesn't listen");
            std::thread::yield_now();
        }
        door
    }

    pub(crate) fn sign_up(&self, email: &str) -> Token {
        let token = NewToken::generate(&token_key(self.folder.path()), "test");
        let user = NewUser { email, password_hash: None, plan: "default", is_admin: false };
        self.runtime.block_on(self.store.sign_up(&user, &token)).unwrap();
        token.token
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shutdown.begin();
        if let Some(proxy) = self.proxy.take() {
            let ended = proxy.join();
            assert!(
                matches!(ended, Ok(Ok(()))) || std::thread::panicking(),
                "the proxy ended with {ended:?}"
            );
        }
    }
}

/// A port below those that the system hands out by itself: before it is bound, nobody's outgoing connection
/// may take it.
pub(crate) fn free_port() -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 1_000).unwrap() * 20;
    loop {
        let port = first + TAKEN.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

pub(crate) fn token_key(folder: &Path) -> TokenKey {
    TokenKey::load_or_create(&folder.join("token.key")).unwrap()
}

pub(crate) fn lane_key(folder: &Path) -> LaneKey {
    LaneKey::load_or_create(&folder.join("lane.key")).unwrap()
}

pub(crate) fn set(key: &str, payload: &str) -> String {
    format!("set {key} 0 0 {}\r\n{payload}\r\n", payload.len())
}

pub(crate) fn pair(token: &Token) -> String {
    format!("{} {}", token.id().username(), token.secret().reveal())
}

pub(crate) fn sasl(opcode: u8, mechanism: &str, message: &str) -> Vec<u8> {
    let mut out = vec![0x80, opcode];
    out.extend(u16::try_from(mechanism.len()).unwrap().to_be_bytes());
    out.extend([0; 4]);
    out.extend(u32::try_from(mechanism.len() + message.len()).unwrap().to_be_bytes());
    out.extend([0; 12]);
    out.extend(mechanism.bytes().chain(message.bytes()));
    out
}
