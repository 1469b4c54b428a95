//! How fast a token dies: two proxies, five hundred busy connections, and the time from the command to the
//! last answer that anybody got by it.

#[path = "support/door.rs"]
mod door;
#[path = "support/memcached.rs"]
mod memcached;

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use daemon::Shutdown;
use store::{Database, NewToken, Permissions, Scopes, Store, Token, TokenId, now};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use door::{Door, free_port, lane_key, pair, sasl, set, token_key};
use memcached::{Memcached, Program};

const CONNECTIONS: usize = 500;
/// Each with connections to both proxies.
const TOKENS: usize = 25;
/// From the command to the last answer.
const AT_MOST: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);
/// A client asks so often: all together are what this machine bears beside its other tests.
const PAUSE: Duration = Duration::from_millis(20);

/// Another proxy of the same installation, with a store's connection of its own; stops when dropped.
struct Second {
    listen: SocketAddr,
    shutdown: Shutdown,
    thread: Option<JoinHandle<()>>,
}

impl Second {
    fn beside(door: &Door) -> Self {
        let config = proxy::Config { listen: free_port(), health: free_port(), ..door.config.clone() };
        let (listen, shutdown, folder) = (config.listen, Shutdown::new(), door.folder.path().to_owned());
        let stop = shutdown.clone();
        let thread = std::thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(async {
                let store = Store::open(&Database::Sqlite(folder.join("memgate.db"))).await.unwrap();
                proxy::run(config, store, token_key(&folder), lane_key(&folder), stop).await.unwrap();
            });
        });
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(listen).is_err() {
            assert!(Instant::now() < deadline, "the second proxy doesn't listen");
            std::thread::yield_now();
        }
        Self { listen, shutdown, thread: Some(thread) }
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        self.shutdown.begin();
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking(), "the second proxy panicked");
        }
    }
}

struct Rig {
    // Dropped in this order: clients are gone by then.
    second: Second,
    door: Door,
    user_id: String,
    _memcached: Memcached,
}

/// When a connection was last served.
struct Served {
    token: TokenId,
    last: Instant,
}

impl Rig {
    fn new(address: &str) -> Self {
        let door = Door::open();
        let first = door.sign_up("ada@example.org");
        let memcached = Memcached::start_program(Program::debian(), &door, &first, address);
        let user_id = door.runtime.block_on(door.store.token(&first.id())).unwrap().unwrap().user_id;
        Self { second: Second::beside(&door), door, user_id, _memcached: memcached }
    }

    fn tokens(&self, permissions: &Permissions) -> Vec<Token> {
        let key = token_key(self.door.folder.path());
        let make = || async {
            let token = NewToken::generate(&key, "short-lived").limited_to(permissions.clone());
            self.door.store.create_token(&self.user_id, &token).await.unwrap();
            token.token
        };
        self.door.runtime.block_on(async {
            let mut tokens = Vec::new();
            for _ in 0..TOKENS {
                tokens.push(make().await);
            }
            tokens
        })
    }

    /// Has all connections busy, does `command` to each token, one after the other, and gives how long after
    /// its command (or the time that it names) each connection was still served.
    async fn measure<F: Future<Output = Instant>>(
        &self,
        tokens: &[Token],
        command: impl Fn(TokenId) -> F,
    ) -> Vec<Duration> {
        let mut clients = JoinSet::new();
        for number in 0..CONNECTIONS {
            let token = &tokens[number % TOKENS];
            // Twice TOKENS in a row go to the one, then to the other.
            let proxy = if (number / TOKENS).is_multiple_of(2) {
                self.door.config.listen
            } else {
                self.second.listen
            };
            let speech = if number.is_multiple_of(2) { Speech::text(token) } else { Speech::binary(token) };
            let stream = speech.log_in(proxy).await;
            clients.spawn(speech.keep_busy(stream, token.id()));
        }
        let mut commanded = Vec::new();
        for token in tokens {
            commanded.push((token.id(), command(token.id()).await));
        }
        let mut after = Vec::new();
        while let Some(served) = clients.join_next().await {
            let Served { token, last } = served.unwrap();
            let (_, when) = commanded.iter().find(|(id, _)| *id == token).unwrap();
            after.push(last.saturating_duration_since(*when));
        }
        after
    }
}

