//! A real memcached as containers run it: Debian's (unpacked and not installed) or another, with a lane's
//! login, in a network namespace of its own (the proxy dials no loopback and one port only, which a memgate
//! in use may hold on all addresses of this machine). Needs root for the namespace.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use store::{InstanceState, Observed, Token};

use super::door::{Door, lane_key};

const PACKAGES: [&str; 3] = ["memcached", "libevent-2.1-7", "libsasl2-2"];

/// This machine's address on the wire to each of them. Outside of what the provisioner gives out.
const NEAR: &str = "10.214.7.254/32";

/// Room enough that nothing is ever evicted: which item that would be differs from run to run.
const MEGABYTES: &str = "1024";

/// A memcached's executable.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// Where its libraries are, if not where all are.
    pub(crate) libraries: Option<PathBuf>,
}

impl Program {
    pub(crate) fn debian() -> Self {
        let root = unpacked();
        let libraries = root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
        Self { path: root.join("usr/bin/memcached"), libraries: Some(libraries) }
    }

    /// A command that runs it, behind the words of `before`.
    pub(crate) fn command(&self, before: &[&str]) -> Command {
        let mut command = match before {
            [] => Command::new(&self.path),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.path);
                command
            }
        };
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command.args(["-u", "root", "-U", "0", "-t", "2", "-m", MEGABYTES]).stderr(Stdio::null());
        command
    }
}

pub(crate) struct Memcached {
    program: Program,
    pub(crate) address: String,
    namespace: Namespace,
    /// The `-Y` file.
    pub(crate) login: PathBuf,
    process: Option<Child>,
}

impl Memcached {
    /// Starts the memcached of `token`'s user on `address` and records its route.
    pub(crate) fn start_program(program: Program, door: &Door, token: &Token, address: &str) -> Self {
        const GENERATION: i64 = 1;
        let (runtime, store) = (&door.runtime, &door.store);
        let instance = runtime.block_on(store.grant(&token.id())).unwrap().unwrap().instance_id;
        let secret = lane_key(door.folder.path()).secret(&instance, GENERATION);
        let login = door.folder.path().join(address);
        std::fs::write(&login, format!("lane:{secret}\n")).unwrap();
        let namespace = Namespace::with(address);
        let mut memcached = Self { program, address: address.to_owned(), namespace, login, process: None };
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
        let process = self
            .program
            .command(&["ip", "netns", "exec", &self.namespace.0])
            .args(["-p", "11211", "-l", &self.address, "-Y"])
            .arg(&self.login)
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
    }
}

/// A network namespace with one address, at the other end of a wire to this machine.
struct Namespace(String);

impl Namespace {
    fn with(address: &str) -> Self {
        let number = address.rsplit('.').next().unwrap();
        let (name, wire) = (format!("memgate-door-{number}"), format!("mgdoor{number}"));
        // A run that was killed may have left one.
        let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
        let _ = Command::new("ip").args(["link", "del", &wire]).stderr(Stdio::null()).status();
        let far = format!("{address}/32");
        ip(&["netns", "add", &name]);
        let namespace = Self(name);
        let name = namespace.0.as_str();
        ip(&["link", "add", &wire, "type", "veth", "peer", "name", "wire", "netns", name]);
        ip(&["address", "add", NEAR, "peer", &far, "dev", &wire]);
        ip(&["link", "set", &wire, "up"]);
        ip(&["-n", name, "address", "add", &far, "peer", NEAR, "dev", "wire"]);
        ip(&["-n", name, "link", "set", "wire", "up"]);
        namespace
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The wire goes with it.
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).status();
    assert!(done.unwrap().success(), "`ip {}` failed: run the tests as root", arguments.join(" "));
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
