//! Values too large for a shared lane: they are streamed in both directions, in order, also when one side
//! is slow or dies.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use testkit::{Memcached, TestProxy, binary, exclusive, is_long_run, raise_file_limit, text};

const LONG: usize = 1_000_000;

fn login(proxy: &TestProxy, token: &store::Token) -> TcpStream {
    let mut stream = proxy.connect();
    stream.write_all(text::login(token).as_bytes()).unwrap();
    assert_eq!(line(&mut stream), "STORED\r\n");
    stream
}

fn line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") && stream.read(&mut byte).unwrap() > 0 {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// Sends `requests` and checks that the reply is exactly `expected`.
fn ask(stream: &mut TcpStream, requests: &[u8], expected: &[u8]) {
    let mut writing = stream.try_clone().unwrap();
    let mut reply = vec![0; expected.len()];
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || writing.write_all(requests));
        stream.read_exact(&mut reply).unwrap();
        writer.join().unwrap().unwrap();
    });
    let differs = reply.iter().zip(expected).position(|(reply, expected)| reply != expected);
    let from = differs.unwrap_or(0).saturating_sub(20);
    let until = (from + 80).min(reply.len());
    assert!(differs.is_none(), "at {differs:?}: {:?}", String::from_utf8_lossy(&reply[from..until]));
}

fn request(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    binary::Request { opcode, extras, key, value, ..Default::default() }.encode()
}

fn value(letter: u8) -> Vec<u8> {
    (0..LONG).map(|at| letter + u8::try_from(at % 7).unwrap()).collect()
}

/// memcached says that it has no chunk left before it has read the whole value; it drops the rest, and answers what is
/// behind it. The same on a shared lane: `hostile_backend`.
// V-10, L-2.
#[test]
fn no_memory_left_for_the_rest_of_a_value_fails_that_request_alone() {
    const OUT_OF_MEMORY: &str = "SERVER_ERROR Out of memory during read\r\n";
    const REFUSED_MIN: usize = 3;
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let mut memcached = Memcached::start(&proxy, &token, "10.214.7.15");
    // Nothing is evicted.
    memcached.restart_with(&["-M", "-m", "8"]);
    let (mut stream, mut neighbour) = (login(&proxy, &token), login(&proxy, &token));
    ask(&mut stream, b"set small 0 0 1\r\n1\r\n", b"STORED\r\n");
    let mut refused = 0;
    for number in 0..100 {
        let set = format!("set {number} 0 0 700000\r\n");
        stream.write_all(&[set.as_bytes(), &[b'v'; 700_000], b"\r\nget small\r\n"].concat()).unwrap();
        let reply = line(&mut stream);
        assert!(reply == "STORED\r\n" || reply == OUT_OF_MEMORY, "{reply:?}");
        ask(&mut stream, b"", b"VALUE small 0 1\r\n1\r\nEND\r\n");
        ask(&mut neighbour, b"get small\r\n", b"VALUE small 0 1\r\n1\r\nEND\r\n");
        refused += usize::from(reply == OUT_OF_MEMORY);
    }
    assert!(refused >= REFUSED_MIN, "memcached never ran out of chunks");
    assert!(proxy.metrics().contains("memgate_proxy_lane_errors_total{cause=\"protocol_violation\"} 0\n"));
}

#[test]
fn large_values_keep_their_order_among_small_ones() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.11");
    let mut stream = login(&proxy, &token);
    let (a, b) = (value(b'a'), value(b'k'));
    let text = |verb: &str, value: &[u8]| [verb.as_bytes(), value, b"\r\n"].concat();
    let requests = [
        &b"set s 0 0 1\r\n1\r\n"[..],
        &text("set a 5 0 1000000\r\n", &a),
        b"get s a nothing s\r\nbogus\r\nget a\r\n",
        &text("ms b 1000000 F3 c q\r\n", &b),
        b"mn\r\nmg b v f q k Oxyz\r\nget b s\r\nmg b s v\r\nadd s 0 0 1\r\n2\r\n",
        &text("append a 0 0 1000000 noreply\r\n", b""),
    ];
    // The last command's block is too large for one item: it is read and silently rejected.
    let refused = text("", &a);
    let requests = [requests.concat(), refused, b"get s\r\nmg a s h\r\n".to_vec()].concat();
    let requests = {
        // The data block follows its command line without the helper's extra line end.
        let at = requests.windows(8).position(|window| window == b"append a").unwrap();
        let line_end = at + requests[at..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
        [&requests[..line_end], &requests[line_end + 2..]].concat()
    };
    let head = |line: &str, value: &[u8], tail: &str| [line.as_bytes(), value, tail.as_bytes()].concat();
    let expected = [
        b"STORED\r\nSTORED\r\nVALUE s 0 1\r\n1\r\n".to_vec(),
        head("VALUE a 5 1000000\r\n", &a, "\r\nVALUE s 0 1\r\n1\r\nEND\r\nERROR\r\n"),
        head("VALUE a 5 1000000\r\n", &a, "\r\nEND\r\nMN\r\n"),
        head("VA 1000000 f3 kb Oxyz\r\n", &b, "\r\n"),
        head("VALUE b 3 1000000\r\n", &b, "\r\nVALUE s 0 1\r\n1\r\nEND\r\n"),
        head("VA 1000000 s1000000\r\n", &b, "\r\nNOT_STORED\r\n"),
        b"VALUE s 0 1\r\n1\r\nEND\r\nHD s1000000 h1\r\n".to_vec(),
    ];
    ask(&mut stream, &requests, &expected.concat());
}

