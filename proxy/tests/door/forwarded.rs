//! Behind a load balancer that speaks the PROXY protocol: where a connection comes from is what it says,
//! if it is one of ours, and nobody else is believed.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use store::Permissions;

use super::FAILURE;
use super::door::{Door, pair, set};

const TLS_REQUIRED: &str = "CLIENT_ERROR TLS required\r\n";

/// This machine is a balancer.
fn behind_us() -> Door {
    Door::open_with(|config| config.proxy_protocol_from = vec!["127.0.0.0/8".parse().unwrap()])
}

fn v1(source: &str) -> String {
    format!("PROXY TCP4 {source} 192.0.2.2 56324 11211\r\n")
}

fn v2(command: u8, source: [u8; 4]) -> Vec<u8> {
    let head = [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, 0x11, 0, 12]].concat();
    [&head[..], &source, &[192, 0, 2, 2, 0xdc, 4, 0x2b, 0xcb]].concat()
}

#[test]
fn a_balancer_says_where_a_connection_comes_from() {
    let door = behind_us();
    let token = door.sign_up("ann@example.com");
    let session = format!("{}quit\r\n", set("x", &pair(&token)));
    let say =
        |header: &[u8]| String::from_utf8(door.converse(&[header, session.as_bytes()].concat())).unwrap();
    for (header, expected) in [
        (v1("10.1.2.3").into_bytes(), "STORED\r\n"),
        (v2(0x21, [10, 1, 2, 3]), "STORED\r\n"),
        // For itself: its own address is private.
        (v2(0x20, [8, 8, 8, 8]), "STORED\r\n"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "STORED\r\n"),
        // From a public address plaintext isn't taken.
        (v1("8.8.8.8").into_bytes(), TLS_REQUIRED),
        (v2(0x21, [8, 8, 8, 8]), TLS_REQUIRED),
        // It is required, once and whole.
        (Vec::new(), ""),
        (b"PROXY TCP4 10.1.2.3\r\n".to_vec(), ""),
        (b"PROXY ".to_vec(), ""),
    ] {
        assert_eq!(say(&header), expected, "{}", header.escape_ascii());
    }
    let twice = [v1("10.1.2.3"), v1("10.1.2.3")].concat();
    assert_eq!(say(twice.as_bytes()), "CLIENT_ERROR unauthenticated\r\nSTORED\r\n");
    assert!(say(&[v2(0x21, [10, 1, 2, 3]), v2(0x20, [10, 1, 2, 3])].concat()).is_empty());
    // In pieces, too.
    let whole = [&v2(0x21, [10, 1, 2, 3])[..], session.as_bytes()].concat();
    let mut stream = door.call();
    stream.set_nodelay(true).unwrap();
    for byte in whole.chunks(1) {
        stream.write_all(byte).unwrap();
    }
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "STORED\r\n");
}

#[test]
fn a_token_is_good_where_the_balancer_says_its_client_is() {
    let door = behind_us();
    let all = door.sign_up("ann@example.com");
    let allow_from = vec!["10.1.2.0/24".parse().unwrap()];
    let login = set("x", &pair(&door.limited(&all, Permissions { allow_from, ..Permissions::ALL })));
    assert_eq!(door.text(&format!("{}{login}quit\r\n", v1("10.1.2.3"))), "STORED\r\n");
    // Not where the balancer is, and not elsewhere.
    for header in [v1("10.1.3.3"), v1("127.0.0.1"), "PROXY UNKNOWN\r\n".to_owned()] {
        assert_eq!(door.text(&format!("{header}{login}")), FAILURE, "{header}");
    }
}

#[test]
fn nobody_else_is_believed() {
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let session = format!("{}quit\r\n", set("x", &pair(&token)));
    // A bad first line, and not from 8.8.8.8.
    let said = door.text(&format!("{}{session}", v1("8.8.8.8")));
    assert_eq!(said, "CLIENT_ERROR unauthenticated\r\nSTORED\r\n");
    assert_eq!(door.converse(&[&v2(0x21, [10, 1, 2, 3])[..], session.as_bytes()].concat()), b"");
}

#[test]
fn guesses_count_where_they_come_from() {
    let door = behind_us();
    let token = door.sign_up("ann@example.com");
    let guess = |source: &str, number: usize| {
        let wrong = format!("{} {number}", token.id().username());
        let mut stream = door.call();
        stream.write_all(format!("{}{}", v1(source), set("x", &wrong)).as_bytes()).unwrap();
        stream
    };
    let hear = |mut stream: TcpStream| {
        let mut said = [0; FAILURE.len()];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(std::str::from_utf8(&said), Ok(FAILURE));
    };
    let begun = Instant::now();
    (0..14).for_each(|number| hear(guess("10.1.2.3", number)));
    assert!(begun.elapsed() >= Duration::from_millis(40 + 80 + 160 + 320), "{:?}", begun.elapsed());
    // Not all that the balancer has forwarded is one source's.
    let waits: Vec<TcpStream> = (14..18).map(|number| guess("10.1.2.3", number)).collect();
    (0..14).for_each(|number| hear(guess(&format!("10.1.2.{}", 10 + number), number)));
    waits[3].set_nonblocking(true).unwrap();
    let early = waits[3].peek(&mut [0; 1]);
    assert!(early.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "it didn't wait");
    waits[3].set_nonblocking(false).unwrap();
    waits.into_iter().for_each(hear);
}

/// Debian's HAProxy in front of the door.
struct Balancer {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Balancer {
    fn start(door: &Door, how: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // No other test has this address, and so nobody its port.
        let address = TcpListener::bind("127.0.0.77:0").unwrap().local_addr().unwrap();
        let (file, listen) = (folder.path().join("haproxy.cfg"), door.config.listen);
        let text = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n\
             listen memgate\n bind {address}\n server door {listen} {how}\n"
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
fn haproxy_stands_in_front() {
    let door = behind_us();
    let token = door.sign_up("ann@example.com");
    for (how, expected) in [("send-proxy", "STORED\r\n"), ("send-proxy-v2", "STORED\r\n"), ("", "")] {
        let balancer = Balancer::start(&door, how);
        let mut stream = TcpStream::connect(balancer.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(format!("{}quit\r\n", set("x", &pair(&token))).as_bytes()).unwrap();
        let mut said = String::new();
        // A connection that is closed with words unread may be reset.
        let _ = stream.read_to_string(&mut said);
        assert_eq!(said, expected, "{how}");
    }
}
