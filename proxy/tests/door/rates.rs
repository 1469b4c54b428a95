//! What a plan allows each second, and what is said to more.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use store::Plan;

use super::door::{Door, sasl, set};
use super::live::binary;
use super::memcached::Memcached;
use super::permissions::AT_ONCE;

const OVER: &str = "SERVER_ERROR rate limit exceeded\r\n";

impl Door {
    pub(super) fn update_plan(&self, change: impl FnOnce(&mut Plan)) {
        self.runtime.block_on(self.store.update_plan("default", change)).unwrap();
    }
}

/// What all of `words` are answered with, `quit` behind them.
fn say(stream: &mut TcpStream, words: &str) -> String {
    stream.write_all(format!("{words}quit\r\n").as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

#[test]
fn an_instance_has_so_many_operations_a_second_however_many_its_connections() {
    let door = Door::open();
    let (ada, bob) = (door.sign_up("ada@example.org"), door.sign_up("bob@example.org"));
    let _hers = Memcached::start(&door, &ada, "10.214.7.112");
    let _his = Memcached::start(&door, &bob, "10.214.7.113");
    door.update_plan(|plan| plan.operations_per_second = Some(50));
    let (mut one, mut other) = (door.logged_in(&ada), door.logged_in(&ada));
    let began = Instant::now();
    let (mut passed, mut refused) = (0, 0);
    for said in [say(&mut one, &"delete a\r\n".repeat(200)), say(&mut other, &"delete a\r\n".repeat(200))] {
        passed += said.matches("NOT_FOUND\r\n").count();
        refused += said.matches(OVER).count();
        assert_eq!(passed + refused, if passed + refused > 200 { 400 } else { 200 }, "{said}");
    }
    // All that a second allows at once, and what the time since then allows besides.
    let most = 50 + usize::try_from(began.elapsed().as_millis()).unwrap() * 50 / 1000 + 1;
    assert!((50..=most).contains(&passed), "{passed} of at most {most}");
    // Another instance of the same plan has a rate of its own.
    assert!(!say(&mut door.logged_in(&bob), &"delete a\r\n".repeat(40)).contains(OVER));
}

#[test]
fn more_is_refused_in_turn_in_every_dialect_and_the_connection_stays() {
    let door = Door::open();
    let ada = door.sign_up("ada@example.org");
    let _memcached = Memcached::start(&door, &ada, "10.214.7.112");
    door.update_plan(|plan| plan.operations_per_second = Some(1));
    let mut stream = door.logged_in(&ada);
    // Values are swallowed, noreply is silent, quiet meta isn't; what memgate answers itself is free.
    let big = "x".repeat(200_000);
    let words = format!(
        "delete a\r\n{}{}{}ms a 1 q\r\nx\r\nmg a q\r\nget a b c\r\nmn\r\nbogus\r\n{}",
        set("a", "get a"),
        set("a", &big),
        "delete a noreply\r\n",
        "stats\r\n",
    );
    assert_eq!(say(&mut stream, &words), format!("NOT_FOUND\r\n{}MN\r\nERROR\r\n{OVER}", OVER.repeat(5)));

    let mut stream = door.call();
    let plain = format!("\0{}\0{}", ada.id().username(), ada.secret().reveal());
    let [getkq, noop] = [(0x0d, &b"k"[..]), (0x0a, b"")].map(|(opcode, key)| binary(opcode, b"", key, b""));
    stream.write_all(&[sasl(0x21, "PLAIN", &plain), getkq.repeat(3), noop].concat()).unwrap();
    let mut replies = Vec::new();
    while replies.last().is_none_or(|(opcode, _, _)| *opcode != 0x0a) {
        let mut head = [0; 24];
        stream.read_exact(&mut head).unwrap();
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(head[8..12].try_into().unwrap())).unwrap()];
        stream.read_exact(&mut body).unwrap();
        replies.push((head[1], u16::from_be_bytes([head[6], head[7]]), String::from_utf8(body).unwrap()));
    }
    assert_eq!(replies.remove(0), (0x21, 0, "Authenticated".into()));
    assert_eq!(replies.pop(), Some((0x0a, 0, String::new())));
    // The first may have been let through: a miss that is silent.
    assert!(replies.len() >= 2 && replies.iter().all(|it| *it == (0x0d, 0x85, "Busy".into())), "{replies:?}");
}

#[test]
fn bytes_count_both_ways() {
    let door = Door::open();
    let ada = door.sign_up("ada@example.org");
    let _memcached = Memcached::start(&door, &ada, "10.214.7.112");
    assert_eq!(say(&mut door.logged_in(&ada), &set("a", &"x".repeat(10_000))), "STORED\r\n");
    door.update_plan(|plan| plan.bytes_per_second = Some(50_000));
    let began = Instant::now();
    let deadline = began + Duration::from_secs(20);
    let mut told = 0;
    // A change of the plan is in force within a second; what comes before isn't charged.
    let mut stream = door.logged_in(&ada);
    let mut refused = false;
    while !refused {
        stream.write_all(b"get a\r\n").unwrap();
        let mut said = vec![0; OVER.len()];
        stream.read_exact(&mut said).unwrap();
        refused = said == OVER.as_bytes();
        if !refused {
            let mut rest = vec![0; "VALUE a 0 10000\r\n".len() + 10_000 + "\r\nEND\r\n".len() - said.len()];
            stream.read_exact(&mut rest).unwrap();
            told += 1;
        }
        assert!(Instant::now() < deadline, "{told} times 10 kB in {:?}", began.elapsed());
    }
    assert!(told >= 5, "a second's worth at once");
}

#[test]
fn a_changed_plan_counts_for_live_connections_within_a_second() {
    let door = Door::open();
    let ada = door.sign_up("ada@example.org");
    let _memcached = Memcached::start(&door, &ada, "10.214.7.112");
    let mut stream = door.logged_in(&ada);
    let mut over = |limit: Option<i64>| {
        door.update_plan(|plan| plan.operations_per_second = limit);
        let deadline = Instant::now() + AT_ONCE;
        loop {
            let mut said = vec![0; 1];
            stream.write_all(b"delete a\r\ndelete a\r\ndelete a\r\n").unwrap();
            let mut lines = String::new();
            while lines.matches('\n').count() < 3 {
                stream.read_exact(&mut said).unwrap();
                lines.push(char::from(said[0]));
            }
            if lines.contains(OVER) == limit.is_some() {
                return;
            }
            assert!(Instant::now() < deadline, "{limit:?}: {lines}");
        }
    };
    over(Some(1));
    over(None);
}
