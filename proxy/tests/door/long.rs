//! Values too long for a lane that is shared: streamed both ways, in order, whoever is slow or dies.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::door::{Door, pair, set};
use super::memcached::Memcached;

const LONG: usize = 1_000_000;

fn login(door: &Door, token: &store::Token) -> TcpStream {
    let mut stream = door.call();
    stream.write_all(set("x", &pair(token)).as_bytes()).unwrap();
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

/// Sends `asked`, and reads exactly what is expected.
fn ask(stream: &mut TcpStream, asked: &[u8], expected: &[u8]) {
    let mut writing = stream.try_clone().unwrap();
    let mut said = vec![0; expected.len()];
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || writing.write_all(asked));
        stream.read_exact(&mut said).unwrap();
        writer.join().unwrap().unwrap();
    });
    let differs = said.iter().zip(expected).position(|(said, expected)| said != expected);
    let from = differs.unwrap_or(0).saturating_sub(20);
    let until = (from + 80).min(said.len());
    assert!(differs.is_none(), "at {differs:?}: {:?}", String::from_utf8_lossy(&said[from..until]));
}

fn value(letter: u8) -> Vec<u8> {
    (0..LONG).map(|at| letter + u8::try_from(at % 7).unwrap()).collect()
}

fn binary(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80, opcode];
    out.extend(u16::try_from(key.len()).unwrap().to_be_bytes());
    out.extend([u8::try_from(extras.len()).unwrap(), 0, 0, 0]);
    out.extend(u32::try_from(extras.len() + key.len() + value.len()).unwrap().to_be_bytes());
    out.extend([0; 12]);
    out.extend([extras, key, value].concat());
    out
}

#[test]
fn long_values_keep_their_place_among_short_ones() {
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &token, "10.214.7.11");
    let mut stream = login(&door, &token);
    let (a, b) = (value(b'a'), value(b'k'));
    let text = |verb: &str, value: &[u8]| [verb.as_bytes(), value, b"\r\n"].concat();
    let asked = [
        &b"set s 0 0 1\r\n1\r\n"[..],
        &text("set a 5 0 1000000\r\n", &a),
        b"get s a nothing s\r\nbogus\r\nget a\r\n",
        &text("ms b 1000000 F3 c q\r\n", &b),
        b"mn\r\nmg b v f q k Oxyz\r\nget b s\r\nmg b s v\r\nadd s 0 0 1\r\n2\r\n",
        &text("append a 0 0 1000000 noreply\r\n", b""),
    ];
    // The last one's block is too large for one item: it is read and refused without a word.
    let refused = text("", &a);
    let asked = [asked.concat(), refused, b"get s\r\nmg a s h\r\n".to_vec()].concat();
    let asked = {
        // An append's own line has its block right behind it.
        let at = asked.windows(8).position(|window| window == b"append a").unwrap();
        let line_end = at + asked[at..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
        [&asked[..line_end], &asked[line_end + 2..]].concat()
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
    ask(&mut stream, &asked, &expected.concat());
}

#[test]
fn long_values_travel_in_the_binary_protocol() {
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &token, "10.214.7.12");
    let mut stream = door.call();
    let plain = format!("\0{}\0{}", token.id().username(), token.secret().reveal());
    stream.write_all(&super::sasl(0x21, "PLAIN", &plain)).unwrap();
    let mut welcome = [0; 24 + 13];
    stream.read_exact(&mut welcome).unwrap();
    let a = value(b'a');
    let flags = [0, 0, 0, 9, 0, 0, 0, 0];
    let asked = [binary(0x11, &flags, b"a", &a), binary(0x0c, b"", b"a", b""), binary(0x0a, b"", b"", b"")];
    let mut said = vec![0; 24 + 4 + 1 + LONG + 24];
    std::thread::scope(|scope| {
        let mut writing = stream.try_clone().unwrap();
        scope.spawn(move || writing.write_all(&asked.concat()).unwrap());
        stream.read_exact(&mut said).unwrap();
    });
    assert_eq!(said[..12], [0x81, 0x0c, 0, 1, 4, 0, 0, 0, 0, 0x0f, 0x42, 0x45]);
    assert_eq!(said[24..29], [0, 0, 0, 9, b'a']);
    assert!(said[29..29 + LONG] == a);
    assert_eq!(said[29 + LONG..29 + LONG + 2], [0x81, 0x0a]);
}

#[test]
fn a_value_that_breaks_off_is_not_stored() {
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &token, "10.214.7.13");
    let mut other = login(&door, &token);
    ask(&mut other, b"set a 0 0 3\r\nold\r\n", b"STORED\r\n");
    // Its client dies half-way.
    let mut stream = login(&door, &token);
    stream.write_all(b"set a 0 0 1000000\r\n").unwrap();
    stream.write_all(&vec![b'x'; LONG / 2]).unwrap();
    drop(stream);
    ask(&mut other, b"get a\r\n", b"VALUE a 0 3\r\nold\r\nEND\r\n");
    // Its block is longer than it said: what follows isn't read as a command.
    let mut stream = login(&door, &token);
    stream.write_all(b"set a 0 0 1000000\r\n").unwrap();
    stream.write_all(&vec![b'x'; LONG]).unwrap();
    stream.write_all(b"set a 0 0 1\r\n1\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "CLIENT_ERROR bad data chunk\r\n");
    ask(&mut other, b"get a\r\n", b"VALUE a 0 3\r\nold\r\nEND\r\n");
}

