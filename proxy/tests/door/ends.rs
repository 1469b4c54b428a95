//! Tokens that end by the clock, and tokens that are good in some networks only.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use store::{Cidr, Permissions, Token, now};

use super::door::{Door, pair, sasl, set};
use super::memcached::Memcached;
use super::permissions::{AT_ONCE, ends};
use super::scram::tool;
use super::{FAILURE, statuses};

/// Sends a wrong, an ended or a foreign login; how it is answered, which is never before its time.
fn denial(door: &Door, token: &Token) -> (String, Vec<u8>) {
    let begun = Instant::now();
    let said = door.text(&set("x", &pair(token)));
    assert!(begun.elapsed() >= Duration::from_millis(20), "the clock tells");
    let plain = format!("\0{}\0{}", token.id().username(), token.secret().reveal());
    let begun = Instant::now();
    let binary = door.converse(&sasl(0x21, "PLAIN", &plain));
    assert!(begun.elapsed() >= Duration::from_millis(20), "the clock tells");
    (said, binary)
}

fn in_millis(millis: i64) -> Permissions {
    Permissions { expires_at: Some(now() + millis), ..Permissions::ALL }
}

fn only_from(nets: &[&str]) -> Vec<Cidr> {
    nets.iter().map(|net| net.parse().unwrap()).collect()
}

fn still_lives(stream: &mut TcpStream) {
    stream.write_all(b"mn\r\n").unwrap();
    let mut said = [0; 4];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"MN\r\n");
}

#[test]
fn a_token_ends_with_its_time_and_its_connections_with_it() {
    let door = Door::open();
    let all = door.sign_up("ann@example.com");
    let token = door.limited(&all, in_millis(1500));
    let ends_at = Instant::now() + Duration::from_millis(1500);
    let [mut live, mut neighbour] = [&token, &all].map(|token| door.logged_in(token));
    still_lives(&mut live);
    assert!(ends(&mut live));
    let late = Instant::now().duration_since(ends_at - Duration::from_millis(100));
    assert!(Instant::now() > ends_at - Duration::from_millis(100), "it ended early");
    assert!(late < AT_ONCE, "it ended {late:?} late");
    still_lives(&mut neighbour);
    let wrong = denial(&door, &Token::generate());
    assert_eq!(denial(&door, &token), wrong);
    assert_eq!((wrong.0.as_str(), statuses(&wrong.1)), (FAILURE, vec![0x20]));
}

#[test]
fn an_end_that_is_brought_forward_holds_for_live_connections() {
    let door = Door::open();
    let all = door.sign_up("ann@example.com");
    let token = door.limited(&all, in_millis(3_600_000));
    let mut live = door.logged_in(&token);
    door.change(&token.id(), |permissions| permissions.expires_at = Some(now() + 200));
    let ends_at = Instant::now() + Duration::from_millis(200);
    assert!(ends(&mut live));
    assert!(Instant::now() < ends_at + AT_ONCE);
    assert_eq!(door.text(&set("x", &pair(&token))), FAILURE);
}

#[test]
fn a_rotated_token_lives_on_for_its_grace() {
    let door = Door::open();
    let all = door.sign_up("ann@example.com");
    let new = store::NewToken::generate(&super::door::token_key(door.folder.path()), "x");
    let mut live = door.logged_in(&all);
    let ends_at = now() + 700;
    let (new, _) = door.runtime.block_on(door.store.rotate_token(&all.id(), new, ends_at)).unwrap();
    let mut successor = door.logged_in(&new.token);
    still_lives(&mut live);
    assert!(ends(&mut live));
    assert!(now() >= ends_at && now() < ends_at + 1000);
    still_lives(&mut successor);
    assert_eq!(door.text(&set("x", &pair(&all))), FAILURE);
}

#[test]
fn a_token_is_good_in_its_own_networks_only() {
    let door = Door::open();
    let all = door.sign_up("ann@example.com");
    let permissions = |nets| Permissions { allow_from: only_from(nets), ..Permissions::ALL };
    let here = door.limited(&all, permissions(&["192.0.2.0/24", "127.0.0.0/8"]));
    let elsewhere = door.limited(&all, permissions(&["192.0.2.0/24", "2001:db8::/32"]));
    let mut live = door.logged_in(&here);
    let wrong = denial(&door, &Token::generate());
    assert_eq!(denial(&door, &elsewhere), wrong);
    // Another network, while it is connected.
    door.change(&here.id(), |permissions| permissions.allow_from = only_from(&["192.0.2.0/24"]));
    let changed_at = Instant::now();
    assert!(ends(&mut live));
    assert!(changed_at.elapsed() < AT_ONCE);
    assert_eq!(denial(&door, &here), wrong);
}

/// What memccat says of `key` when it logs in by SCRAM.
fn scram_cat(door: &Door, token: &Token) -> std::process::Output {
    let (user, secret) = (token.id().username(), token.secret().reveal().to_owned());
    tool("memccat", door.config.listen, &user, &secret, "note.txt")
}

#[test]
fn scram_lets_nobody_in_whom_a_password_would_not() {
    let door = Door::open_with(|config| config.scram = true);
    let all = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &all, "10.214.7.105");
    assert_eq!(door.text(&(set("x", &pair(&all)) + &set("note.txt", "here"))), "STORED\r\nSTORED\r\n");
    let here = Permissions { allow_from: only_from(&["127.0.0.0/8"]), ..in_millis(3_600_000) };
    let here = scram_cat(&door, &door.limited(&all, here));
    assert_eq!(String::from_utf8_lossy(&here.stdout).trim_end(), "here", "{here:?}");
    let elsewhere = Permissions { allow_from: only_from(&["192.0.2.0/24"]), ..Permissions::ALL };
    for permissions in [elsewhere, in_millis(0)] {
        let token = door.limited(&all, permissions);
        let said = scram_cat(&door, &token);
        assert!(said.stdout.is_empty() && !said.status.success(), "{said:?}");
    }
}
