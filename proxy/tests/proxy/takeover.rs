//! One process takes over from another: no connection is closed, no reply is lost, and nobody gains a right by it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use daemon::fd_passing;
use store::{Permissions, Scopes};
use testkit::{Memcached, SetOnDrop, TestProxy, binary, text};

use crate::tls::{self, ask, wait_until};

/// Requests of all clients between two takeovers at least.
const REQUESTS_MIN: u64 = 50;
const GETQ: u8 = 0x09;
const NOOP: u8 = 0x0a;
/// What a new process says when it works.
const READY: &[u8] = b"ready";

/// Sends requests whose replies it checks, until it is told to stop. Some are pipelined, and some arrive in two parts.
fn check_text(stream: &mut TcpStream, key: &str, count: &AtomicU64, is_stopped: &AtomicBool) {
    let mut turn: u64 = 0;
    while !is_stopped.load(Ordering::Relaxed) {
        let value = format!("{key}-{turn}");
        let set = text::set(key, &value);
        let (first, second) = set.split_at(set.len() / 2);
        stream.write_all(first.as_bytes()).unwrap();
        if turn.is_multiple_of(3) {
            std::thread::yield_now();
        }
        ask(stream, second.as_bytes(), b"STORED\r\n");
        let one = format!("VALUE {key} 0 {}\r\n{value}\r\nEND\r\n", value.len());
        ask(stream, format!("get {key}\r\n").repeat(8).as_bytes(), one.repeat(8).as_bytes());
        turn += 1;
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn check_binary(stream: &mut TcpStream, key: &str, count: &AtomicU64, is_stopped: &AtomicBool) {
    let quiet_miss = binary::Request { opcode: GETQ, key: key.as_bytes(), ..binary::Request::default() };
    while !is_stopped.load(Ordering::Relaxed) {
        let opaque = count.fetch_add(1, Ordering::Relaxed).to_be_bytes()[4..].try_into().unwrap();
        let noop = binary::Request { opcode: NOOP, opaque, ..binary::Request::default() };
        stream.write_all(&[quiet_miss.encode(), noop.encode()].concat()).unwrap();
        let reply = read_binary(stream);
        assert_eq!((reply[1], &reply[12..16]), (NOOP, &opaque[..]), "{reply:?}");
    }
}

/// Reads a whole reply, and returns its header.
fn read_binary(stream: &mut TcpStream) -> [u8; binary::HEADER_LEN] {
    let mut header = [0; binary::HEADER_LEN];
    stream.read_exact(&mut header).unwrap();
    let body = u32::from_be_bytes(header[8..12].try_into().unwrap());
    stream.read_exact(&mut vec![0; body as usize]).unwrap();
    header
}

fn has_stopped(proxy: &TestProxy) -> bool {
    proxy.thread.as_ref().is_none_or(std::thread::JoinHandle::is_finished)
}

// F-38.
#[test]
fn clients_notice_nothing_of_ten_takeovers() {
    let first = TestProxy::start();
    let token = first.sign_up("ann@example.com");
    let _memcached = Memcached::start(&first, &token, "10.214.7.191");
    let (count, is_stopped) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut proxies = vec![first];
    std::thread::scope(|scope| {
        let _stopped = SetOnDrop(&is_stopped);
        let (count, is_stopped) = (&count, &is_stopped);
        for number in 0..8 {
            let (proxy, key) = (&proxies[0], format!("key{number}"));
            if number % 4 == 3 {
                let mut stream = proxy.connect();
                stream.write_all(&binary::login(&token)).unwrap();
                read_binary(&mut stream);
                scope.spawn(move || check_binary(&mut stream, &key, count, is_stopped));
            } else {
                let mut stream = proxy.log_in(&token);
                scope.spawn(move || check_text(&mut stream, &key, count, is_stopped));
            }
        }
        for _ in 0..10 {
            let so_far = count.load(Ordering::Relaxed);
            let old = proxies.last().unwrap();
            let new = old.start_successor();
            wait_until("the old process ends by itself", || has_stopped(old));
            wait_until("clients go on", || count.load(Ordering::Relaxed) > so_far + REQUESTS_MIN);
            assert_eq!(new.metric("memgate_proxy_sessions"), 8.0);
            proxies.push(new);
        }
    });
}

// F-38: with its login, permissions and place in the list of connections.
#[test]
fn a_session_keeps_its_login_and_can_be_revoked() {
    let old = TestProxy::start();
    let token = old.sign_up("ann@example.com");
    let _memcached = Memcached::start(&old, &token, "10.214.7.192");
    let reading = old.create_token(&token, Permissions { scopes: Scopes::READ, ..Permissions::ALL });
    let (mut writer, mut reader) = (old.log_in(&token), old.log_in(&reading));
    ask(&mut writer, text::set("k", "1").as_bytes(), b"STORED\r\n");
    let before = old.wait_for_connections(&token, 2).connections;
    // Half of a request arrives before, and half after.
    writer.write_all(b"set half 0 0 4\r\nab").unwrap();
    let new = old.start_successor();
    ask(&mut writer, b"cd\r\nget half\r\n", b"STORED\r\nVALUE half 0 4\r\nabcd\r\nEND\r\n");
    ask(&mut reader, b"get k\r\n", b"VALUE k 0 1\r\n1\r\nEND\r\n");
    reader.write_all(text::set("k", "2").as_bytes()).unwrap();
    let mut refused = String::new();
    BufReader::new(&reader).read_line(&mut refused).unwrap();
    assert!(refused.starts_with("CLIENT_ERROR"), "{refused}");
    wait_until("the old process ends by itself", || has_stopped(&old));
    let after = new.wait_for_connections(&token, 2).connections;
    for connection in before {
        let same = |other: &&store::LiveConnection| other.token_id == connection.token_id;
        let moved = after.iter().find(same).unwrap();
        assert_eq!((moved.since, moved.source.as_str()), (connection.since, connection.source.as_str()));
        assert!(moved.operations >= connection.operations, "{moved:?} {connection:?}");
    }
    new.runtime.block_on(new.store.revoke_token(&reading.id())).unwrap();
    assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap_or(0), 0, "it is closed");
    ask(&mut writer, b"get k\r\n", b"VALUE k 0 1\r\n1\r\nEND\r\n");
}

// F-38.
#[test]
fn tls_sessions_stay_until_they_end_and_can_be_revoked() {
    let (old, certificate) = tls::open();
    let token = old.sign_up("ann@example.com");
    let _memcached = Memcached::start(&old, &token, "10.214.7.193");
    let config = tls::client_config(&certificate);
    let second = old.create_token(&token, Permissions::ALL);
    let [mut stays, mut revoked] = [&token, &second].map(|token| {
        let mut client = tls::connect(&old, &config);
        ask(&mut client, text::login(token).as_bytes(), b"STORED\r\n");
        client
    });
    let new = old.start_successor();
    ask(&mut stays, text::set("k", "1").as_bytes(), b"STORED\r\n");
    // New clients reach the new process.
    let mut client = tls::connect(&new, &config);
    ask(&mut client, text::login(&token).as_bytes(), b"STORED\r\n");
    ask(&mut client, b"get k\r\n", b"VALUE k 0 1\r\n1\r\nEND\r\n");
    assert_eq!(new.metric("memgate_proxy_sessions"), 1.0);
    new.runtime.block_on(new.store.revoke_token(&second.id())).unwrap();
    assert!(matches!(revoked.read(&mut [0; 1]), Ok(0) | Err(_)), "it is closed");
    ask(&mut stays, b"get k\r\n", b"VALUE k 0 1\r\n1\r\nEND\r\n");
    assert!(!has_stopped(&old));
    drop(stays);
    wait_until("the old process ends by itself", || has_stopped(&old));
}

// F-38.
#[test]
fn what_cannot_move_is_closed_once_the_drain_time_has_passed() {
    let (old, certificate) = tls::open_with(|config| config.drain = 0);
    let token = old.sign_up("ann@example.com");
    let _memcached = Memcached::start(&old, &token, "10.214.7.194");
    let mut client = tls::connect(&old, &tls::client_config(&certificate));
    ask(&mut client, text::login(&token).as_bytes(), b"STORED\r\n");
    let _new = old.start_successor();
    assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0, "it ends as TLS ends");
    wait_until("the old process ends by itself", || has_stopped(&old));
}

