//! A real memcached as containers run it: Debian's, unpacked and not installed, with a lane's login, on an
//! address of its own (the proxy dials no loopback and one port only). Needs root for the address.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use store::{InstanceState, Observed, Token};

use super::{Door, lane_key};

const PACKAGES: [&str; 3] = ["memcached", "libevent-2.1-7", "libsasl2-2"];

pub(crate) struct Memcached {
    address: String,
    login: PathBuf,
    process: Option<Child>,
}

impl Memcached {
    /// Starts the memcached of `token`'s user on `address` and records its route.
    pub(crate) fn start(door: &Door, token: &Token, address: &str) -> Self {
        const GENERATION: i64 = 1;
        ip(&["replace", address]);
        let (runtime, store) = (&door.runtime, &door.store);
        let instance = runtime.block_on(store.grant(&token.id())).unwrap().unwrap().instance_id;
        let secret = lane_key(door.folder.path()).secret(&instance, GENERATION);
        let login = door.folder.path().join(address);
        std::fs::write(&login, format!("lane:{secret}\n")).unwrap();
        let mut memcached = Self { address: address.to_owned(), login, process: None };
        memcached.restart();
        let seen = Observed {
            state: InstanceState::Running,
            generation: GENERATION,
            address: Some(address.to_owned()),
            container: None,
            version: None,
            message: None,
        };
        runtime.block_on(store.record_route(&instance, &seen)).unwrap();
        memcached
    }

    pub(crate) fn restart(&mut self) {
        self.kill();
        let root = unpacked();
        let process = Command::new(root.join("usr/bin/memcached"))
            .env("LD_LIBRARY_PATH", root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH)))
            .args(["-u", "root", "-p", "11211", "-U", "0", "-t", "2", "-l", &self.address, "-Y"])
            .arg(&self.login)
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(process.unwrap());
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect((self.address.as_str(), 11211)).is_err() {
            assert!(Instant::now() < deadline, "memcached doesn't listen on {}", self.address);
            std::thread::yield_now();
        }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        self.kill();
        ip(&["del", &self.address]);
    }
}

fn ip(arguments: &[&str]) {
    let [verb, address] = arguments else { panic!("a verb and an address") };
    let done = Command::new("ip").args(["address", verb, &format!("{address}/32"), "dev", "lo"]).status();
    assert!(done.unwrap().success(), "the address {address} can't be set: run the tests as root");
}

/// The folder that the packages have been unpacked to, once for ever.
fn unpacked() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("memcached");
        if root.join("usr/bin/memcached").exists() {
            return root;
        }
        let fresh = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let apt = ["-qq", "-o", "APT::Sandbox::User=root", "download"];
        let downloaded = Command::new("apt-get").args(apt).args(PACKAGES).current_dir(&fresh).status();
        assert!(downloaded.unwrap().success(), "memcached can't be downloaded: see apt-get update");
        for file in std::fs::read_dir(&fresh).unwrap().map(|file| file.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "deb") {
                let unpacked =
                    Command::new("dpkg").arg("-x").arg(file).arg(fresh.path().join("root")).status();
                assert!(unpacked.unwrap().success());
            }
        }
        // Another run may have been faster: then its files stay.
        let _ = std::fs::rename(fresh.path().join("root"), &root);
        root
    })
}
