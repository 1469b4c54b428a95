//! A connection counts in its plan until a new login is decided, and in exactly one total at every moment.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use store::Token;
use testkit::{TestProxy, binary};

use super::{metric, unauthenticated, wait_until};

/// Connections of the plan, and of each token.
const LIMIT: i64 = 5;
const PLAN: usize = 5;
const ATTEMPTS: usize = 300;
const OK: u16 = 0;
const DENIED: u16 = 0x20;
const UNAVAILABLE: u16 = 0x86;

fn auth(token: &Token) -> Vec<u8> {
    binary::request(0x21, "PLAIN", &binary::plain(token))
}

fn status(stream: &mut TcpStream) -> Option<u16> {
    let mut header = [0; 24];
    stream.read_exact(&mut header).ok()?;
    let body = u32::from_be_bytes(header[8..12].try_into().unwrap());
    stream.read_exact(&mut vec![0; usize::try_from(body).unwrap()]).ok()?;
    Some(u16::from_be_bytes([header[6], header[7]]))
}

/// Signs a user up whose first token may have all connections of the plan.
fn sign_up(proxy: &TestProxy, name: &str) -> Token {
    let token = proxy.sign_up(&format!("{name}@example.com"));
    proxy.update_permissions(&token.id(), |permissions| permissions.connections = Some(LIMIT));
    token
}

/// Waits until all connections count: `sessions` in plans, the others as unauthenticated.
fn wait_for_sessions(proxy: &TestProxy, sessions: usize) {
    wait_until("connections that count nowhere or twice", || {
        let connections = metric(proxy, "memgate_proxy_connections");
        (connections == sessions + unauthenticated(proxy)).then_some(())
    });
}

/// Connections that have logged in and have begun another login, and how many were refused.
fn begin_again(proxy: &TestProxy, token: &Token) -> (Vec<TcpStream>, usize) {
    let login = auth(token);
    let (mut inside, mut refused) = (Vec::new(), 0);
    for _ in 0..ATTEMPTS {
        let mut stream = proxy.connect();
        stream.write_all(&login).unwrap();
        match status(&mut stream) {
            Some(OK) => {
                stream.write_all(&login[..login.len() - 1]).unwrap();
                inside.push(stream);
            }
            Some(UNAVAILABLE) => refused += 1,
            other => panic!("{other:x?}"),
        }
    }
    (inside, refused)
}

//
#[test]
fn a_new_login_keeps_the_connections_place_in_the_plan() {
    let proxy = TestProxy::start_with(|config| config.workers = 3);
    proxy.update_plan(|plan| plan.connections = LIMIT);
    let token = sign_up(&proxy, "ann");
    let login = auth(&token);
    let (mut inside, refused) = begin_again(&proxy, &token);
    assert_eq!((inside.len(), refused), (PLAN, ATTEMPTS - PLAN));
    wait_for_sessions(&proxy, PLAN);
    // Finishing the login and beginning another, over and over.
    for _ in 0..20 {
        for stream in &mut inside {
            stream.write_all(&[&login[login.len() - 1..], &login[..login.len() - 1]].concat()).unwrap();
            assert_eq!(status(stream), Some(OK));
        }
        let mut further = proxy.connect();
        further.write_all(&login).unwrap();
        assert_eq!(status(&mut further), Some(UNAVAILABLE));
    }
    assert_eq!(proxy.wait_for_denials(&token, 1)[0].cause.as_str(), "limit");
    // A connection that closes in the middle of its login frees its place.
    inside.clear();
    wait_for_sessions(&proxy, 0);
    assert_eq!(begin_again(&proxy, &token).0.len(), PLAN);
}

//
#[test]
fn a_login_as_another_user_moves_the_connection_to_the_other_plan() {
    let proxy = TestProxy::start_with(|config| config.workers = 3);
    proxy.update_plan(|plan| plan.connections = LIMIT);
    // Enough users for each worker to own one.
    let tokens: Vec<Token> = (0..8).map(|number| sign_up(&proxy, &format!("user{number}"))).collect();
    let mut streams: Vec<TcpStream> = (0..PLAN).map(|_| proxy.connect()).collect();
    for token in tokens.iter().chain(&tokens) {
        for stream in &mut streams {
            stream.write_all(&auth(token)).unwrap();
            assert_eq!(status(stream), Some(OK));
        }
        wait_for_sessions(&proxy, PLAN);
        let mut further = proxy.connect();
        further.write_all(&auth(token)).unwrap();
        assert_eq!(status(&mut further), Some(UNAVAILABLE));
    }
    // Every place in the earlier plans is free.
    let mut others = Vec::new();
    for token in &tokens[..7] {
        others.extend((0..PLAN).map(|_| proxy.connect()));
        for stream in others.iter_mut().rev().take(PLAN) {
            stream.write_all(&auth(token)).unwrap();
            assert_eq!(status(stream), Some(OK));
        }
    }
    // Where there is none, the connection has lost its old place, too.
    let mut moving = others.remove(0);
    moving.write_all(&auth(&tokens[7])).unwrap();
    assert_eq!(status(&mut moving), Some(UNAVAILABLE));
    assert_eq!(moving.read(&mut [0]).unwrap(), 0);
    wait_for_sessions(&proxy, 8 * PLAN - 1);
    // A failed login counts until the connection closes.
    let failed = binary::request(0x21, "PLAIN", "\0user\0pass");
    others[0].write_all(&failed).unwrap();
    assert_eq!(status(&mut others[0]), Some(DENIED));
    wait_for_sessions(&proxy, 8 * PLAN - 1);
    others[0].write_all(&failed.repeat(2)).unwrap();
    assert_eq!(others[0].read_to_end(&mut Vec::new()).map(|read| read > 0).ok(), Some(true));
    wait_for_sessions(&proxy, 8 * PLAN - 2);
}
