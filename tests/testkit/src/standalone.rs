//! A memcached without a proxy, and connections that bypass the proxy.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

use crate::{MemcachedBinary, free_port, text};

const START_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A memcached on loopback that clients connect to directly. Killed when dropped.
#[derive(Debug)]
pub struct StandaloneMemcached {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl StandaloneMemcached {
    /// Starts a memcached without authentication.
    pub fn start(binary: &MemcachedBinary) -> Self {
        Self::start_with(binary, &[])
    }

    /// Starts a memcached with more command line arguments.
    pub fn start_with(binary: &MemcachedBinary, arguments: &[&str]) -> Self {
        let address = free_port();
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let process = binary.command(&[]).args(["-l", &ip, "-p", &port]).args(arguments).spawn().unwrap();
        let memcached = Self { process, address };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "memcached doesn't listen on {address}");
            std::thread::yield_now();
        }
        memcached
    }
}

impl Drop for StandaloneMemcached {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A connection to a memcached itself, to prepare, inspect and clear it.
#[derive(Debug)]
pub struct AdminConnection {
    stream: TcpStream,
}

impl AdminConnection {
    /// Connects to a memcached without authentication.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        Self { stream }
    }

    /// Connects and logs in with `credential`: username, space, password.
    pub fn log_in(address: SocketAddr, credential: &str) -> Self {
        let mut connection = Self::open(address);
        connection.stream.write_all(text::set("x", credential).as_bytes()).unwrap();
        connection.stream.read_exact(&mut [0; b"STORED\r\n".len()]).unwrap();
        connection
    }

    /// Sends `commands`, whose replies hold no line `MN`, and returns the replies.
    pub fn run(&mut self, commands: &[u8]) -> Vec<u8> {
        const END: &[u8] = b"MN\r\n";
        self.stream.write_all(&[commands, b"mn\r\n"].concat()).unwrap();
        let mut replies = Vec::new();
        let mut buffer = [0; 64 * 1024];
        while !replies.ends_with(END) {
            let n = self.stream.read(&mut buffer).unwrap();
            assert!(n > 0, "memcached closed the connection");
            replies.extend_from_slice(&buffer[..n]);
        }
        replies.truncate(replies.len() - END.len());
        replies
    }
}