// F-38.
#[test]
fn a_new_process_that_fails_changes_nothing() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.195");
    let mut client = proxy.log_in(&token);
    drop(proxy.announce_successor());
    let other = proxy.announce_successor();
    fd_passing::send(&other, b"reade", None).unwrap();
    let mut message = [0; 16];
    assert_eq!(fd_passing::receive(&other, &mut message).unwrap().length, 0, "it isn't believed");
    ask(&mut client, b"get k\r\n", b"END\r\n");
    // One that ends after it was ready: what hasn't moved stays.
    let gone = proxy.announce_successor();
    fd_passing::send(&gone, READY, None).unwrap();
    drop(gone);
    ask(&mut client, b"get k\r\n", b"END\r\n");
    ask(&mut client, b"get k\r\n", b"END\r\n");
    assert!(!has_stopped(&proxy));
}

// an old process that was broken into can't give a connection more than its token has.
#[test]
fn a_session_without_a_valid_token_is_closed() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.196");
    let client = proxy.log_in(&token);
    let old = proxy.announce_successor();
    fd_passing::send(&old, READY, None).unwrap();
    let mut message = vec![0; 4096];
    let received = fd_passing::receive(&old, &mut message).unwrap();
    let packet = String::from_utf8(message[..received.length].to_vec()).unwrap();
    assert!(received.file.is_some() && packet.contains(token.id().as_str()), "{packet}");
    drop((client, received));

    let (sender, receiver) = fd_passing::message_pair().unwrap();
    let new = proxy.start_with_predecessor(receiver);
    let mut ready = [0; 16];
    let length = fd_passing::receive(&sender, &mut ready).unwrap().length;
    assert_eq!(&ready[..length], READY);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connect = || {
        let client = TcpStream::connect(address).unwrap();
        (client, listener.accept().unwrap().0)
    };
    for other in [packet.replace(token.id().as_str(), "0123456789ab"), "{}\n".to_owned(), "x".to_owned()] {
        let (mut client, served) = connect();
        fd_passing::send(&sender, other.as_bytes(), Some(served.as_fd())).unwrap();
        drop(served);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "{other}");
    }
    let (mut client, served) = connect();
    fd_passing::send(&sender, packet.as_bytes(), Some(served.as_fd())).unwrap();
    ask(&mut client, b"get k\r\n", b"END\r\n");
    drop(new);
}
