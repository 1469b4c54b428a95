//! Stopping under clients that read slowly: what they asked for arrives whole, and those that don't read hold nobody up.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::SockRef;
use store::Token;
use testkit::{Memcached, TestProxy, text};

const LONG: usize = 1_000_000;
const VALUES: usize = 12;
/// Longer than the time in which a client that doesn't read at all is closed.
const READING_TIME: Duration = Duration::from_secs(7);

/// Asks for many large values at once, and reads only the beginning.
fn ask(proxy: &TestProxy, token: &Token) -> TcpStream {
    let mut stream = proxy.log_in(token);
    SockRef::from(&stream).set_recv_buffer_size(64 * 1024).unwrap();
    // On a busy machine memcached may answer the first lane too late.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        stream.write_all(text::set("long", &"v".repeat(LONG)).as_bytes()).unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            reply.extend(byte);
        }
        if reply == b"STORED\r\n" {
            break;
        }
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&reply));
    }
    stream.write_all("get long\r\n".repeat(VALUES).as_bytes()).unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    stream
}

fn whole_reply() -> Vec<u8> {
    let one = format!("VALUE long 0 {LONG}\r\n{}\r\nEND\r\n", "v".repeat(LONG));
    one.into_bytes().repeat(VALUES)
}

/// Reads to the end, evenly over `time`.
fn read_slowly(stream: &mut TcpStream, len: usize, time: Duration) -> Vec<u8> {
    let (mut reply, mut piece) = (b"V".to_vec(), vec![0; 32 * 1024]);
    let begun = Instant::now();
    loop {
        let read = stream.read(&mut piece).unwrap();
        reply.extend_from_slice(&piece[..read]);
        if read == 0 {
            return reply;
        }
        let due = time.mul_f64((reply.len() as f64 / len as f64).min(1.0));
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
}

// F-32, F-7.
#[test]
fn slow_reader_receives_everything_that_it_has_asked_for() {
    let mut proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.65");
    let mut stream = ask(&proxy, &token);
    proxy.shutdown.begin();
    let whole = whole_reply();
    let reply = read_slowly(&mut stream, whole.len(), READING_TIME);
    assert!(reply == whole, "{} of {} bytes", reply.len(), whole.len());
    proxy.thread.take().unwrap().join().unwrap().unwrap();
}

// F-7.
#[test]
fn client_that_never_reads_does_not_hold_up_the_shutdown() {
    let mut proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.66");
    let stream = ask(&proxy, &token);
    let begun = Instant::now();
    proxy.shutdown.begin();
    proxy.thread.take().unwrap().join().unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    drop(stream);
}

// R-15, F-32.
#[test]
fn revoked_token_is_closed_while_the_proxy_stops() {
    let mut proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.67");
    let mut stream = ask(&proxy, &token);
    proxy.shutdown.begin();
    let begun = Instant::now();
    proxy.runtime.block_on(proxy.store.revoke_token(&token.id())).unwrap();
    let whole = whole_reply();
    let mut reply = Vec::new();
    let mut reading = |stream: &mut TcpStream| {
        let mut piece = vec![0; 32 * 1024];
        let read = stream.read(&mut piece).unwrap_or(0);
        reply.extend_from_slice(&piece[..read]);
        std::thread::sleep(READING_TIME.mul_f64(32.0 * 1024.0 / whole.len() as f64));
        read > 0
    };
    while reading(&mut stream) {}
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(reply.len() < whole.len());
    proxy.thread.take().unwrap().join().unwrap().unwrap();
}
