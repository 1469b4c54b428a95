//! Limits of unauthenticated connections: authenticated clients don't notice how many others try. A
//! process of its own, because tests of large values measure memory.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use testkit::{TestProxy, binary, connect_from, is_long_run, raise_file_limit, text};

const TOO_MANY_CONNECTIONS: &str = "SERVER_ERROR too many connections\r\n";
/// Unauthenticated connections that one source may have.
const PENDING_PER_SOURCE_MAX: usize = 64;

/// Starts a proxy with room for `connections`.
fn open(connections: usize) -> TestProxy {
    let config = proxy::Config { connections, ..proxy::Config::default() };
    TestProxy::start_in(tempfile::tempdir().unwrap(), config)
}

fn loopback(number: usize) -> IpAddr {
    let [_, b, c, d] = u32::try_from(number + 256).unwrap().to_be_bytes();
    Ipv4Addr::new(127, b + 1, c, d).into()
}

/// Repeats `attempt` until it returns something: the proxy accepts with a delay, and closes
/// unauthenticated connections after 5 seconds.
fn wait_until<T>(complaint: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < deadline, "{complaint}");
    }
}

fn all(mut stream: TcpStream, words: &[u8]) -> Vec<u8> {
    stream.write_all(words).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    reply
}

//
#[test]
fn pending_connections_are_limited_per_source() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let (source, login) = (loopback(0), text::login(&token));
    let call = || connect_from(source, proxy.config.listen).unwrap();
    // Connections that log in free their slot at once.
    let clients: Vec<TcpStream> = (0..2 * PENDING_PER_SOURCE_MAX)
        .map(|_| {
            let mut client = call();
            client.write_all(login.as_bytes()).unwrap();
            client.read_exact(&mut [0; 8]).unwrap();
            client
        })
        .collect();
    // Many at once wait for a slot.
    let mut starting: Vec<TcpStream> = (0..4 * PENDING_PER_SOURCE_MAX).map(|_| call()).collect();
    starting.iter_mut().for_each(|client| client.write_all(login.as_bytes()).unwrap());
    for client in &mut starting {
        let mut reply = [0; 8];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"STORED\r\n");
    }
    let session = format!("{login}quit\r\n");
    let pending = wait_until("pending connections are not limited", || {
        let pending: Vec<TcpStream> = (0..PENDING_PER_SOURCE_MAX).map(|_| call()).collect();
        let text = all(call(), session.as_bytes()) == TOO_MANY_CONNECTIONS.as_bytes();
        let binary = all(call(), &binary::request(0x20, "", "")[..]).get(6..8) == Some(&[0, 0x86]);
        // Before the TLS handshake no error can be sent.
        let tls = all(call(), &[0x16, 3, 1]).is_empty();
        (text && binary && tls).then_some(pending)
    });
    let elsewhere =
        all(connect_from(loopback(1), proxy.config.listen).unwrap(), format!("{login}quit\r\n").as_bytes());
    assert_eq!(elsewhere, b"STORED\r\n");
    assert!(proxy.metrics().contains("memgate_proxy_logins_total{outcome=\"overloaded\"}"));
    // Authenticated connections stay open; closed unauthenticated ones free their slots.
    drop(pending);
    assert_eq!(all(call(), session.as_bytes()), b"STORED\r\n");
    for mut client in clients {
        client.write_all(b"bogus\r\n").unwrap();
        let mut reply = [0; 7];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"ERROR\r\n");
    }
}

