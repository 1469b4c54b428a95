//! Live connections, as whoever asks sees them, and the end of one by order.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use store::{LiveConnections, Token};

use super::door::Door;
use super::permissions::ends;

impl Door {
    fn instance(&self, token: &Token) -> String {
        self.runtime.block_on(self.store.grant(&token.id())).unwrap().unwrap().instance_id
    }

    /// The live connections of a token's cache, as soon as there are so many.
    fn live(&self, token: &Token, count: usize) -> LiveConnections {
        let deadline = Instant::now() + Duration::from_secs(20);
        let instance = self.instance(token);
        loop {
            let live = self.runtime.block_on(self.store.live_connections(&instance)).unwrap();
            if live.connections.len() == count && live.silent == 0 {
                return live;
            }
            assert!(Instant::now() < deadline, "{live:?}");
        }
    }
}

#[test]
fn connections_are_listed_and_one_is_ended() {
    let door = Door::open();
    let (token, other) = (door.sign_up("ann@example.com"), door.sign_up("bob@example.com"));
    assert_eq!(door.live(&token, 0).total, 0);
    let mut first = door.logged_in(&token);
    let mut second = door.logged_in(&token);
    let _elsewhere = door.logged_in(&other);
    let live = door.live(&token, 2);
    assert_eq!(live.total, 2);
    for it in &live.connections {
        assert_eq!((&*it.token_id, &*it.source, &*it.protocol), (token.id().as_str(), "127.0.0.1", "text"));
        assert!(!it.tls && it.operations == 0 && it.since == it.id.since);
    }
    // Bob's order for Ann's connection ends nothing.
    let id = live.connections[0].id.clone();
    assert!(door.runtime.block_on(door.store.close_connection(&door.instance(&other), &id)).unwrap());
    assert_eq!(door.live(&token, 2).total, 2);
    let ordered_at = Instant::now();
    assert!(door.runtime.block_on(door.store.close_connection(&door.instance(&token), &id)).unwrap());
    assert!(ordered_at.elapsed() < Duration::from_secs(2));
    let left = door.live(&token, 1);
    assert_eq!(left.connections[0].id, live.connections[1].id);
    first.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(ends(&mut first));
    second.write_all(b"bogus\r\n").unwrap();
    let mut said = [0; 7];
    second.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"ERROR\r\n");
}
