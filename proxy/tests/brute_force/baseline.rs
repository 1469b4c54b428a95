//! memcached without a proxy, with a password.

use std::net::{SocketAddr, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use testkit::{MemcachedBinary, free_port};

/// A running memcached; killed when dropped.
pub(crate) struct Baseline {
    pub(crate) address: SocketAddr,
    process: Child,
    _folder: TempDir,
}

impl Baseline {
    pub(crate) fn start() -> Self {
        let (address, folder) = (free_port(), tempfile::tempdir().unwrap());
        let logins = folder.path().join("logins");
        std::fs::write(&logins, "user:password\n").unwrap();
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let mut command = MemcachedBinary::debian().command(&[]);
        command.args(["-l", &ip, "-p", &port, "-c", "4096", "-Y"]).arg(&logins);
        let process = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "memcached doesn't listen on {address}");
            std::thread::yield_now();
        }
        Self { address, process, _folder: folder }
    }
}

impl Drop for Baseline {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
