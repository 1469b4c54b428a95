//! What a token may not do, as its clients are told; and permissions that change while connections live.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use store::{NewToken, Permissions, Scopes, Token, TokenId};

use super::door::{Door, pair, sasl, set, token_key};
use super::live::binary;
use super::memcached::Memcached;
use super::usage::metrics;

/// In which a change must have come into force.
pub(super) const AT_ONCE: Duration = Duration::from_secs(1);

fn denied(scope: &str) -> String {
    format!("CLIENT_ERROR access denied: needs {scope} scope\r\n")
}
const OUTSIDE: &str = "CLIENT_ERROR access denied: key outside prefix\r\n";

impl Door {
    /// One more token of the user of `of`.
    pub(super) fn limited(&self, of: &Token, permissions: Permissions) -> Token {
        let user = self.runtime.block_on(self.store.token(&of.id())).unwrap().unwrap().user_id;
        let token = NewToken::generate(&token_key(self.folder.path()), "limited").limited_to(permissions);
        self.runtime.block_on(self.store.create_token(&user, &token)).unwrap();
        token.token
    }

    pub(super) fn change(&self, id: &TokenId, change: impl FnOnce(&mut Permissions)) {
        self.runtime.block_on(self.store.update_permissions(id, change)).unwrap();
    }

    pub(super) fn logged_in(&self, token: &Token) -> TcpStream {
        let mut stream = self.call();
        assert_eq!(ask(&mut stream, &set("x", &pair(token)), 8), "STORED\r\n");
        stream
    }
}

/// What it says to `words`: so many bytes.
fn ask(stream: &mut TcpStream, words: &str, len: usize) -> String {
    stream.write_all(words.as_bytes()).unwrap();
    let mut said = vec![0; len];
    stream.read_exact(&mut said).unwrap();
    String::from_utf8(said).unwrap()
}

/// Whether the connection ends now.
pub(super) fn ends(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 100]), Ok(0) | Err(_))
}

/// Waits until the proxy has read so many bytes of its clients.
fn wait_until_read(door: &Door, bytes: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let metrics = metrics(door);
        let read = metrics
            .lines()
            .find_map(|it| it.strip_prefix("memgate_proxy_traffic_bytes_total{direction=\"in\"} "));
        if read.is_some_and(|read| read.parse::<u64>().unwrap() >= bytes) {
            return;
        }
        assert!(Instant::now() < deadline, "{metrics}");
        std::thread::yield_now();
    }
}

/// What each of `asked` is answered with, in one stream behind a login.
fn check_in_turn(door: &Door, token: &Token, asked: &[(&str, &str)]) {
    let lines: String = asked.iter().map(|(line, _)| format!("{line}\r\n")).collect();
    let expected: String = asked.iter().map(|(_, answer)| *answer).collect();
    let said = door.text(&format!("{}{lines}quit\r\n", set("x", &pair(token))));
    assert_eq!(said, format!("STORED\r\n{expected}"));
}

