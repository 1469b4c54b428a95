//! What clients do is counted, for the store and for `/metrics`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::door::{Door, pair, set};
use super::memcached::Memcached;

pub(super) fn metrics(door: &Door) -> String {
    let mut stream = TcpStream::connect(door.config.health).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

#[test]
fn what_clients_do_is_counted() {
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &token, "10.214.7.16");
    let instance = door.runtime.block_on(door.store.grant(&token.id())).unwrap().unwrap().instance_id;
    let mut stream = door.call();
    let asked = set("x", &pair(&token))
        + &set("a", "value")
        + "get a nothing\r\nmg a v\r\nmg nothing v q\r\nmn\r\nincr a 1\r\ndelete a\r\ntouch a 0\r\nversion\r\nstats\r\n";
    stream.write_all(asked.as_bytes()).unwrap();
    let mut said = Vec::new();
    let mut piece = [0; 4096];
    while said.windows(5).filter(|window| *window == b"END\r\n").count() < 2 {
        let read = stream.read(&mut piece).unwrap();
        said.extend_from_slice(&piece[..read]);
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let usage = door.runtime.block_on(door.store.usage(&instance)).unwrap();
        let connections = door.runtime.block_on(door.store.connections(&instance)).unwrap();
        if usage.others == 2 && connections == 1 {
            let kinds =
                (usage.hits, usage.misses, usage.stores, usage.deletes, usage.arithmetic, usage.touches);
            assert_eq!(kinds, (2, 2, 1, 1, 1, 1));
            assert_eq!(usage.errors, 0);
            // All but the login, which was read at the door.
            let login = i64::try_from(set("x", &pair(&token)).len()).unwrap();
            assert!(usage.bytes_in <= i64::try_from(asked.len()).unwrap() - login);
            assert_eq!(usage.bytes_out, i64::try_from(said.len()).unwrap());
            break;
        }
        assert!(Instant::now() < deadline, "{usage:?}, {connections} connections");
        std::thread::yield_now();
    }
    let latency = door.runtime.block_on(door.store.latency(&instance)).unwrap();
    assert_eq!(latency.iter().map(|(_, requests)| requests).sum::<i64>(), 9);
    let metrics = metrics(&door);
    for line in [
        "memgate_proxy_operations_total{kind=\"hit\"} 2",
        "memgate_proxy_operations_total{kind=\"other\"} 2",
        "memgate_proxy_request_errors_total 0",
        "memgate_proxy_request_duration_seconds_count 9",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}