#[test]
fn large_values_work_in_the_binary_protocol() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.12");
    let mut stream = proxy.connect();
    stream.write_all(&binary::login(&token)).unwrap();
    let mut welcome = [0; 24 + 13];
    stream.read_exact(&mut welcome).unwrap();
    let a = value(b'a');
    let flags = [0, 0, 0, 9, 0, 0, 0, 0];
    let requests =
        [request(0x11, &flags, b"a", &a), request(0x0c, b"", b"a", b""), request(0x0a, b"", b"", b"")];
    let mut reply = vec![0; 24 + 4 + 1 + LONG + 24];
    std::thread::scope(|scope| {
        let mut writing = stream.try_clone().unwrap();
        scope.spawn(move || writing.write_all(&requests.concat()).unwrap());
        stream.read_exact(&mut reply).unwrap();
    });
    assert_eq!(reply[..12], [0x81, 0x0c, 0, 1, 4, 0, 0, 0, 0, 0x0f, 0x42, 0x45]);
    assert_eq!(reply[24..29], [0, 0, 0, 9, b'a']);
    assert!(reply[29..29 + LONG] == a);
    assert_eq!(reply[29 + LONG..29 + LONG + 2], [0x81, 0x0a]);
}

#[test]
fn incomplete_value_is_not_stored() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.13");
    let mut other = login(&proxy, &token);
    ask(&mut other, b"set a 0 0 3\r\nold\r\n", b"STORED\r\n");
    // The client disconnects halfway.
    let mut stream = login(&proxy, &token);
    stream.write_all(b"set a 0 0 1000000\r\n").unwrap();
    stream.write_all(&vec![b'x'; LONG / 2]).unwrap();
    drop(stream);
    ask(&mut other, b"get a\r\n", b"VALUE a 0 3\r\nold\r\nEND\r\n");
    // The block is longer than declared: its rest must not be read as a command (D-3).
    let mut stream = login(&proxy, &token);
    stream.write_all(b"set a 0 0 1000000\r\n").unwrap();
    stream.write_all(&vec![b'x'; LONG]).unwrap();
    stream.write_all(b"set a 0 0 1\r\n1\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "CLIENT_ERROR bad data chunk\r\n");
    ask(&mut other, b"get a\r\n", b"VALUE a 0 3\r\nold\r\nEND\r\n");
}

/// Uploads that stop halfway leave nothing behind that a whole one waits for.
#[test]
fn broken_uploads_delay_no_whole_one() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.132");
    let mut canary = login(&proxy, &token);
    let upload = [b"set whole 0 0 1000000\r\n", &value(b'a')[..], b"\r\n"].concat();
    let rounds = if is_long_run() { 500 } else { 50 };
    for round in 0..rounds {
        let broken: Vec<TcpStream> = (0..8)
            .map(|at| {
                let mut stream = login(&proxy, &token);
                stream.write_all(b"set broken 0 0 1000000\r\n").unwrap();
                // Up to a megabyte: nothing, a part, all but the line end.
                stream.write_all(&vec![b'x'; LONG / 7 * at]).unwrap();
                stream
            })
            .collect();
        if round % 2 == 0 {
            drop(broken);
        }
        let started = Instant::now();
        ask(&mut canary, &upload, b"STORED\r\n");
        assert!(started.elapsed() < Duration::from_secs(3), "round {round}: {:?}", started.elapsed());
    }
    ask(&mut canary, b"get broken\r\n", b"END\r\n");
}

