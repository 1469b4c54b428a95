//! What one token may take of its cache: half of the connections unless set, and half of the dedicated lanes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use store::{Permissions, Token};

use super::permissions::PROPAGATION_TIMEOUT;
use testkit::{Memcached, TestProxy, binary, raise_file_limit, text};

const TOO_MANY: &str = "SERVER_ERROR too many connections\r\n";

/// Logs in; `None` if there are too many connections.
fn try_log_in(proxy: &TestProxy, token: &Token) -> Option<TcpStream> {
    let mut stream = proxy.connect();
    stream.write_all(text::login(token).as_bytes()).unwrap();
    let mut reply = [0; 8];
    stream.read_exact(&mut reply).unwrap();
    if &reply == b"STORED\r\n" {
        return Some(stream);
    }
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(String::from_utf8_lossy(&reply) + &*rest, TOO_MANY);
    None
}

// R-42, P-4.
#[test]
fn one_token_has_half_of_the_connections_unless_set() {
    let proxy = TestProxy::start();
    proxy.update_plan(|plan| plan.connections = 5);
    let ada = proxy.sign_up("ada@example.org");
    let narrow = proxy.create_token(&ada, Permissions { connections: Some(1), ..Permissions::ALL });
    let mut open: Vec<TcpStream> = (0..3).map(|_| try_log_in(&proxy, &ada).unwrap()).collect();
    assert!(try_log_in(&proxy, &ada).is_none(), "the fourth of five");
    let reply = proxy.exchange(&binary::login(&ada));
    assert_eq!(binary::statuses(&reply), [0x86]);
    open.push(try_log_in(&proxy, &narrow).unwrap());
    assert!(try_log_in(&proxy, &narrow).is_none());
    // A connection that ends makes room.
    drop(open.remove(0));
    let deadline = Instant::now() + PROPAGATION_TIMEOUT;
    while open.len() < 4 {
        open.extend(try_log_in(&proxy, &ada));
        assert!(Instant::now() < deadline);
    }
    // A raised limit applies to new connections, up to the plan's.
    proxy.update_permissions(&ada.id(), |permissions| permissions.connections = Some(100));
    let deadline = Instant::now() + PROPAGATION_TIMEOUT;
    while open.len() < 5 {
        open.extend(try_log_in(&proxy, &ada));
        assert!(Instant::now() < deadline);
    }
    assert!(try_log_in(&proxy, &ada).is_none(), "the sixth of five");
    let causes = |token, count| {
        let mut causes: Vec<_> =
            proxy.wait_for_denials(token, count).iter().map(|it| it.cause.as_str()).collect();
        causes.sort_unstable();
        causes.dedup();
        causes
    };
    assert_eq!(causes(&ada, 3), ["limit", "token_limit"]);
    assert_eq!(causes(&narrow, 1), ["token_limit"]);
    assert!(proxy.metric("memgate_proxy_logins_total{outcome=\"token_connection_limit\"}") > 0.0);
}

//
#[test]
fn one_token_leaves_dedicated_lanes_to_others() {
    // More than all dedicated lanes of one instance.
    const CLIENTS: usize = 500;
    raise_file_limit();
    let proxy = TestProxy::start();
    let ada = proxy.sign_up("ada@example.org");
    let _memcached = Memcached::start(&proxy, &ada, "10.214.7.122");
    let other = proxy.create_token(&ada, Permissions::ALL);
    let mut storing: Vec<TcpStream> = (0..CLIENTS).map(|_| proxy.log_in(&ada)).collect();
    for client in &mut storing {
        client.write_all(b"set long 0 0 200000\r\nbeginning").unwrap();
    }
    // No waiting: each has a lane of its own while all of the first token's wait for their clients.
    for _ in 0..20 {
        let began = Instant::now();
        let mut stream = proxy.log_in(&other);
        stream.write_all(b"stats sizes\r\nflush_all\r\nquit\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.ends_with("END\r\nOK\r\n"), "{reply}");
        assert!(began.elapsed() < PROPAGATION_TIMEOUT);
    }
}