// R-6, P-4.
#[test]
fn pending_connections_are_limited_to_a_quarter() {
    let proxy = open(400);
    let token = proxy.sign_up("ann@example.com");
    let login = text::login(&token);
    let call = |number: usize| connect_from(loopback(number / 50), proxy.config.listen).unwrap();
    let enter = |number| {
        let mut client: TcpStream = call(number);
        client.write_all(login.as_bytes()).unwrap();
        client.read_exact(&mut [0; 8]).unwrap();
        client
    };
    let client = enter(0);
    let session = format!("{login}quit\r\n");
    let pending = wait_until("pending connections are not limited", || {
        let pending: Vec<TcpStream> = (0..100).map(call).collect();
        (all(call(300), session.as_bytes()) == TOO_MANY_CONNECTIONS.as_bytes()).then_some(pending)
    });
    drop((pending, client));
    wait_until("closed pending connections still hold slots", || {
        (all(call(300), session.as_bytes()) == b"STORED\r\n").then_some(())
    });
    // When the connection limit is reached, every further client is rejected.
    let clients: Vec<TcpStream> = (0..400)
        .map_while(|number| {
            let mut client = call(number);
            client.write_all(login.as_bytes()).unwrap();
            let mut reply = [0; 8];
            client.read_exact(&mut reply).unwrap();
            (&reply == b"STORED\r\n").then_some(client)
        })
        .collect();
    assert!((395..=400).contains(&clients.len()), "{} connected", clients.len());
    assert_eq!(String::from_utf8_lossy(&all(call(300), session.as_bytes())), TOO_MANY_CONNECTIONS);
}

//
#[test]
fn one_source_cannot_exhaust_pending_slots() {
    raise_file_limit();
    let proxy = open(4_000);
    let token = proxy.sign_up("ann@example.com");
    let login = text::login(&token);
    // More than twice the limit of all unauthenticated connections, and all silent.
    let silent: Vec<_> =
        (0..2_500).map(|_| connect_from(loopback(1), proxy.config.listen).unwrap()).collect();
    for number in 2..40 {
        let mut client = connect_from(loopback(number), proxy.config.listen).unwrap();
        client.write_all(login.as_bytes()).unwrap();
        let mut reply = [0; 8];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(String::from_utf8_lossy(&reply), "STORED\r\n");
    }
    drop(silent);
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Keeps `count` half-open connections, from as many sources as needed, beginning with number `first`.
fn hold_pending(proxy: SocketAddr, first: usize, count: usize, standing: &AtomicUsize, stop: &AtomicBool) {
    let mut pending: VecDeque<TcpStream> = VecDeque::new();
    for number in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        if pending.len() >= count {
            // The proxy closes it after five seconds; a new one takes its slot.
            let _ = pending.pop_front().unwrap().read(&mut [0; 64]);
        } else {
            standing.fetch_add(1, Ordering::AcqRel);
        }
        let mut client =
            connect_from(loopback(first + number % count.div_ceil(PENDING_PER_SOURCE_MAX - 4)), proxy)
                .unwrap();
        client.write_all(b"set x 0 0 100\r\nmg_").unwrap();
        pending.push_back(client);
    }
}

//
#[test]
fn logins_stay_fast_with_many_pending_connections() {
    const THREADS: usize = 4;
    let wanted = if is_long_run() { 20_000 } else { 2_000 };
    let files = raise_file_limit();
    // The proxy uses 90 % of the files for connections, a quarter of them for unauthenticated ones.
    let many = wanted.min(usize::try_from(files / 10 * 9 / 4).unwrap() - 200);
    let proxy = open(4 * many + 4_000);
    let token = proxy.sign_up("ann@example.com");
    let login = text::login(&token);
    let (standing, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Stops the threads also when this test fails.
        let _stop = StopAtEnd(&stop);
        for thread in 0..THREADS {
            let (standing, stop, listen) = (&standing, &stop, proxy.config.listen);
            scope.spawn(move || hold_pending(listen, 1000 * (thread + 1), many / THREADS, standing, stop));
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while standing.load(Ordering::Acquire) < many - THREADS {
            let standing = standing.load(Ordering::Acquire);
            assert!(Instant::now() < deadline, "too few pending connections: {standing} of {many}");
            std::thread::yield_now();
        }
        let mut took: Vec<Duration> = (0..500)
            .map(|_| {
                let started = Instant::now();
                let mut client = connect_from(loopback(9000), proxy.config.listen).unwrap();
                client.write_all(login.as_bytes()).unwrap();
                let mut reply = [0; 8];
                client.read_exact(&mut reply).unwrap();
                assert_eq!(&reply, b"STORED\r\n");
                started.elapsed()
            })
            .collect();
        let metrics = proxy.metrics();
        let held = metrics.lines().find(|line| line.starts_with("memgate_proxy_connections ")).unwrap();
        took.sort();
        eprintln!("{held} while logins took {:?} (median), {:?} (p99)", took[250], took[495]);
    });
}
