//! An instance that goes away for a while: requests wait for it, and clients see a delay instead of an error.

mod again;
mod backend;
mod expiry;
mod restart;
mod wake;

use std::io::{self, Read as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use testkit::{Memcached, TestProxy};

pub(crate) const UNAVAILABLE: &str = "SERVER_ERROR backend unavailable\r\n";
/// The time in which something happens that doesn't wait, also on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Reads exactly these bytes.
fn expect(stream: &mut TcpStream, expected: &str) {
    let mut reply = vec![0; expected.len()];
    let mut read = 0;
    while read < reply.len() {
        match stream.read(&mut reply[read..]) {
            Ok(0) => break,
            Ok(n) => read += n,
            // A child of another test has stopped.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => panic!("{error} instead of {expected:?}, after {:?}", &reply[..read]),
        }
    }
    if reply[..read] != *expected.as_bytes() {
        // The rest of what has come instead.
        stream.set_nonblocking(true).unwrap();
        let mut rest = [0; 256];
        let more = stream.read(&mut rest).unwrap_or(0);
        let received = [&reply[..read], &rest[..more]].concat();
        panic!("{:?} instead of {expected:?}", String::from_utf8_lossy(&received));
    }
}

/// Kills memcached, and waits until the proxy has noticed: until then a request may still be in flight.
fn kill(proxy: &TestProxy, memcached: &mut Memcached) {
    memcached.kill();
    let deadline = Instant::now() + AT_ONCE * 5;
    while proxy.metric("memgate_proxy_lanes{kind=\"shared\"}") > 0.5 {
        assert!(Instant::now() < deadline, "lanes to a killed memcached stay open");
    }
}

/// Whether nothing arrives for a moment.
fn is_quiet(stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Reads so many binary replies. Returns their statuses.
fn read_until_end(stream: &mut TcpStream, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        let mut header = [0; 24];
        stream.read_exact(&mut header).unwrap();
        let len = u32::from_be_bytes(header[8..12].try_into().unwrap());
        stream.read_exact(&mut vec![0; len.try_into().unwrap()]).unwrap();
        statuses.push(u16::from_be_bytes([header[6], header[7]]));
    }
    statuses
}
