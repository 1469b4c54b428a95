//! Behind a load balancer that speaks the PROXY protocol: its header gives the client's address. Headers
//! of other peers are not trusted.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use store::Permissions;

use super::connection::FAILURE;
use testkit::{TestProxy, text};

const TLS_REQUIRED: &str = "CLIENT_ERROR TLS required\r\n";

/// Starts a proxy that trusts this machine as a load balancer.
fn start_behind_balancer() -> TestProxy {
    TestProxy::start_with(|config| config.proxy_protocol_from = vec!["127.0.0.0/8".parse().unwrap()])
}

fn v1(source: &str) -> String {
    format!("PROXY TCP4 {source} 192.0.2.2 56324 11211\r\n")
}

fn v2(command: u8, source: [u8; 4]) -> Vec<u8> {
    let head = [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, 0x11, 0, 12]].concat();
    [&head[..], &source, &[192, 0, 2, 2, 0xdc, 4, 0x2b, 0xcb]].concat()
}

// R-20, P-9.
#[test]
fn proxy_header_gives_the_client_address() {
    let proxy = start_behind_balancer();
    let token = proxy.sign_up("ann@example.com");
    let session = format!("{}quit\r\n", text::login(&token));
    let exchange =
        |header: &[u8]| String::from_utf8(proxy.exchange(&[header, session.as_bytes()].concat())).unwrap();
    for (header, expected) in [
        (v1("10.1.2.3").into_bytes(), "STORED\r\n"),
        (v2(0x21, [10, 1, 2, 3]), "STORED\r\n"),
        // LOCAL command: the balancer's own address counts, which is private.
        (v2(0x20, [8, 8, 8, 8]), "STORED\r\n"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "STORED\r\n"),
        // Clients at public addresses must use TLS.
        (v1("8.8.8.8").into_bytes(), TLS_REQUIRED),
        (v2(0x21, [8, 8, 8, 8]), TLS_REQUIRED),
        // The header is required, once and complete.
        (Vec::new(), ""),
        (b"PROXY TCP4 10.1.2.3\r\n".to_vec(), ""),
        (b"PROXY ".to_vec(), ""),
    ] {
        assert_eq!(exchange(&header), expected, "{}", header.escape_ascii());
    }
    let twice = [v1("10.1.2.3"), v1("10.1.2.3")].concat();
    assert_eq!(exchange(twice.as_bytes()), "CLIENT_ERROR unauthenticated\r\nSTORED\r\n");
    assert!(exchange(&[v2(0x21, [10, 1, 2, 3]), v2(0x20, [10, 1, 2, 3])].concat()).is_empty());
    // Also byte by byte.
    let whole = [&v2(0x21, [10, 1, 2, 3])[..], session.as_bytes()].concat();
    let mut stream = proxy.connect();
    stream.set_nodelay(true).unwrap();
    for byte in whole.chunks(1) {
        stream.write_all(byte).unwrap();
    }
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "STORED\r\n");
}

#[test]
fn source_networks_apply_to_the_forwarded_address() {
    let proxy = start_behind_balancer();
    let all = proxy.sign_up("ann@example.com");
    let allow_from = vec!["10.1.2.0/24".parse().unwrap()];
    let login = text::set(
        "x",
        &text::credential(&proxy.create_token(&all, Permissions { allow_from, ..Permissions::ALL })),
    );
    assert_eq!(proxy.exchange_text(&format!("{}{login}quit\r\n", v1("10.1.2.3"))), "STORED\r\n");
    // Denied at other addresses, and at the balancer's own.
    for header in [v1("10.1.3.3"), v1("127.0.0.1"), "PROXY UNKNOWN\r\n".to_owned()] {
        assert_eq!(proxy.exchange_text(&format!("{header}{login}")), FAILURE, "{header}");
    }
}

//
#[test]
fn proxy_header_of_an_untrusted_peer_is_rejected() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let session = format!("{}quit\r\n", text::login(&token));
    // The header is read as a malformed command, and the address stays 127.0.0.1.
    let reply = proxy.exchange_text(&format!("{}{session}", v1("8.8.8.8")));
    assert_eq!(reply, "CLIENT_ERROR unauthenticated\r\nSTORED\r\n");
    assert_eq!(proxy.exchange(&[&v2(0x21, [10, 1, 2, 3])[..], session.as_bytes()].concat()), b"");
}

//
#[test]
fn failed_logins_count_per_forwarded_address() {
    let proxy = start_behind_balancer();
    let token = proxy.sign_up("ann@example.com");
    let guess = |source: &str, number: usize| {
        let wrong = format!("{} {number}", token.id().username());
        let mut stream = proxy.connect();
        stream.write_all(format!("{}{}", v1(source), text::set("x", &wrong)).as_bytes()).unwrap();
        stream
    };
    let expect_reply = |mut stream: TcpStream| {
        let mut reply = [0; FAILURE.len()];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(std::str::from_utf8(&reply), Ok(FAILURE));
    };
    let started = Instant::now();
    (0..14).for_each(|number| expect_reply(guess("10.1.2.3", number)));
    assert!(started.elapsed() >= Duration::from_millis(40 + 80 + 160 + 320), "{:?}", started.elapsed());
    // Other clients behind the same balancer don't wait.
    let waits: Vec<TcpStream> = (14..18).map(|number| guess("10.1.2.3", number)).collect();
    (0..14).for_each(|number| expect_reply(guess(&format!("10.1.2.{}", 10 + number), number)));
    waits[3].set_nonblocking(true).unwrap();
    let early = waits[3].peek(&mut [0; 1]);
    assert!(
        early.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
        "the guess was not delayed"
    );
    waits[3].set_nonblocking(false).unwrap();
    waits.into_iter().for_each(expect_reply);
}

/// Debian's HAProxy in front of the proxy.
struct Balancer {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Balancer {
    fn start(proxy: &TestProxy, how: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // No other test uses this address, so the port stays free.
        let address = TcpListener::bind("127.0.0.77:0").unwrap().local_addr().unwrap();
        let (file, listen) = (folder.path().join("haproxy.cfg"), proxy.config.listen);
        let text = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n\
             listen memgate\n bind {address}\n server proxy {listen} {how}\n"
        );
        std::fs::write(&file, text).unwrap();
        let process = Command::new("haproxy").arg("-db").arg("-f").arg(&file).stderr(Stdio::null()).spawn();
        let process = process.expect("haproxy is missing: run ./deploy/test, which installs it");
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "haproxy doesn't listen");
            std::thread::yield_now();
        }
        Self { process, address, _folder: folder }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn clients_connect_through_haproxy() {
    let proxy = start_behind_balancer();
    let token = proxy.sign_up("ann@example.com");
    for (how, expected) in [("send-proxy", "STORED\r\n"), ("send-proxy-v2", "STORED\r\n"), ("", "")] {
        let balancer = Balancer::start(&proxy, how);
        let mut stream = TcpStream::connect(balancer.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(format!("{}quit\r\n", text::login(&token)).as_bytes()).unwrap();
        let mut reply = String::new();
        // The kernel may reset a connection that is closed with unread bytes.
        let _ = stream.read_to_string(&mut reply);
        assert_eq!(reply, expected, "{how}");
    }
}
