//! Whole sessions through the proxy to a real memcached: the replies don't depend on how the bytes are
//! split.

use std::io::{Read as _, Write as _};

use testkit::{Memcached, Rng, TestProxy, binary, chunks, text};

/// Sends `chunks` one by one on a new connection and returns all bytes until the proxy closes.
fn exchange<'a>(proxy: &TestProxy, parts: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut stream = proxy.connect();
    stream.set_nodelay(true).unwrap();
    let mut reading = stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut reply = Vec::new();
        reading.read_to_end(&mut reply).map(|_| reply)
    });
    for part in parts {
        // The proxy may close before the last bytes.
        if stream.write_all(part).is_err() {
            break;
        }
    }
    reader.join().unwrap().unwrap()
}

/// Builds a request whose opaque repeats its opcode.
pub(super) fn request(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    binary::Request { opcode, extras, key, value, opaque: [opcode; 4], cas: 0 }.encode()
}

/// Sessions that end by themselves and give the same replies every time.
fn text_sessions(login: &str) -> Vec<Vec<u8>> {
    let k251 = "k".repeat(251);
    let large = text::set("large", &"l".repeat(100_000));
    let too_large = text::set("large", &"l".repeat(1_048_576));
    let many: String = (0..700).map(|i| format!(" key{}", i % 7)).collect();
    let started = format!(
        "{login}delete n noreply\r\ndelete key1 noreply\r\n{}{}get key1 key2 nothing\r\n{large}get large\r\n\
         {login}set n 0 0 1 noreply\r\n5\r\nincr n 10\r\ndecr n 1\r\nincr key1 1\r\nincr n x\r\ntouch n 0\r\n\
         add n 0 0 1\r\n1\r\nreplace nothing 0 0 1\r\n1\r\ncas n 0 0 1 1\r\n1\r\nbogus\r\n\r\nget\r\n get a\r\n\
         {}get {k251}\r\n{too_large}get large\r\nset x 0 0 -9 \r\n",
        text::set("key1", "one\r\nget n\r\n"),
        text::set("key2", ""),
        text::set(&k251, "set n 0 0 1"),
    );
    // Without the line that closes the connection.
    let open = started.strip_suffix("set x 0 0 -9 \r\n").unwrap().to_owned();
    [
        started,
        format!("{open}get key2{many}\r\nversion\r\nquit\r\nget n\r\n"),
        format!("{open}set n 0 0 1\r\n12345\r\nget n\r\n"),
        format!("{login}set n 0 0 1\r\n7\r\nget n\r\n{}\r\n", "x".repeat(2049)),
        format!("{login}{}\r\nget key2{}\r\nquit\r\n", "x".repeat(2048), " nothing".repeat(20_000)),
    ]
    .map(String::into_bytes)
    .into()
}

fn binary_sessions(user: &str, secret: &str) -> Vec<Vec<u8>> {
    let login = binary::request(0x21, "PLAIN", &format!("\0{user}\0{secret}"));
    let flags = [0, 0, 0, 5, 0, 0, 0, 0];
    let open = [
        login.clone(),
        request(0x14, b"", b"b", b""),
        request(0x11, &flags, b"b", &[b'v'; 70_000]),
        request(0x11, &flags, b"a key\r\n", b"\x80\x00in"),
        request(0x0d, b"", b"nothing", b""),
        request(0x09, b"", b"nothing", b""),
        request(0x1c, &[0; 4], b"b", b""),
        request(0x02, &flags, b"b", b"w"),
        request(0x12, &flags, b"b", &[b'w'; 1_048_576]),
        request(0x0a, b"", b"", b""),
        login,
        request(0x20, b"", b"", b""),
        request(0x50, b"", b"", b""),
        request(0x04, b"", b"b", b""),
    ]
    .concat();
    [request(0x07, b"", b"", b""), request(0x50, b"", b"k", b"v"), request(0x00, b"x", b"k", b""), vec![0x82]]
        .map(|end| [&open[..], &end, &request(0x0a, b"", b"", b"")].concat())
        .into()
}

/// The statuses of the session above: delete of a missing key, touch, add of an existing key, a value too
/// large, no-op, login, list of mechanisms, unknown command, delete.
const BINARY_STATUSES: &[u16] = &[0, 1, 0, 2, 3, 0, 0, 0, 0x81, 0];

/// Clears the cas of every reply: it differs between runs.
fn without_cas(reply: Vec<u8>) -> Vec<u8> {
    let mut out = reply;
    let mut at = 0;
    while out.get(at) == Some(&0x81) {
        let body = u32::from_be_bytes(out[at + 8..at + 12].try_into().unwrap());
        out[at + 16..at + 24].fill(0);
        at += 24 + usize::try_from(body).unwrap();
    }
    out
}

// D-5, R-10.
#[test]
fn replies_do_not_depend_on_how_requests_are_split() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.1");
    let (user, secret) = (token.id().username(), token.secret().reveal().to_owned());
    let mut rng = Rng::new(1);
    let sessions = [text_sessions(&text::login(&token)), binary_sessions(&user, &secret)].concat();
    for session in sessions {
        let whole = without_cas(exchange(&proxy, [&session[..]].into_iter()));
        let words = String::from_utf8_lossy(&whole);
        assert!(
            !words.contains("unavailable") && !words.contains("Temporary") && whole.len() > 30,
            "{words}"
        );
        if whole.starts_with(b"\x81") {
            let status = binary::statuses(&whole);
            assert!(status.starts_with(BINARY_STATUSES), "{status:04x?}");
        }
        for longest in [3000, 100, 100_000, 1_000_000, 20_000] {
            let parts = chunks(&session, longest, &mut rng);
            let reply = without_cas(exchange(&proxy, parts.into_iter()));
            assert!(reply == whole, "parts of {longest}: {}", String::from_utf8_lossy(&reply));
        }
    }
}

// F-7.
#[test]
fn pipelined_replies_are_complete_before_close() {
    const TIMES: usize = 300;
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.4");
    let mut stream = proxy.connect();
    let value = "v".repeat(200_000);
    let requests =
        text::login(&token) + &text::set("big", &value) + &"get big\r\n".repeat(TIMES) + "quit\r\n";
    stream.write_all(requests.as_bytes()).unwrap();
    let mut stored = [0; 16];
    stream.read_exact(&mut stored).unwrap();
    assert_eq!(&stored, b"STORED\r\nSTORED\r\n");
    let one = format!("VALUE big 0 {}\r\n{value}\r\nEND\r\n", value.len()).into_bytes();
    let mut reply = vec![0; one.len()];
    for nth in 0..TIMES {
        stream.read_exact(&mut reply).unwrap();
        assert!(reply == one, "reply {nth} differs");
    }
    assert_eq!(stream.read(&mut reply).unwrap(), 0);
}
