//! A real memcached as containers run it, with a lane's credential, in a network namespace of its own.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use store::{InstanceState, LaneCredential, Observed, Token};

use crate::{AdminConnection, MemcachedBinary, Namespace, TestProxy, lane_key};

const PORT: u16 = 11211;
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// The generation of all routes here: no instance moves.
const GENERATION: i64 = 1;

/// A running memcached behind a proxy. Killed when dropped.
#[derive(Debug)]
pub struct Memcached {
    binary: MemcachedBinary,
    address: String,
    namespace: Namespace,
    auth_file: PathBuf,
    options: Vec<String>,
    process: Option<Child>,
}

impl Memcached {
    /// Starts Debian's memcached for the user of `token` on `address` and records its route.
    pub fn start(proxy: &TestProxy, token: &Token, address: &str) -> Self {
        Self::start_binary(MemcachedBinary::debian(), proxy, token, address)
    }

    /// The same as [`start`](Self::start), with another executable.
    pub fn start_binary(binary: MemcachedBinary, proxy: &TestProxy, token: &Token, address: &str) -> Self {
        let auth_file = proxy.data_dir.path().join(address);
        std::fs::write(&auth_file, lane_credential(proxy, token).auth_file()).unwrap();
        let namespace = Namespace::create(address);
        let (address, options) = (address.to_owned(), Vec::new());
        let mut memcached = Self { binary, address, namespace, auth_file, options, process: None };
        memcached.restart();
        record_route(proxy, token, &memcached.address);
        // Until then a request waits, and is given up if its client has closed its side.
        proxy.wait_until_applied();
        memcached
    }

    /// Starts it again, empty, with further command-line options.
    pub fn restart_with(&mut self, options: &[&str]) {
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
        self.restart();
    }

    /// Kills memcached, if it runs, and starts it again, empty.
    pub fn restart(&mut self) {
        self.kill();
        let process = self
            .binary
            .command(&["ip", "netns", "exec", &self.namespace.name])
            .args(["-p", &PORT.to_string(), "-l", &self.address, "-Y"])
            .arg(&self.auth_file)
            .args(&self.options)
            .spawn();
        self.process = Some(process.unwrap());
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect((self.address.as_str(), PORT)).is_err() {
            assert!(Instant::now() < deadline, "memcached doesn't listen on {}", self.address);
            std::thread::yield_now();
        }
    }

    /// Kills memcached, if it runs.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Stops memcached from running until [`thaw`](Self::thaw): the kernel still accepts its connections. Returns once all
    /// of its threads have stopped.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let stopped = waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap();
        assert!(stopped.is_some_and(|(_, status)| status.stopped()), "memcached has ended");
    }

    /// Lets a frozen memcached go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.as_ref().unwrap().id().cast_signed()).unwrap()
    }

    /// Drops all packets to and from memcached, or lets them pass again.
    pub fn cut_network(&self, cut: bool) {
        self.namespace.set_link(!cut);
    }

    /// Opens a connection that bypasses the proxy.
    pub fn admin_connection(&self) -> AdminConnection {
        let address = SocketAddr::new(self.address.parse().unwrap(), PORT);
        let credential = std::fs::read_to_string(&self.auth_file).unwrap().replace(':', " ");
        AdminConnection::log_in(address, credential.trim())
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the credential of lanes to the instance of `token`.
pub fn lane_credential(proxy: &TestProxy, token: &Token) -> LaneCredential {
    lane_key(proxy.data_dir.path()).credential(&proxy.instance_id(token), GENERATION)
}

/// Records, as the provisioner does, that the instance of `token` runs at `address`.
pub fn record_route(proxy: &TestProxy, token: &Token, address: &str) {
    let observed = Observed {
        state: InstanceState::Running,
        generation: GENERATION,
        address: Some(address.to_owned()),
        container: None,
        version: None,
        message: None,
    };
    proxy.runtime.block_on(proxy.store.record_route(&proxy.instance_id(token), &observed)).unwrap();
}