#[test]
fn a_reader_is_told_in_turn_what_it_may_not() {
    let door = Door::open();
    let all = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &all, "10.214.7.100");
    let reader = door.limited(&all, Permissions { scopes: Scopes::READ, ..Permissions::ALL });
    let here = "VALUE a 0 1\r\nv\r\nEND\r\n";
    check_in_turn(&door, &all, &[("set a 0 0 1\r\nv", "STORED\r\n")]);
    let (write, flush, stats) = (&*denied("write"), &*denied("flush"), &*denied("stats"));
    let long = format!("set a 0 0 200000\r\n{}", "v".repeat(200_000));
    let quiet_long = format!("set a 0 0 200000 noreply\r\n{}", "v".repeat(200_000));
    let meta_long = format!("ms a 200000 q\r\n{}", "v".repeat(200_000));
    // It would make memcached forget what was there.
    let too_long = format!("set a 0 0 1048577\r\n{}", "v".repeat(1_048_577));
    check_in_turn(
        &door,
        &reader,
        &[
            ("get a", here),
            ("set a 0 0 1\r\n1", write),
            ("get a", here),
            ("set a 0 0 1 noreply\r\n1", ""),
            (&long, write),
            (&quiet_long, ""),
            (&meta_long, write),
            (&too_long, write),
            ("get a b", here),
            ("cas a 0 0 1 1\r\n1", write),
            ("delete a", write),
            ("delete a noreply", ""),
            ("incr a 1", write),
            ("touch a 0", write),
            ("gat 0 a", write),
            ("gats 0 a b", write),
            ("mg a v", "VA 1\r\nv\r\n"),
            ("mg a v N30", write),
            ("mg a T0", write),
            ("mg a v R30 q", write),
            ("ms a 1 q\r\n1", write),
            ("md a q", write),
            ("ma a q", write),
            ("mg YQ== b v", "VA 1\r\nv\r\n"),
            ("me nothing", "EN\r\n"),
            ("stats", stats),
            ("stats items", stats),
            ("flush_all", flush),
            ("flush_all noreply", ""),
            ("verbosity 1", "OK\r\n"),
            ("mn", "MN\r\n"),
            ("get a", here),
        ],
    );
    let version = door.text(&format!("{}version\r\nquit\r\n", set("x", &pair(&reader))));
    assert!(version.starts_with("STORED\r\nVERSION 1."), "{version}");
    // A login sent again is not a store.
    let login = set("x", &pair(&reader));
    assert_eq!(door.text(&format!("{login}{login}quit\r\n")), "STORED\r\nSTORED\r\n");
}

#[test]
fn whoever_may_only_write_flush_or_see_numbers_may_do_that() {
    let door = Door::open();
    let all = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &all, "10.214.7.101");
    let read = &*denied("read");
    let writer = door.limited(&all, Permissions { scopes: Scopes::WRITE, ..Permissions::ALL });
    let asked = [
        ("set a 0 0 1\r\nv", "STORED\r\n"),
        ("get a", read),
        ("gat 0 a", read),
        ("mg a v", read),
        ("me a", read),
        ("ms b 1 q\r\n1", ""),
        ("incr b 1", "2\r\n"),
        ("flush_all", &denied("flush")),
    ];
    check_in_turn(&door, &writer, &asked);
    let flusher = door.limited(&all, Permissions { scopes: Scopes::FLUSH, ..Permissions::ALL });
    let asked = [("get a", read), ("delete a", &denied("write")), ("flush_all", "OK\r\n")];
    check_in_turn(&door, &flusher, &asked);
    check_in_turn(&door, &all, &[("get a b", "END\r\n")]);
    let watcher = door.limited(&all, Permissions { scopes: Scopes::STATS, ..Permissions::ALL });
    let said = door.text(&format!("{}stats\r\nget a\r\nquit\r\n", set("x", &pair(&watcher))));
    assert!(said.starts_with("STORED\r\nSTAT pid ") && said.ends_with(&format!("END\r\n{read}")), "{said}");
}

