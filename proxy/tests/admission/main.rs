//! Limits of unauthenticated connections: clients that log in don't notice how many others try. A process of its own,
//! because tests of large values measure memory.

mod flood;
mod plan;
mod sessions;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use testkit::{TestProxy, binary, connect_from, raise_file_limit, text};

const TOO_MANY_CONNECTIONS: &str = "SERVER_ERROR too many connections\r\n";
/// Logins in progress that one source may have for longer than a second.
const LOGINS_PER_SOURCE_MAX: usize = 64;
/// A login that isn't finished.
const UNFINISHED: &[u8] = b"set x 0 0 100\r\nmg_";

/// Starts a proxy with room for `connections`.
fn open(connections: usize) -> TestProxy {
    let config = proxy::Config { connections, ..proxy::Config::default() };
    TestProxy::start_in(tempfile::tempdir().unwrap(), config)
}

/// Number `number` of this machine's loopback addresses, 256 of which are in one network.
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

/// Logs in from `source`; returns the connection, or the reply of a login that didn't succeed.
fn logs_in(proxy: &TestProxy, source: IpAddr, login: &str) -> Result<TcpStream, String> {
    let mut client = connect_from(source, proxy.config.listen).unwrap();
    // It may have been closed already.
    let _ = client.write_all(login.as_bytes());
    let mut reply = Vec::new();
    let mut byte = [0];
    while !reply.ends_with(b"\n") && client.read(&mut byte).is_ok_and(|read| read == 1) {
        reply.push(byte[0]);
    }
    let reply = String::from_utf8(reply).unwrap();
    if reply == "STORED\r\n" { Ok(client) } else { Err(reply) }
}

/// The value of a counter or gauge, 0 if it hasn't been counted.
fn metric(proxy: &TestProxy, name: &str) -> usize {
    let metrics = proxy.metrics();
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

/// Open connections that count in no plan.
fn unauthenticated(proxy: &TestProxy) -> usize {
    let metrics = proxy.metrics();
    let states =
        metrics.lines().filter(|line| line.starts_with("memgate_proxy_unauthenticated_connections{"));
    states.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

// R-6, P-4.
#[test]
fn logins_in_progress_are_limited_per_source() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let (source, login) = (loopback(0), text::login(&token));
    let call = || connect_from(source, proxy.config.listen).unwrap();
    // Connections that log in free their slot at once.
    let clients: Vec<TcpStream> =
        (0..2 * LOGINS_PER_SOURCE_MAX).map(|_| logs_in(&proxy, source, &login).unwrap()).collect();
    // An application that starts opens many at once.
    let mut starting: Vec<TcpStream> = (0..4 * LOGINS_PER_SOURCE_MAX).map(|_| call()).collect();
    starting.iter_mut().for_each(|client| client.write_all(login.as_bytes()).unwrap());
    for client in &mut starting {
        let mut reply = [0; 8];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"STORED\r\n");
    }
    // Unfinished ones beyond the limit are closed after a second, in their protocol, the oldest first (in the same
    // millisecond in any order).
    let auth = binary::request(0x21, "PLAIN", "");
    wait_until("unfinished logins are not limited", || {
        let first = [&auth[..auth.len() - 1], &[0x16, 3, 1], UNFINISHED];
        let begins = first.into_iter().chain(std::iter::repeat_n(UNFINISHED, LOGINS_PER_SOURCE_MAX + 40));
        let mut unfinished: Vec<TcpStream> = begins
            .map(|begin| {
                let mut client = call();
                client.write_all(begin).unwrap();
                client
            })
            .collect();
        let mut replies = unfinished.iter_mut().take(3).map(|client| {
            let mut reply = Vec::new();
            let _ = client.read_to_end(&mut reply);
            reply
        });
        let [binary, tls, text] = [(); 3].map(|()| replies.next().unwrap());
        // Before the TLS handshake no error can be sent.
        let closed = binary.get(6..8) == Some(&[0, 0x86]) && tls.is_empty();
        (closed && text == TOO_MANY_CONNECTIONS.as_bytes()).then_some(())
    });
    assert!(metric(&proxy, "memgate_proxy_admission_evictions_total{cause=\"source_limit\"}") >= 2);
    assert!(metric(&proxy, "memgate_proxy_logins_total{outcome=\"evicted\"}") >= 2);
    // Authenticated connections stay open.
    for mut client in clients {
        client.write_all(b"bogus\r\n").unwrap();
        let mut reply = [0; 7];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"ERROR\r\n");
    }
}

// P-4.
#[test]
fn unauthenticated_connections_are_limited_to_a_quarter() {
    let proxy = open(400);
    let token = proxy.sign_up("ann@example.com");
    let login = text::login(&token);
    for begin in [&b""[..], UNFINISHED] {
        let half_open: Vec<TcpStream> = (0..300)
            .map(|number| {
                let mut client = connect_from(loopback(number / 50), proxy.config.listen).unwrap();
                // It may have been closed already.
                let _ = client.write_all(begin);
                client
            })
            .collect();
        logs_in(&proxy, loopback(1000), &login).unwrap();
        wait_until("more than a quarter are unauthenticated", || {
            (unauthenticated(&proxy) <= 100).then_some(())
        });
        drop(half_open);
    }
    for cause in ["silent", "login"] {
        assert!(
            metric(&proxy, &format!("memgate_proxy_admission_evictions_total{{cause=\"{cause}\"}}")) > 0,
            "{cause}"
        );
    }
    wait_until("closed connections still count", || (unauthenticated(&proxy) == 0).then_some(()));
    // When the connection limit is reached, every further client is rejected. One cache can't reach it.
    let logins: Vec<String> = (0..26)
        .map(|user| text::login(&proxy.sign_up(&format!("user{user}@example.com"))))
        .flat_map(|login| std::iter::repeat_n(login, 16))
        .collect();
    let clients: Vec<TcpStream> = (0..400)
        .zip(&logins)
        .map_while(|(number, login)| logs_in(&proxy, loopback(number / 50), login).ok())
        .collect();
    assert!((395..=400).contains(&clients.len()), "{} connected", clients.len());
    assert_eq!(logs_in(&proxy, loopback(1000), &login).unwrap_err(), TOO_MANY_CONNECTIONS);
    assert!(metric(&proxy, "memgate_proxy_admission_rejections_total{cause=\"connection_limit\"}") > 0);
    assert!(metric(&proxy, "memgate_proxy_logins_total{outcome=\"overloaded\"}") > 0);
}

//
#[test]
fn one_source_cannot_exhaust_the_unauthenticated_connections() {
    raise_file_limit();
    let proxy = open(4_000);
    let token = proxy.sign_up("ann@example.com");
    let login = text::login(&token);
    // More than twice the limit of all unauthenticated connections, and all silent.
    let silent: Vec<_> =
        (0..2_500).map(|_| connect_from(loopback(1), proxy.config.listen).unwrap()).collect();
    // The source's own logins succeed, too.
    for number in [1; 10].into_iter().chain(2..40) {
        logs_in(&proxy, loopback(number), &login).unwrap();
    }
    drop(silent);
}