/// What a client says, and what it hears when it is served.
struct Speech {
    login: Vec<u8>,
    welcome: &'static [u8],
    get: Vec<u8>,
    miss: Vec<u8>,
}

impl Speech {
    fn text(token: &Token) -> Self {
        Self {
            login: set("x", &pair(token)).into_bytes(),
            welcome: b"STORED\r\n",
            get: b"get a\r\n".to_vec(),
            miss: b"END\r\n".to_vec(),
        }
    }

    fn binary(token: &Token) -> Self {
        let plain = format!("\0{}\0{}", token.id().username(), token.secret().reveal());
        let miss = [&[0x81, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9][..], &[0; 12], b"Not found"];
        Self {
            login: sasl(0x21, "PLAIN", &plain),
            welcome: b"\x81\x21\0\0\0\0\0\0\0\0\0\x0d\0\0\0\0\0\0\0\0\0\0\0\0Authenticated",
            get: sasl(0x00, "a", ""),
            miss: miss.concat(),
        }
    }

    async fn log_in(&self, proxy: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream.write_all(&self.login).await.unwrap();
        let mut said = vec![0; self.welcome.len()];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(said, self.welcome);
        stream
    }

    /// Asks until it isn't served any more.
    async fn keep_busy(self, mut stream: TcpStream, token: TokenId) -> Served {
        let deadline = Instant::now() + PATIENCE * 3;
        let mut last = Instant::now();
        let mut said = vec![0; self.miss.len()];
        let mut pause = tokio::time::interval(PAUSE);
        loop {
            pause.tick().await;
            let asked = async {
                stream.write_all(&self.get).await?;
                stream.read_exact(&mut said).await
            };
            match asked.await {
                Ok(_) if said == self.miss => last = Instant::now(),
                // Refused, or the end of the connection.
                _ => return Served { token, last },
            }
            assert!(last < deadline, "{token:?} is served for ever");
        }
    }
}

fn check(what: &str, mut after: Vec<Duration>) {
    after.sort_unstable();
    let at = |percent: usize| after[(after.len() * percent / 100).min(after.len() - 1)];
    let figures = format!(
        "{what}: {} connections, 2 proxies: p50 {:?}, p99 {:?}, max {:?}",
        after.len(),
        at(50),
        at(99),
        after[after.len() - 1]
    );
    println!("{figures}");
    assert_eq!(after.len(), CONNECTIONS);
    assert!(at(99) <= AT_MOST, "{figures}");
}

#[test]
fn a_stolen_token_dies_within_a_second_on_every_proxy() {
    let rig = Rig::new("10.214.7.114");
    let store = &rig.door.store;
    let runtime = &rig.door.runtime;

    let tokens = rig.tokens(&Permissions::ALL);
    let revoked = runtime.block_on(rig.measure(&tokens, |id| async move {
        let began = Instant::now();
        store.revoke_token(&id).await.unwrap();
        began
    }));
    check("revoked", revoked);

    let tokens = rig.tokens(&Permissions::ALL);
    let narrowed = runtime.block_on(rig.measure(&tokens, |id| async move {
        let began = Instant::now();
        store.update_permissions(&id, |permissions| permissions.scopes = Scopes::WRITE).await.unwrap();
        began
    }));
    check("narrowed", narrowed);

    let tokens = rig.tokens(&Permissions::ALL);
    let expired = runtime.block_on(rig.measure(&tokens, |id| async move {
        let (began, lifetime) = (Instant::now(), Duration::from_millis(1500));
        let ends_at = now() + 1500;
        store.update_permissions(&id, |permissions| permissions.expires_at = Some(ends_at)).await.unwrap();
        began + lifetime
    }));
    check("expired", expired);
}
