//! The door, over real sockets and a real store, with no memcached behind it: who gets in, who doesn't,
//! and what each is told.

#[path = "door/broken.rs"]
mod broken;
#[path = "door/certificates.rs"]
mod certificates;
#[path = "door/connections.rs"]
mod connections;
#[path = "door/denials.rs"]
mod denials;
#[path = "support/dice.rs"]
mod dice;
#[path = "support/door.rs"]
mod door;
#[path = "door/ends.rs"]
mod ends;
#[path = "door/forwarded.rs"]
mod forwarded;
#[path = "door/live.rs"]
mod live;
#[path = "door/long.rs"]
mod long;
#[path = "support/memcached.rs"]
mod memcached;
#[path = "door/permissions.rs"]
mod permissions;
#[path = "door/rates.rs"]
mod rates;
#[path = "door/scram.rs"]
mod scram;
#[path = "door/sequences.rs"]
mod sequences;
#[path = "door/throttle.rs"]
mod throttle;
#[path = "door/tls.rs"]
mod tls;
#[path = "door/usage.rs"]
mod usage;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use store::{NewToken, NewUser, Token};

use door::{Door, pair, sasl, set, token_key};
use memcached::{Memcached, Program};

const UNAVAILABLE: &str = "SERVER_ERROR backend unavailable\r\n";
const FAILURE: &str = "CLIENT_ERROR authentication failure\r\n";

impl Door {
    /// With other settings than the defaults.
    fn open_with(change: impl FnOnce(&mut proxy::Config)) -> Self {
        let mut config = proxy::Config::default();
        change(&mut config);
        Self::open_in(tempfile::tempdir().unwrap(), config)
    }

    fn call(&self) -> TcpStream {
        let stream = TcpStream::connect(self.config.listen).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// Sends `bytes` at once, ends sending, and returns all that comes until the end.
    fn converse(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.call();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        said
    }

    fn text(&self, lines: &str) -> String {
        String::from_utf8(self.converse(lines.as_bytes())).unwrap()
    }
}

impl Memcached {
    fn start(door: &Door, token: &Token, address: &str) -> Self {
        Self::start_program(Program::debian(), door, token, address)
    }
}

/// The statuses of all replies in `said`.
fn statuses(mut said: &[u8]) -> Vec<u16> {
    let mut all = Vec::new();
    while said.len() >= 24 {
        all.push(u16::from_be_bytes([said[6], said[7]]));
        let body = u32::from_be_bytes([said[8], said[9], said[10], said[11]]);
        said = &said[24 + usize::try_from(body).unwrap()..];
    }
    assert!(said.is_empty(), "half a reply");
    all
}

#[test]
fn every_form_of_login_opens_the_door() {
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let (user, secret, whole) = (token.id().username(), token.secret().reveal().to_owned(), token.reveal());
    for login in [
        set("x", &pair(&token)),
        set("x", &format!("{user} {whole}")),
        set("x", &whole),
        set(&user, &secret),
        set("k", &pair(&token)).replace(" 0 0 ", " y z ").replacen("\r\n", " noreply\n", 1),
    ] {
        // No memcached: what comes behind a login shows that it is one.
        assert_eq!(door.text(&format!("{login}get a b\r\nquit\r\n")), format!("STORED\r\n{UNAVAILABLE}"));
    }
    let (list, get) = (sasl(0x20, "", ""), sasl(0x00, "a", ""));
    for message in [format!("\0{user}\0{secret}"), format!("{user}\0{user}\0{secret}")] {
        let said = door.converse(&[list.clone(), sasl(0x21, "PLAIN", &message), get.clone()].concat());
        assert_eq!(statuses(&said), [0, 0, 0x86]);
    }
    let steps = [sasl(0x21, "plain", ""), sasl(0x22, "plain", &format!("\0{user}\0{secret}")), get.clone()];
    assert_eq!(statuses(&door.converse(&steps.concat())), [0x21, 0, 0x86]);
}

#[test]
fn what_is_wrong_gets_the_same_words_not_before_its_time() {
    let door = Door::open();
    let (token, other) = (door.sign_up("ann@example.com"), Token::generate());
    let revoked = door.sign_up("eve@example.com");
    door.runtime.block_on(door.store.revoke_token(&revoked.id())).unwrap();
    let mistyped = {
        let mut text = pair(&token);
        let last = text.pop().unwrap();
        text.push(if last == 'x' { 'y' } else { 'x' });
        text
    };
    for payload in [
        pair(&other),
        mistyped,
        pair(&revoked),
        format!("{} {}", token.id().username(), other.secret().reveal()),
        format!(" {}", token.secret().reveal()),
        "user pass".to_owned(),
    ] {
        let begun = Instant::now();
        let mut stream = door.call();
        stream.write_all(set("x", &payload).as_bytes()).unwrap();
        let mut said = [0; FAILURE.len()];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(std::str::from_utf8(&said), Ok(FAILURE), "{payload}");
        assert!(begun.elapsed() >= Duration::from_millis(20));
        // It may try again.
        stream.write_all(set("x", &pair(&token)).as_bytes()).unwrap();
        let mut said = [0; 8];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"STORED\r\n");
    }
}

