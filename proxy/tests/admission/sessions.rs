//! One cache takes no more of the proxy's connections than others leave it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use store::Token;
use testkit::{Memcached, TestProxy, text};

use super::{TOO_MANY_CONNECTIONS, logs_in, loopback, metric, open, wait_until};

const CONNECTIONS: usize = 400;

/// Opens up to `most` sessions, each from a source of its own.
fn fill(proxy: &TestProxy, token: &Token, most: usize) -> Vec<TcpStream> {
    let login = text::login(token);
    (0..most).map_while(|number| logs_in(proxy, loopback(number / 50), &login).ok()).collect()
}

fn ask(client: &mut TcpStream) -> bool {
    let mut reply = [0; 7];
    client.write_all(b"bogus\r\n").is_ok() && client.read_exact(&mut reply).is_ok() && &reply == b"ERROR\r\n"
}

// R-31, P-4.
#[test]
fn idle_sessions_of_a_few_caches_leave_connections_to_others() {
    let proxy = open(CONNECTIONS);
    let tokens: Vec<Token> = (0..8).map(|nth| proxy.sign_up(&format!("user{nth}@example.com"))).collect();
    // A quarter of the proxy's connections, whatever the plan allows.
    let mut first = fill(&proxy, &tokens[0], CONNECTIONS);
    assert_eq!(first.len(), CONNECTIONS / 4);
    let denied = logs_in(&proxy, loopback(1000), &text::login(&tokens[0])).unwrap_err();
    assert_eq!(denied, TOO_MANY_CONNECTIONS);
    assert_eq!(proxy.wait_for_denials(&tokens[0], 1)[0].cause.as_str(), "proxy_limit");
    assert!(metric(&proxy, "memgate_proxy_logins_total{outcome=\"proxy_limit\"}") > 0);
    // One of them is in use, also later.
    let mut used = first.pop().unwrap();
    let mut others = Vec::new();
    for token in &tokens[1..5] {
        assert!(ask(&mut used));
        others.push(fill(&proxy, token, CONNECTIONS));
    }
    assert!(ask(&mut used));
    // A newcomer gets a part like the others'.
    let mut newcomers = Vec::new();
    let part = CONNECTIONS / 8;
    wait_until("a newcomer has no connections", || {
        newcomers.extend(fill(&proxy, &tokens[5], part - newcomers.len()));
        (newcomers.len() == part).then_some(())
    });
    wait_until("an eighth is not free", || {
        (metric(&proxy, "memgate_proxy_sessions") <= CONNECTIONS - CONNECTIONS / 8).then_some(())
    });
    assert!(newcomers.iter_mut().all(ask), "who has no more than its part keeps it");
    assert!(ask(&mut used), "what was idle for longest has ended first");
    // Nothing is sent: its client would take it for the reply to its next request.
    let ended = &mut first[0];
    assert_eq!(ended.read_to_end(&mut Vec::new()).unwrap(), 0);
    assert!(metric(&proxy, "memgate_proxy_denials_total{cause=\"proxy_limit\"}") > 1);
    drop(others);
}

//
#[test]
fn session_whose_request_is_on_a_dedicated_lane_is_not_idle() {
    let proxy = open(CONNECTIONS);
    let tokens: Vec<Token> = (0..5).map(|nth| proxy.sign_up(&format!("user{nth}@example.com"))).collect();
    let memcached = Memcached::start(&proxy, &tokens[0], "10.214.7.77");
    let mut all: Vec<_> = tokens[..4].iter().map(|token| fill(&proxy, token, CONNECTIONS)).collect();
    let (waiting, first) = all[0].split_first_mut().unwrap();
    memcached.freeze();
    waiting.write_all(b"stats\r\n").unwrap();
    assert!(first.iter_mut().all(ask), "they are used later than it");
    // Now too few connections are free, and the cache gives up those that have been idle for longest.
    let last = fill(&proxy, &tokens[4], CONNECTIONS);
    assert_eq!(first[0].read_to_end(&mut Vec::new()).unwrap(), 0);
    let mut reply = [0; 21];
    waiting.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"SERVER_ERROR backend ", "it can't be reached, or doesn't answer in time");
    drop(last);
}