// P-1, F-1.
#[test]
fn memcached_restart_fails_only_the_store_in_flight() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let mut memcached = Memcached::start(&proxy, &token, "10.214.7.14");
    let mut stream = login(&proxy, &token);
    ask(&mut stream, b"set s 0 0 1\r\n1\r\n", b"STORED\r\n");
    stream.write_all(b"set a 0 0 1000000\r\n").unwrap();
    stream.write_all(&vec![b'x'; LONG / 2]).unwrap();
    // Before it has a lane, it waits for one.
    let deadline = Instant::now() + Duration::from_secs(10);
    while proxy.metric("memgate_proxy_lanes{kind=\"dedicated\"}") < 0.5 {
        assert!(Instant::now() < deadline);
    }
    memcached.restart();
    stream.write_all(&vec![b'x'; LONG / 2]).unwrap();
    stream.write_all(b"\r\n").unwrap();
    assert_eq!(line(&mut stream), "SERVER_ERROR backend unavailable\r\n");
    // The connection continues, and its replies stay in order.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        stream.write_all(b"get s\r\n").unwrap();
        match line(&mut stream).as_str() {
            "END\r\n" => break,
            "SERVER_ERROR backend unavailable\r\n" => assert!(Instant::now() < deadline),
            other => panic!("{other:?}"),
        }
    }
}

/// Resident memory of this process, which includes the proxy, in bytes.
fn resident_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

//
#[test]
fn client_that_never_reads_uses_little_memory() {
    let _exclusive = exclusive();
    const EACH: usize = 256 * 1024;
    // Each has a dedicated lane: where a process may have 20,000 files, a cache has 271 and a token half of them.
    let count = 240;
    raise_file_limit();
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let other = proxy.create_token(&token, store::Permissions::ALL);
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.15");
    let mut neighbour = login(&proxy, &token);
    let a = value(b'a');
    ask(&mut neighbour, &[b"set a 0 0 1000000\r\n", &a[..], b"\r\n"].concat(), b"STORED\r\n");
    ask(&mut neighbour, b"set s 0 0 1\r\n1\r\n", b"STORED\r\n");
    let before = resident_memory();
    let mut clients: Vec<TcpStream> =
        (0..count).map(|nth| login(&proxy, if nth % 2 == 0 { &token } else { &other })).collect();
    for client in &mut clients {
        client.write_all("get a\r\n".repeat(4).as_bytes()).unwrap();
        ask(&mut neighbour, b"get s\r\n", b"VALUE s 0 1\r\n1\r\nEND\r\n");
    }
    // Wait until every client's socket has received something.
    for client in &clients {
        let deadline = Instant::now() + Duration::from_secs(20);
        while client.peek(&mut [0; 64]).unwrap() < 64 {
            assert!(Instant::now() < deadline);
        }
    }
    ask(&mut neighbour, b"get s\r\n", b"VALUE s 0 1\r\n1\r\nEND\r\n");
    let grown = resident_memory().saturating_sub(before);
    assert!(grown < count * EACH, "{} KiB each", grown / count / 1024);
    println!("{count} clients that don't read: {} KiB each", grown / count / 1024);
    // A client that reads at last receives every byte: it wasn't disconnected for others.
    let expected = [b"VALUE a 0 1000000\r\n", &a[..], b"\r\nEND\r\n"].concat();
    ask(clients.last_mut().unwrap(), b"", &expected.repeat(4));
}

//
#[test]
fn declared_lengths_use_no_memory() {
    let _exclusive = exclusive();
    const EACH: usize = 20 * 1024;
    // Each connection takes two files of this process, and some a lane; many systems allow 20,000.
    let clients_of_each_kind = if is_long_run() { 2_350 } else { 500 };
    raise_file_limit();
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.17");
    let sasl = binary::login(&token);
    let stored = text::login(&token).into_bytes();
    let kinds: [(&[u8], Vec<u8>, usize); 4] = [
        (b"set a 0 0 2147483645\r\nbeginning", stored.clone(), 8),
        (b"ms a 900000\r\nbeginning", stored, 8),
        (
            &binary::Header {
                opcode: 0x01,
                key_len: 1,
                extras_len: 8,
                body_len: 0x4000_0000,
                ..Default::default()
            }
            .encode(),
            sasl,
            37,
        ),
        (
            &binary::Header {
                opcode: 0x21,
                key_len: 5,
                extras_len: 0,
                body_len: 0x4000_0000,
                ..Default::default()
            }
            .encode(),
            Vec::new(),
            0,
        ),
    ];
    let before = resident_memory();
    let mut clients = Vec::new();
    for (declares, login, welcome) in &kinds {
        for _ in 0..clients_of_each_kind {
            let mut stream = proxy.connect();
            stream.write_all(login).unwrap();
            let mut reply = vec![0; *welcome];
            stream.read_exact(&mut reply).unwrap();
            stream.write_all(declares).unwrap();
            clients.push(stream);
        }
    }
    let mut neighbour = login(&proxy, &token);
    ask(&mut neighbour, b"set s 0 0 1\r\n1\r\nget s\r\n", b"STORED\r\nVALUE s 0 1\r\n1\r\nEND\r\n");
    let grown = resident_memory().saturating_sub(before);
    assert!(grown < clients.len() * EACH, "{} KiB each", grown / clients.len() / 1024);
    println!("{} declared lengths: {} B each", clients.len(), grown / clients.len());
}