#[test]
fn a_revoked_token_ends_at_once() {
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let login = set("x", &pair(&token));
    let other = NewToken::generate(&token_key(door.folder.path()), "other");
    let user = door.runtime.block_on(door.store.user_by_email("ann@example.com")).unwrap().unwrap();
    door.runtime.block_on(door.store.create_token(&user.id, &other)).unwrap();
    let [mut live, mut neighbour] = [&token, &other.token].map(|token| {
        let mut stream = door.call();
        stream.write_all(set("x", &pair(token)).as_bytes()).unwrap();
        stream.read_exact(&mut [0; 8]).unwrap();
        stream
    });
    door.runtime.block_on(door.store.revoke_token(&token.id())).unwrap();
    let revoked_at = Instant::now();
    // Live connections end too, but only that token's.
    assert!(matches!(live.read(&mut [0; 8]), Ok(0) | Err(_)));
    assert!(revoked_at.elapsed() < Duration::from_secs(1), "the connection lives on");
    neighbour.write_all(b"bogus\r\n").unwrap();
    let mut said = [0; 7];
    neighbour.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"ERROR\r\n");
    while door.text(&login) != FAILURE {
        assert!(revoked_at.elapsed() < Duration::from_secs(1), "it still logs in");
    }
}

#[test]
fn strangers_are_answered_little_and_shown_out() {
    let door = Door::open();
    let unauthenticated = "CLIENT_ERROR unauthenticated\r\n";
    assert_eq!(door.text("get aaa\r\nversion\r\n"), unauthenticated.repeat(2));
    assert_eq!(door.text(&"get aaa\r\n".repeat(100)), unauthenticated.repeat(16));
    assert_eq!(door.text(&set("x", "user pass").repeat(9)), FAILURE.repeat(3));
    for silent in ["quit\r\n", "\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", &"x".repeat(3000)] {
        assert_eq!(door.text(silent), "", "{silent:?}");
    }
    let (get, bad) = (sasl(0x00, "a", ""), sasl(0x21, "PLAIN", "\0user\0pass"));
    assert_eq!(statuses(&door.converse(&get.repeat(3))), [0x20]);
    assert_eq!(statuses(&door.converse(&bad.repeat(9))), [0x20; 3]);
    assert_eq!(statuses(&door.converse(&sasl(0x21, "PLAIN", &"x".repeat(20_000)))), [0x82]);
}

#[test]
fn a_bad_login_after_a_good_one_drops_it() {
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let good = format!("\0{}\0{}", token.id().username(), token.secret().reveal());
    let (good, bad) = (sasl(0x21, "PLAIN", &good), sasl(0x21, "PLAIN", "\0user\0pass"));
    let (list, get) = (sasl(0x20, "", ""), sasl(0x00, "a", ""));
    let said = door.converse(&[&good[..], &get, &bad, &get, &get].concat());
    assert_eq!(statuses(&said), [0, 0x86, 0x20, 0x20]);
    let said = door.converse(&[&good[..], &bad, &good, &list, &get].concat());
    assert_eq!(statuses(&said), [0, 0x20, 0, 0, 0x86]);
}