#[test]
fn binary_clients_are_told_also_where_they_are_quiet() {
    let door = Door::open();
    let all = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &all, "10.214.7.102");
    let permissions =
        Permissions { scopes: Scopes::READ, prefix: Some("app:".parse().unwrap()), ..Permissions::ALL };
    let reader = door.limited(&all, permissions);
    let plain = |token: &Token| {
        let (user, secret) = (token.id().username(), token.secret().reveal().to_owned());
        sasl(0x21, "PLAIN", &format!("\0{user}\0{secret}"))
    };
    let (flags, long) = ([0; 8], vec![b'v'; 200_000]);
    let stored = door
        .converse(&[plain(&all), binary(0x01, &flags, b"app:a", b"v"), binary(0x07, b"", b"", b"")].concat());
    assert_eq!(super::statuses(&stored), [0, 0, 0]);
    let refused = [
        binary(0x01, &flags, b"app:a", b"v"),
        binary(0x11, &flags, b"app:a", b"v"),
        binary(0x11, &flags, b"app:a", &long),
        binary(0x0f, b"", b"app:a", &long),
        binary(0x14, b"", b"app:a", b""),
        binary(0x15, &[0; 20], b"app:a", b""),
        binary(0x1c, &[0; 4], b"app:a", b""),
        binary(0x1e, &[0; 4], b"app:a", b""),
        binary(0x08, b"", b"", b""),
        binary(0x18, b"", b"", b""),
        binary(0x10, b"", b"", b""),
        binary(0x00, b"", b"other", b""),
        binary(0x09, b"", b"other", b""),
        binary(0x0d, b"", b"YXBwOmE=", b""),
    ];
    let get = binary(0x09, b"", b"app:a", b"");
    let asked: Vec<u8> = refused.iter().flat_map(|request| [&request[..], &get].concat()).collect();
    let said = door.converse(&[plain(&reader), asked, binary(0x0a, b"", b"", b"")].concat());
    let mut rest = &said[24 + "Authenticated".len()..];
    for request in &refused {
        let opcode = request[1];
        let mut expected = vec![0x81, opcode, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 13];
        expected.extend([opcode; 4]);
        expected.extend([0; 8]);
        expected.extend(b"Auth failure.");
        assert_eq!(rest[..expected.len()], expected, "{opcode:#04x}");
        rest = &rest[expected.len()..];
        assert_eq!((rest[1], rest[7], &rest[24..29]), (0x09, 0, &b"\0\0\0\0v"[..]), "the get behind it");
        rest = &rest[29..];
    }
    assert_eq!((rest[1], rest.len()), (0x0a, 24));
}

#[test]
fn keys_outside_of_the_prefix_are_not_there_for_it() {
    let door = Door::open();
    let all = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &all, "10.214.7.103");
    check_in_turn(&door, &all, &[("set other 0 0 1\r\n1", "STORED\r\n")]);
    let app = door.limited(&all, Permissions { prefix: Some("app:".parse().unwrap()), ..Permissions::ALL });
    let too_long = format!("set other 0 0 1048577\r\n{}", "v".repeat(1_048_577));
    let asked = [
        ("set app:a 0 0 1\r\nv", "STORED\r\n"),
        ("get app:a app:b", "VALUE app:a 0 1\r\nv\r\nEND\r\n"),
        ("get app:a other app:b", OUTSIDE),
        ("gat 0 app:a other", OUTSIDE),
        ("set other 0 0 1\r\nv", OUTSIDE),
        ("set other 0 0 1 noreply\r\nv", ""),
        (&too_long, OUTSIDE),
        ("incr other 1", OUTSIDE),
        ("mg app:a v k", "VA 1 kapp:a\r\nv\r\n"),
        ("mg YXBwOmE= b v", "VA 1\r\nv\r\n"),
        ("mg other v q", OUTSIDE),
        ("mg b3RoZXI= b v", OUTSIDE),
        ("mg YXB!wOmE= b v", OUTSIDE),
        ("me other", OUTSIDE),
        ("stats", OUTSIDE),
        ("flush_all", OUTSIDE),
        ("get app:a", "VALUE app:a 0 1\r\nv\r\nEND\r\n"),
    ];
    check_in_turn(&door, &app, &asked);
    check_in_turn(&door, &all, &[("get other", "VALUE other 0 1\r\n1\r\nEND\r\n")]);
}

