//! Clients whose every reply is checked, while an operator changes something: a third speak the text protocol, a third the binary
//! one, and a third text over TLS.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use testkit::SetOnDrop;
use testkit::binary::{HEADER_LEN, Request};

use crate::harness::{Credentials, Product, deadline_in, wait_until};

/// For one reply, of a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Requests of all clients between two changes at least.
const REQUESTS_MIN: u64 = 200;
/// Clients of one thread.
const CLIENTS_PER_THREAD: usize = 50;
const SASL: u8 = 0x21;
const SET: u8 = 0x01;
const GET: u8 = 0x00;

trait Connection: Read + Write + Send {}

impl<S: Read + Write + Send> Connection for S {}

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Binary,
    Tls,
}

/// Where clients log in, and as whom.
pub(crate) struct Target {
    pub(crate) endpoint: SocketAddr,
    pub(crate) credentials: Credentials,
    tls: Arc<ClientConfig>,
}

/// A client. Wrong replies are panics, a lost connection is an error.
pub(crate) struct Client {
    stream: Box<dyn Connection>,
    kind: Kind,
    key: String,
    turn: u64,
    /// Whether it has lost its connection, and has another one.
    was_lost: bool,
}

/// What clients do until they are told to stop.
pub(crate) struct Load<'a> {
    target: &'a Target,
    requests: AtomicU64,
    logins: AtomicU64,
    lost: AtomicU64,
    /// Whether a connection may be lost. Its client logs in again.
    may_lose: AtomicBool,
    /// Held while a client logs in for a short time.
    short: Mutex<()>,
    is_stopped: AtomicBool,
}

/// How long requests took.
pub(crate) struct Times(Vec<Duration>);

impl Kind {
    /// Those of many clients.
    pub(crate) fn of(number: usize) -> Self {
        [Self::Text, Self::Binary, Self::Tls][number % 3]
    }
}

impl Target {
    /// A cache of a product, at one of its proxies or before them.
    pub(crate) fn new(product: &Product, endpoint: SocketAddr, credentials: &Credentials) -> Self {
        let mut roots = RootCertStore::empty();
        let mut ca = BufReader::new(File::open(product.data().join("ca.pem")).unwrap());
        roots.add(CertificateDer::from_pem_reader(&mut ca).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let tls = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        Self { endpoint, credentials: credentials.clone(), tls }
    }

    /// A client that is logged in.
    pub(crate) fn log_in(&self, kind: Kind, key: impl Into<String>) -> io::Result<Client> {
        self.log_in_through(TcpStream::connect(self.endpoint)?, kind, key)
    }

    /// The same with a connection.
    pub(crate) fn log_in_through(
        &self,
        tcp: TcpStream,
        kind: Kind,
        key: impl Into<String>,
    ) -> io::Result<Client> {
        tcp.set_read_timeout(Some(TIMEOUT))?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Connection> = if kind == Kind::Tls {
            let name = "localhost".try_into().unwrap();
            Box::new(StreamOwned::new(ClientConnection::new(self.tls.clone(), name).unwrap(), tcp))
        } else {
            Box::new(tcp)
        };
        let mut client = Client { stream, kind, key: key.into(), turn: 0, was_lost: false };
        let Credentials { username, password, .. } = &self.credentials;
        if kind == Kind::Binary {
            let plain = format!("\0{username}\0{password}");
            let login =
                Request { opcode: SASL, key: b"PLAIN", value: plain.as_bytes(), ..Request::default() };
            client.stream.write_all(&login.encode())?;
            client.read_body()?;
        } else {
            let login = format!("{username} {password}");
            client.ask(&format!("set auth 0 0 {}\r\n{login}\r\n", login.len()), "STORED\r\n")?;
        }
        Ok(client)
    }
}

impl Client {
    fn ask(&mut self, request: &str, expected: &str) -> io::Result<()> {
        self.stream.write_all(request.as_bytes())?;
        self.stream.flush()?;
        let mut reply = vec![0; expected.len()];
        self.stream.read_exact(&mut reply)?;
        assert_eq!(String::from_utf8_lossy(&reply), expected, "{}", self.key);
        Ok(())
    }