#[test]
fn a_login_sent_again_is_welcomed_and_not_stored() {
    let door = Door::open();
    let (token, other) = (door.sign_up("ann@example.com"), door.sign_up("bob@example.com"));
    let login = set("x", &pair(&token));
    assert_eq!(door.text(&format!("{login}{login}quit\r\n")), "STORED\r\nSTORED\r\n");
    // Somebody else's is an ordinary value, and there is no memcached to store it.
    let foreign = set("x", &pair(&other));
    assert_eq!(door.text(&format!("{login}{foreign}")), format!("STORED\r\n{UNAVAILABLE}"));
    // So are a right id with a wrong secret, and an id that is nobody's: who is in makes no look-ups.
    let nobodys = Token::generate();
    let wrong = format!("{} {}", token.id().username(), nobodys.secret().reveal());
    for value in [wrong, pair(&nobodys)] {
        let said = door.text(&format!("{login}{}", set("x", &value)));
        assert_eq!(said, format!("STORED\r\n{UNAVAILABLE}"));
    }
}

#[test]
fn silence_at_the_door_ends_in_five_seconds() {
    let door = Door::open();
    let begun = Instant::now();
    let mut callers: Vec<TcpStream> = (0..3).map(|_| door.call()).collect();
    callers[1].write_all(b"set x 0 0 100\r\nmg_").unwrap();
    callers[2].write_all(&[0x80, 0x21, 0]).unwrap();
    for mut caller in callers {
        assert!(matches!(caller.read(&mut [0; 10]), Ok(0) | Err(_)));
    }
    let took = begun.elapsed();
    assert!((4..8).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn logging_in_again_and_again_leaves_nothing_behind() {
    // Deep enough to end the process if every login stood on the one before.
    const TIMES: usize = 20_000;
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let good = format!("\0{}\0{}", token.id().username(), token.secret().reveal());
    let mut stream = door.call();
    let mut reading = stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        reading.read_to_end(&mut said).unwrap();
        statuses(&said)
    });
    stream.write_all(&sasl(0x21, "PLAIN", &good).repeat(TIMES)).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(reader.join().unwrap(), [0; TIMES]);
}

#[test]
fn every_failed_login_takes_its_time_also_behind_another() {
    let door = Door::open();
    let begun = Instant::now();
    let both = set("x", "user pass").repeat(2);
    assert_eq!(door.text(&both), FAILURE.repeat(2));
    assert!(begun.elapsed() >= Duration::from_millis(40), "the second told how long its look-up took");
}

#[test]
fn a_token_whose_id_was_nobodys_logs_in_once_it_is_made() {
    let door = Door::open();
    let token = NewToken::generate(&token_key(door.folder.path()), "test");
    let login = set("x", &pair(&token.token));
    assert_eq!(door.text(&login), FAILURE);
    let user = NewUser { email: "ann@example.com", password_hash: None, plan: "default", is_admin: false };
    door.runtime.block_on(door.store.sign_up(&user, &token)).unwrap();
    let made_at = Instant::now();
    while door.text(&login) != "STORED\r\n" {
        assert!(made_at.elapsed() < Duration::from_secs(1), "it still is nobody's");
    }
}

#[test]
fn a_busy_client_does_not_hold_up_the_stop() {
    let mut door = Door::open();
    let token = door.sign_up("ann@example.com");
    let mut stream = door.call();
    let mut reading = stream.try_clone().unwrap();
    stream.write_all(set("x", &pair(&token)).as_bytes()).unwrap();
    let mut welcome = [0; 8];
    reading.read_exact(&mut welcome).unwrap();
    let writer = std::thread::spawn(move || while stream.write_all(&b"get a\r\n".repeat(1000)).is_ok() {});
    let mut said = vec![0; UNAVAILABLE.len() * 1000];
    reading.read_exact(&mut said).unwrap();
    assert_eq!(String::from_utf8(said).unwrap(), UNAVAILABLE.repeat(1000));
    let reader = std::thread::spawn(move || std::io::copy(&mut reading, &mut std::io::sink()));
    let begun = Instant::now();
    door.shutdown.begin();
    door.proxy.take().unwrap().join().unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    writer.join().unwrap();
    let _ = reader.join().unwrap();
}
