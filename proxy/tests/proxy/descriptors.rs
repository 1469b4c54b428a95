//! A proxy that may open few files: clients that hold all their connections leave enough for lanes, store and health.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use store::Token;

use testkit::{Memcached, TestProxy, text};

/// The limit of open files of the proxy's process.
const FILES: u64 = 700;
const TIMEOUT: Duration = Duration::from_secs(20);

struct ProxyProcess {
    process: Child,
    listen: SocketAddr,
    health: SocketAddr,
    tokens: Vec<Token>,
}

impl ProxyProcess {
    fn start() -> Self {
        let this = std::env::current_exe().unwrap();
        let mut process = Command::new(this)
            .args(["--ignored", "--exact", "--nocapture", "descriptors::the_proxy"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find_map(|line| line.strip_prefix("proxy: ").map(str::to_owned));
        let line = line.expect("the proxy's process prints its addresses");
        // The pipe must be read to its end, although the rest isn't needed.
        std::thread::spawn(move || lines.for_each(drop));
        let mut words = line.split(' ');
        let mut address = || words.next().unwrap().parse().unwrap();
        let (listen, health) = (address(), address());
        let tokens = words.map(|token| Token::parse(token).unwrap()).collect();
        Self { process, listen, health, tokens }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listen).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream
    }

    /// Logs in; `None` if the proxy has too many connections.
    fn log_in(&self, token: &Token) -> Option<TcpStream> {
        let mut stream = self.connect();
        stream.write_all(text::login(token).as_bytes()).ok()?;
        let mut reply = [0; 8];
        stream.read_exact(&mut reply).ok()?;
        (&reply == b"STORED\r\n").then_some(stream)
    }

    fn is_ready(&self) -> bool {
        let mut stream = TcpStream::connect(self.health).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response.starts_with("HTTP/1.1 200")
    }
}

impl Drop for ProxyProcess {
    fn drop(&mut self) {
        // Closing its input ends it, and the memcacheds with it.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

fn ask(stream: &mut TcpStream, request: &str, end: &str) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = Vec::new();
    while !reply.ends_with(end.as_bytes()) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| {
            panic!("{request:?}: {error} after {}", String::from_utf8_lossy(&reply));
        });
        reply.push(byte[0]);
    }
}

//
#[test]
fn clients_leave_descriptors_for_lanes_store_and_health() {
    let proxy = ProxyProcess::start();
    let (ada, new, others) = (&proxy.tokens[0], &proxy.tokens[1], &proxy.tokens[2..]);
    // She has no lane yet.
    let mut victim = proxy.log_in(ada).unwrap();
    // A few caches that take as many as they may.
    let (mut held, mut refused) = (Vec::new(), 0);
    for token in others.iter().cycle() {
        match proxy.log_in(token) {
            Some(stream) => held.push(stream),
            None => refused += 1,
        }
        assert!(held.len() < 700, "no limit");
        if refused >= 20 {
            break;
        }
    }
    // Others who only connect, whether they are admitted or not.
    let half_open: Vec<TcpStream> = (0..300).map(|_| proxy.connect()).collect();
    println!("{} connections of {FILES} files", held.len());
    assert!(held.len() > 140, "{} connections", held.len());
    ask(&mut victim, "set a 0 0 1\r\n1\r\n", "STORED\r\n");
    // More requests for dedicated lanes than the proxy has lanes (half of what is for lanes: 92). Some of the clients send
    // a byte now and then.
    let (storing, others) = held.split_at_mut(140);
    for stream in &mut *storing {
        stream.write_all(b"set long 0 0 200000\r\nbeginning").unwrap();
    }
    for _ in 0..20 {
        let began = Instant::now();
        storing.iter_mut().step_by(2).for_each(|stream| drop(stream.write_all(b"x")));
        ask(&mut victim, "stats\r\n", "END\r\n");
        assert!(began.elapsed() < TIMEOUT / 4, "the cache of another user waits for a lane");
    }
    ask(others.last_mut().unwrap(), "set b 0 0 1\r\n1\r\n", "STORED\r\n");
    assert!(proxy.is_ready());
    // A token that the proxy must look up in the store.
    drop((held, half_open));
    let deadline = Instant::now() + TIMEOUT;
    while proxy.log_in(new).is_none() {
        assert!(Instant::now() < deadline);
    }
}

/// Not a test: the process that [`ProxyProcess`] starts.
#[test]
#[ignore = "runs until its parent closes the pipe"]
fn the_proxy() {
    let first = TestProxy::start();
    let sign_up = |name: &str| first.sign_up(&format!("{name}@example.org"));
    let mut tokens = ["ada", "bob", "eve", "joe"].map(sign_up).to_vec();
    let addresses = ["10.214.7.123", "10.214.7.124", "10.214.7.125", "10.214.7.126"];
    let _memcacheds: Vec<Memcached> = tokens
        .iter()
        .zip(addresses)
        .map(|(token, address)| Memcached::start(&first, token, address))
        .collect();
    // memcached needs more.
    setrlimit(Resource::Nofile, Rlimit { current: Some(FILES), maximum: Some(FILES) }).unwrap();
    let proxy = first.start_second();
    // It hasn't read this one ahead.
    tokens.insert(1, sign_up("new"));
    let mut out = std::io::stdout();
    let tokens: Vec<String> = tokens.iter().map(Token::reveal).collect();
    writeln!(out, "\nproxy: {} {} {}", proxy.config.listen, proxy.config.health, tokens.join(" ")).unwrap();
    out.flush().unwrap();
    // Until the parent closes the pipe.
    let _ = std::io::stdin().read(&mut [0; 1]);
}