    /// What follows the header of a reply that says success.
    fn read_body(&mut self) -> io::Result<Vec<u8>> {
        let mut header = [0; HEADER_LEN];
        self.stream.read_exact(&mut header)?;
        assert_eq!((header[0], &header[6..8]), (0x81, [0, 0].as_slice()), "{}: {header:?}", self.key);
        let length = u32::from_be_bytes(header[8..12].try_into().unwrap());
        let mut body = vec![0; length.try_into().unwrap()];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    /// Writes a value of its own, and reads it back.
    pub(crate) fn use_cache(&mut self) -> io::Result<()> {
        let (key, value) = (self.key.clone(), format!("{}:{}", self.key, self.turn));
        self.turn += 1;
        if self.kind != Kind::Binary {
            self.ask(&format!("set {key} 0 0 {}\r\n{value}\r\n", value.len()), "STORED\r\n")?;
            let found = format!("VALUE {key} 0 {}\r\n{value}\r\nEND\r\n", value.len());
            return self.ask(&format!("get {key}\r\n"), &found);
        }
        let get = Request { opcode: GET, key: key.as_bytes(), ..Request::default() };
        let set = Request { opcode: SET, extras: &[0; 8], value: value.as_bytes(), ..get };
        self.stream.write_all(&set.encode())?;
        self.read_body()?;
        self.stream.write_all(&get.encode())?;
        let body = self.read_body()?;
        assert_eq!(&body[4..], value.as_bytes(), "{key}");
        Ok(())
    }
}

impl<'a> Load<'a> {
    pub(crate) fn new(target: &'a Target) -> Self {
        Self {
            target,
            requests: AtomicU64::default(),
            logins: AtomicU64::default(),
            lost: AtomicU64::default(),
            may_lose: AtomicBool::default(),
            short: Mutex::default(),
            is_stopped: AtomicBool::default(),
        }
    }

    /// Runs `operator` while `clients` use the cache, and others log in all the time.
    pub(crate) fn run(&self, clients: usize, operator: impl FnOnce()) -> Times {
        std::thread::scope(|scope| {
            let stopped = SetOnDrop(&self.is_stopped);
            let threads: Vec<_> = (0..clients.div_ceil(CLIENTS_PER_THREAD))
                .map(|thread| {
                    let first = thread * CLIENTS_PER_THREAD;
                    let its: Vec<_> = (first..clients.min(first + CLIENTS_PER_THREAD))
                        .map(|n| self.target.log_in(Kind::of(n), format!("key{n}")).unwrap())
                        .collect();
                    scope.spawn(move || self.use_cache(its))
                })
                .collect();
            scope.spawn(|| self.log_in_again_and_again());
            operator();
            drop(stopped);
            let mut times: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            times.sort_unstable();
            Times(times)
        })
    }

    fn use_cache(&self, mut clients: Vec<Client>) -> Vec<Duration> {
        let mut times = Vec::new();
        while !self.is_stopped.load(Ordering::Relaxed) {
            for client in &mut clients {
                let begun = Instant::now();
                match client.use_cache() {
                    Ok(()) => times.push(begun.elapsed()),
                    Err(error) => {
                        assert!(self.may_lose.load(Ordering::Relaxed), "{}: {error}", client.key);
                        self.lost.fetch_add(u64::from(!client.was_lost), Ordering::Relaxed);
                        self.log_in_again(client);
                    }
                }
                self.requests.fetch_add(1, Ordering::Relaxed);
            }
        }
        times
    }

    fn log_in_again(&self, client: &mut Client) {
        let log_in = || match self.target.log_in(client.kind, client.key.clone()) {
            Ok(again) => {
                *client = Client { was_lost: true, ..again };
                true
            }
            Err(_) => false,
        };
        wait_until(deadline_in(30), "a client that has lost its connection logs in", log_in);
    }

    fn log_in_again_and_again(&self) {
        for number in 0.. {
            if self.is_stopped.load(Ordering::Relaxed) {
                return;
            }
            let _logging_in = self.without_logins();
            let mut client = self.target.log_in(Kind::of(number), "new").unwrap();
            client.use_cache().unwrap();
            self.logins.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Keeps clients from logging in for a short time.
    pub(crate) fn without_logins(&self) -> MutexGuard<'_, ()> {
        self.short.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on connections may be lost, or not any more.
    pub(crate) fn allow_loss(&self, is_allowed: bool) {
        self.may_lose.store(is_allowed, Ordering::Relaxed);
    }

    /// How many clients have lost their connection. They log in again.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until clients have gone on.
    pub(crate) fn wait_for_progress(&self) {
        let progress = || (self.requests.load(Ordering::Relaxed), self.logins.load(Ordering::Relaxed));
        let before = progress();
        let go_on = || progress().0 > before.0 + REQUESTS_MIN && progress().1 > before.1;
        wait_until(deadline_in(60), "clients go on", go_on);
    }

    /// What a measurement prints.
    pub(crate) fn summary(&self, times: &Times) -> String {
        let Times(times) = times;
        let quantile = |part: usize| times[(times.len() - 1) * part / 1000];
        format!(
            "{} requests, p50 {:?}, p99 {:?}, p99.9 {:?}, most {:?}; {} logins; {} connections lost",
            2 * times.len(),
            quantile(500),
            quantile(990),
            quantile(999),
            quantile(1000),
            self.logins.load(Ordering::Relaxed),
            self.lost(),
        )
    }
}