#[test]
fn a_memcached_that_dies_under_a_store_fails_that_store_alone() {
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let mut memcached = Memcached::start(&door, &token, "10.214.7.14");
    let mut stream = login(&door, &token);
    ask(&mut stream, b"set s 0 0 1\r\n1\r\n", b"STORED\r\n");
    stream.write_all(b"set a 0 0 1000000\r\n").unwrap();
    stream.write_all(&vec![b'x'; LONG / 2]).unwrap();
    memcached.restart();
    stream.write_all(&vec![b'x'; LONG / 2]).unwrap();
    stream.write_all(b"\r\n").unwrap();
    assert_eq!(line(&mut stream), "SERVER_ERROR backend unavailable\r\n");
    // And it goes on, in step.
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

/// Memory that this process holds, the proxy's with it, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn who_asks_much_and_reads_nothing_costs_little_and_holds_up_nobody() {
    const EACH: usize = 256 * 1024;
    let count = if is_long() { 1_000 } else { 300 };
    allow_files();
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &token, "10.214.7.15");
    let mut neighbour = login(&door, &token);
    let a = value(b'a');
    ask(&mut neighbour, &[b"set a 0 0 1000000\r\n", &a[..], b"\r\n"].concat(), b"STORED\r\n");
    ask(&mut neighbour, b"set s 0 0 1\r\n1\r\n", b"STORED\r\n");
    let before = resident();
    let mut clients: Vec<TcpStream> = (0..count).map(|_| login(&door, &token)).collect();
    for client in &mut clients {
        client.write_all("get a\r\n".repeat(4).as_bytes()).unwrap();
        ask(&mut neighbour, b"get s\r\n", b"VALUE s 0 1\r\n1\r\nEND\r\n");
    }
    // All have got what their sockets take.
    for client in &clients {
        let deadline = Instant::now() + Duration::from_secs(20);
        while client.peek(&mut [0; 64]).unwrap() < 64 {
            assert!(Instant::now() < deadline);
        }
    }
    ask(&mut neighbour, b"get s\r\n", b"VALUE s 0 1\r\n1\r\nEND\r\n");
    let grown = resident().saturating_sub(before);
    assert!(grown < count * EACH, "{} KiB each", grown / count / 1024);
    println!("{count} clients that don't read: {} KiB each", grown / count / 1024);
    // And who reads at last gets it whole: one that didn't have to make way for others.
    let expected = [b"VALUE a 0 1000000\r\n", &a[..], b"\r\nEND\r\n"].concat();
    ask(clients.last_mut().unwrap(), b"", &expected.repeat(4));
}

/// Whether tests shall be as large as the promises, however long that takes.
fn is_long() -> bool {
    std::env::var_os("MEMGATE_TEST_LONG").is_some()
}

/// As many files as this process may have.
fn allow_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
}

/// A binary header that declares so long a body.
fn header(opcode: u8, key: u16, extras: u8, body: u32) -> Vec<u8> {
    let mut out = vec![0x80, opcode];
    out.extend(key.to_be_bytes());
    out.extend([extras, 0, 0, 0]);
    out.extend(body.to_be_bytes());
    out.extend([0; 12]);
    out
}

#[test]
fn what_is_only_declared_costs_nothing() {
    const EACH: usize = 20 * 1024;
    // Both ends of each, and lanes for some, are files of this process, which may have 20,000 in many places.
    let clients_of_each_kind = if is_long() { 2_350 } else { 500 };
    allow_files();
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &token, "10.214.7.17");
    let plain = format!("\0{}\0{}", token.id().username(), token.secret().reveal());
    let sasl = super::sasl(0x21, "PLAIN", &plain);
    let stored = set("x", &pair(&token)).into_bytes();
    let kinds: [(&[u8], Vec<u8>, usize); 4] = [
        (b"set a 0 0 2147483645\r\nbeginning", stored.clone(), 8),
        (b"ms a 900000\r\nbeginning", stored, 8),
        (&header(0x01, 1, 8, 0x4000_0000), sasl, 37),
        (&header(0x21, 5, 0, 0x4000_0000), Vec::new(), 0),
    ];
    let before = resident();
    let mut clients = Vec::new();
    for (declares, login, welcome) in &kinds {
        for _ in 0..clients_of_each_kind {
            let mut stream = door.call();
            stream.write_all(login).unwrap();
            let mut said = vec![0; *welcome];
            stream.read_exact(&mut said).unwrap();
            stream.write_all(declares).unwrap();
            clients.push(stream);
        }
    }
    let mut neighbour = login(&door, &token);
    ask(&mut neighbour, b"set s 0 0 1\r\n1\r\nget s\r\n", b"STORED\r\nVALUE s 0 1\r\n1\r\nEND\r\n");
    let grown = resident().saturating_sub(before);
    assert!(grown < clients.len() * EACH, "{} KiB each", grown / clients.len() / 1024);
    println!("{} declared lengths: {} B each", clients.len(), grown / clients.len());
}
