//! Usage counters: in the store and at `/metrics`.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use testkit::{Memcached, TestProxy, text};

#[test]
fn usage_is_counted() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.16");
    let instance = proxy.runtime.block_on(proxy.store.grant(&token.id())).unwrap().unwrap().instance_id;
    let mut stream = proxy.connect();
    let requests = text::login(&token)
        + &text::set("a", "value")
        + "get a nothing\r\nmg a v\r\nmg nothing v q\r\nmn\r\nincr a 1\r\ndelete a\r\ntouch a 0\r\nversion\r\nstats\r\n";
    stream.write_all(requests.as_bytes()).unwrap();
    let mut reply = Vec::new();
    let mut piece = [0; 4096];
    while reply.windows(5).filter(|window| *window == b"END\r\n").count() < 2 {
        let read = stream.read(&mut piece).unwrap();
        reply.extend_from_slice(&piece[..read]);
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let usage = proxy.runtime.block_on(proxy.store.usage(&instance)).unwrap();
        let connections = proxy.runtime.block_on(proxy.store.connections(&instance)).unwrap();
        if usage.others == 2 && connections == 1 {
            let kinds =
                (usage.hits, usage.misses, usage.stores, usage.deletes, usage.arithmetic, usage.touches);
            assert_eq!(kinds, (2, 2, 1, 1, 1, 1));
            assert_eq!(usage.errors, 0);
            // Without the login, which isn't charged, and with what came in the same packet.
            let login = i64::try_from(text::login(&token).len()).unwrap();
            assert_eq!(usage.bytes_in, i64::try_from(requests.len()).unwrap() - login);
            assert_eq!(usage.bytes_out, i64::try_from(reply.len()).unwrap());
            break;
        }
        assert!(Instant::now() < deadline, "{usage:?}, {connections} connections");
        std::thread::yield_now();
    }
    let latency = proxy.runtime.block_on(proxy.store.latency(&instance)).unwrap();
    assert_eq!(latency.iter().map(|(_, requests)| requests).sum::<i64>(), 9);
    let metrics = proxy.metrics();
    for line in [
        "memgate_proxy_operations_total{kind=\"hit\"} 2",
        "memgate_proxy_operations_total{kind=\"other\"} 2",
        "memgate_proxy_request_errors_total{protocol=\"text\",cause=\"unavailable\"} 0",
        "memgate_proxy_request_errors_total{protocol=\"binary\",cause=\"timed_out\"} 0",
        "memgate_proxy_request_duration_seconds_count{protocol=\"text\"} 7",
        "memgate_proxy_request_duration_seconds_count{protocol=\"meta\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

/// its user sees when a token was last used, and from where.
#[test]
fn last_use_of_a_token_is_recorded() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.17");
    let last_use = || proxy.runtime.block_on(proxy.store.token(&token.id())).unwrap().unwrap();
    assert_eq!(last_use().last_used_at, None);
    let mut stream = proxy.connect();
    stream.write_all(text::login(&token).as_bytes()).unwrap();
    let mut reply = [0; 8];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"STORED\r\n");
    let deadline = Instant::now() + Duration::from_secs(20);
    while last_use().last_used_at.is_none() {
        assert!(Instant::now() < deadline, "no use was recorded");
        std::thread::yield_now();
    }
    assert_eq!(last_use().last_used_from.as_deref(), Some("127.0.0.1"));
}
