//! Ways to a memcached past the proxy: one that stands beside it, to compare with, and the back door of
//! those behind it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use super::door::{free_port, set};
use super::memcached::{Memcached, Program};

/// Paths of memcacheds to test with, next to Debian's; colons between them.
const OTHERS: &str = "MEMGATE_TEST_MEMCACHED";
/// What the proxy speaks like, and the first version that does so itself.
const MODEL: Version = Version([1, 6, 45]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) [u32; 3]);

impl Version {
    /// Whether it says itself what the proxy says.
    pub(crate) fn is_model(self) -> bool {
        self >= MODEL
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl Program {
    /// Debian's, and what else is configured.
    pub(crate) fn all() -> Vec<Self> {
        let others = std::env::var_os(OTHERS).unwrap_or_default();
        let others = std::env::split_paths(&others).filter(|path| !path.as_os_str().is_empty());
        std::iter::once(Self::debian()).chain(others.map(Self::at)).collect()
    }

    fn at(path: PathBuf) -> Self {
        assert!(path.is_file(), "{OTHERS}: there is no {}", path.display());
        Self { path, libraries: None }
    }

    pub(crate) fn version(&self) -> Version {
        let said = self.command(&[]).arg("-V").output().unwrap().stdout;
        let said = String::from_utf8(said).unwrap();
        let numbers = said.trim().strip_prefix("memcached ").unwrap_or_default().splitn(3, '.');
        let numbers: Vec<u32> = numbers.map(|number| number.parse().unwrap_or_default()).collect();
        Version(numbers.try_into().unwrap_or_else(|_| panic!("{said:?} is no memcached's version")))
    }
}

/// A memcached on loopback that asks for no login.
pub(crate) struct Direct {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Direct {
    pub(crate) fn start(program: &Program) -> Self {
        Self::start_with(program, &[])
    }

    pub(crate) fn start_with(program: &Program, arguments: &[&str]) -> Self {
        let address = free_port();
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let process = program.command(&[]).args(["-l", &ip, "-p", &port]).args(arguments).spawn().unwrap();
        let direct = Self { process, address };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "memcached doesn't listen on {address}");
            std::thread::yield_now();
        }
        direct
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Memcached {
    /// A connection past the proxy.
    pub(crate) fn back_door(&self) -> Control {
        let mut control = Control::to(SocketAddr::new(self.address.parse().unwrap(), 11211));
        let payload = std::fs::read_to_string(&self.login).unwrap().replace(':', " ");
        control.stream.write_all(set("x", payload.trim()).as_bytes()).unwrap();
        control.stream.read_exact(&mut [0; 8]).unwrap();
        control
    }
}

/// A connection to look and tidy up with.
pub(crate) struct Control {
    stream: TcpStream,
}

impl Control {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { stream }
    }

    /// Runs lines whose replies hold no line `MN`; returns all that they say.
    pub(crate) fn run(&mut self, lines: &[u8]) -> Vec<u8> {
        const END: &[u8] = b"MN\r\n";
        self.stream.write_all(&[lines, b"mn\r\n"].concat()).unwrap();
        let mut said = Vec::new();
        let mut buffer = [0; 64 * 1024];
        while !said.ends_with(END) {
            let n = self.stream.read(&mut buffer).unwrap();
            assert!(n > 0, "memcached has closed the connection");
            said.extend_from_slice(&buffer[..n]);
        }
        said.truncate(said.len() - END.len());
        said
    }
}
