//! How fast a revocation propagates: two proxies, 500 busy connections, and the time from the command to
//! the last reply that any of them got. Runs while no other proxy does.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use store::{NewToken, Permissions, Scopes, Token, TokenId, now};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use testkit::{Memcached, TestProxy, binary, exclusive, text, token_key};

const CONNECTIONS: usize = 500;
/// Tokens, each with connections to both proxies.
const TOKENS: usize = 25;
/// From the command to the last reply.
const PROPAGATION_MAX: Duration = Duration::from_secs(1);
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);
/// Interval between requests of one client: all together must not overload the machine.
const REQUEST_INTERVAL: Duration = Duration::from_millis(20);

struct Setup {
    // Fields are dropped in this order: the proxies first.
    second: TestProxy,
    proxy: TestProxy,
    cache_id: String,
    _memcached: Memcached,
}

/// The time of the last successful reply of a connection.
struct Served {
    token: TokenId,
    last: Instant,
}

impl Setup {
    fn new(address: &str) -> Self {
        let proxy = TestProxy::start();
        let first = proxy.sign_up("ada@example.org");
        let memcached = Memcached::start(&proxy, &first, address);
        let cache_id = proxy.runtime.block_on(proxy.store.token(&first.id())).unwrap().unwrap().cache_id;
        Self { second: proxy.start_second(), proxy, cache_id, _memcached: memcached }
    }

    fn tokens(&self, permissions: &Permissions) -> Vec<Token> {
        let key = token_key(self.proxy.data_dir.path());
        let make = || async {
            let token = NewToken::generate(&key, "short-lived").limited_to(permissions.clone());
            self.proxy.store.create_token(&self.cache_id, &token).await.unwrap();
            token.token
        };
        self.proxy.runtime.block_on(async {
            let mut tokens = Vec::new();
            for _ in 0..TOKENS {
                tokens.push(make().await);
            }
            tokens
        })
    }

    /// Keeps all connections busy, runs `command` for each token in turn, and returns for how long
    /// after it (or after the time that it returns) each connection was still served.
    async fn measure<F: Future<Output = Instant>>(
        &self,
        tokens: &[Token],
        command: impl Fn(TokenId) -> F,
    ) -> Vec<Duration> {
        let mut clients = JoinSet::new();
        for number in 0..CONNECTIONS {
            let token = &tokens[number % TOKENS];
            // Two connections per token and proxy, in turn.
            let proxy = if (number / TOKENS).is_multiple_of(2) {
                self.proxy.config.listen
            } else {
                self.second.config.listen
            };
            let protocol = if number.is_multiple_of(2) {
                ClientProtocol::text(token)
            } else {
                ClientProtocol::binary(token)
            };
            let stream = protocol.log_in(proxy).await;
            clients.spawn(protocol.send_requests(stream, token.id()));
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

/// What a client sends, and the replies when it is served.
struct ClientProtocol {
    login: Vec<u8>,
    welcome: &'static [u8],
    get: Vec<u8>,
    miss: Vec<u8>,
}

impl ClientProtocol {
    fn text(token: &Token) -> Self {
        Self {
            login: text::login(token).into_bytes(),
            welcome: b"STORED\r\n",
            get: b"get a\r\n".to_vec(),
            miss: b"END\r\n".to_vec(),
        }
    }

    fn binary(token: &Token) -> Self {
        let plain = binary::plain(token);
        let miss = [&[0x81, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9][..], &[0; 12], b"Not found"];
        Self {
            login: binary::request(0x21, "PLAIN", &plain),
            welcome: b"\x81\x21\0\0\0\0\0\0\0\0\0\x0d\0\0\0\0\0\0\0\0\0\0\0\0Authenticated",
            get: binary::request(0x00, "a", ""),
            miss: miss.concat(),
        }
    }

    async fn log_in(&self, proxy: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream.write_all(&self.login).await.unwrap();
        let mut reply = vec![0; self.welcome.len()];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply, self.welcome);
        stream
    }

    /// Sends requests until one is denied or the connection closes.
    async fn send_requests(self, mut stream: TcpStream, token: TokenId) -> Served {
        let deadline = Instant::now() + REPLY_TIMEOUT * 3;
        let mut last = Instant::now();
        let mut reply = vec![0; self.miss.len()];
        let mut pause = tokio::time::interval(REQUEST_INTERVAL);
        loop {
            pause.tick().await;
            let requests = async {
                stream.write_all(&self.get).await?;
                stream.read_exact(&mut reply).await
            };
            match requests.await {
                Ok(_) if reply == self.miss => last = Instant::now(),
                // Denied, or closed.
                _ => return Served { token, last },
            }
            assert!(last < deadline, "{token:?} is never denied");
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
    assert!(at(99) <= PROPAGATION_MAX, "{figures}");
}

// R-15, G-4.
#[test]
fn revocation_reaches_every_proxy_within_a_second() {
    let _exclusive = exclusive();
    let setup = Setup::new("10.214.7.114");
    let store = &setup.proxy.store;
    let runtime = &setup.proxy.runtime;

    let tokens = setup.tokens(&Permissions::ALL);
    let revoked = runtime.block_on(setup.measure(&tokens, |id| async move {
        let began = Instant::now();
        store.revoke_token(&id).await.unwrap();
        began
    }));
    check("revoked", revoked);

    let tokens = setup.tokens(&Permissions::ALL);
    let narrowed = runtime.block_on(setup.measure(&tokens, |id| async move {
        let began = Instant::now();
        store.update_permissions(&id, |permissions| permissions.scopes = Scopes::WRITE).await.unwrap();
        began
    }));
    check("narrowed", narrowed);

    let tokens = setup.tokens(&Permissions::ALL);
    let expired = runtime.block_on(setup.measure(&tokens, |id| async move {
        let (began, lifetime) = (Instant::now(), Duration::from_millis(1500));
        let ends_at = now().saturating_add(lifetime);
        store.update_permissions(&id, |permissions| permissions.expires_at = Some(ends_at)).await.unwrap();
        began + lifetime
    }));
    check("expired", expired);
}