#[test]
fn a_narrowed_scope_holds_for_live_connections() {
    let door = Door::open();
    let all = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &all, "10.214.7.104");
    let token = door.limited(&all, Permissions::ALL);
    let [mut live, mut storing, mut neighbour] = [&token, &token, &all].map(|token| door.logged_in(token));
    assert_eq!(ask(&mut live, "set a 0 0 1\r\nv\r\n", 8), "STORED\r\n");
    // Allowed when it was begun; its value is on its way to memcached.
    storing.write_all(b"set long 0 0 200000\r\n").unwrap();
    storing.write_all(&[b'v'; 150_000]).unwrap();
    wait_until_read(&door, 150_000);
    door.change(&token.id(), |permissions| permissions.scopes = Scopes::READ);
    let changed_at = Instant::now();
    let refused = denied("write");
    loop {
        live.write_all(b"delete nothing\r\nmn\r\n").unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"MN\r\n") {
            let mut byte = [0];
            live.read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
        if said.starts_with(refused.as_bytes()) {
            break;
        }
        assert_eq!(String::from_utf8_lossy(&said), "NOT_FOUND\r\nMN\r\n");
        assert!(changed_at.elapsed() < AT_ONCE, "it still writes");
    }
    let _ = storing.write_all(&[b'v'; 50_000]);
    let _ = storing.write_all(b"\r\n");
    assert!(ends(&mut storing), "what was begun with the old permissions is done with them");
    assert_eq!(ask(&mut neighbour, "get long\r\n", 5), "END\r\n");
    assert_eq!(ask(&mut live, "get a\r\n", 21), "VALUE a 0 1\r\nv\r\nEND\r\n");
    // And wider again.
    door.change(&token.id(), |permissions| permissions.scopes = Scopes::ALL);
    let changed_at = Instant::now();
    live.write_all(b"set a 0 0 1\r\nw\r\n").unwrap();
    let mut first = [0; 1];
    live.read_exact(&mut first).unwrap();
    while first != *b"S" {
        assert!(changed_at.elapsed() < AT_ONCE, "it doesn't write yet");
        live.read_exact(&mut vec![0; refused.len() - 1]).unwrap();
        live.write_all(b"set a 0 0 1\r\nw\r\n").unwrap();
        live.read_exact(&mut first).unwrap();
    }
}

#[test]
fn who_has_waited_for_a_lane_may_have_lost_the_right_to_it() {
    // As many as there are lanes for one client each.
    const LANES: usize = 448;
    let door = Door::open();
    let all = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &all, "10.214.7.106");
    let token = door.limited(&all, Permissions::ALL);
    let mut neighbour = door.logged_in(&all);
    assert_eq!(ask(&mut neighbour, "set a 0 0 1\r\nv\r\n", 8), "STORED\r\n");
    let long = b"set long 0 0 200000\r\n";
    let storing: Vec<TcpStream> = (0..LANES)
        .map(|_| {
            let mut storing = door.logged_in(&all);
            storing.write_all(long).unwrap();
            storing
        })
        .collect();
    let (mut flushing, mut last) = (door.logged_in(&token), door.logged_in(&token));
    wait_until_read(&door, u64::try_from(LANES * long.len()).unwrap());
    flushing.write_all(b"flush_all\r\n").unwrap();
    last.write_all(&[&long[..], &[b'v'; 200_000], b"\r\n"].concat()).unwrap();
    // As much as is read at once: the rest waits for the lane.
    wait_until_read(&door, u64::try_from(LANES * long.len()).unwrap() + 10_000);
    door.change(&token.id(), |permissions| permissions.scopes = Scopes::READ);
    let in_force = Instant::now() + AT_ONCE;
    while door.runtime.block_on(door.store.acknowledged(&token.id())).unwrap().by.is_empty() {
        assert!(Instant::now() < in_force, "the change isn't in force");
        std::thread::yield_now();
    }
    drop(storing);
    for mut waited in [flushing, last] {
        let mut said = String::new();
        let _ = waited.read_to_string(&mut said);
        assert_eq!(said, "", "what waited is done as if nothing had changed");
    }
    assert_eq!(ask(&mut neighbour, "get a long\r\n", 21), "VALUE a 0 1\r\nv\r\nEND\r\n");
}
