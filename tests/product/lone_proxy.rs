//! A proxy that runs alone, beside a product: with a key file as an unprivileged user, as on another machine, or with the data
//! directory.

use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::harness::{Installation, Product, deadline_in, signal, wait_until};
use crate::health::get;

const USER: &str = "memgate-proxy";

pub(crate) struct LoneProxy {
    process: Child,
    pub(crate) endpoint: SocketAddr,
    pub(crate) health: SocketAddr,
    folder: PathBuf,
}

/// A proxy's number and addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) number: usize,
    pub(crate) endpoint: SocketAddr,
    pub(crate) health: SocketAddr,
}

impl Place {
    /// One with free ports. Proxies of one installation have different numbers.
    pub(crate) fn new(number: usize) -> Self {
        Self { number, endpoint: testkit::free_port(), health: testkit::free_port() }
    }

    fn folder(self, installation: &Installation) -> PathBuf {
        let folder = installation.dir().join(format!("proxy{}", self.number));
        fs::create_dir(&folder).unwrap();
        folder
    }
}

/// Exports a key file that proxies copy.
pub(crate) fn export_keys(product: &Product) -> PathBuf {
    let keys = product.dir().join("proxy.keys");
    let exported = product.json(&["key", "export", keys.to_str().unwrap()]);
    assert_eq!((&exported["tls"], &exported["installation"]), (&true.into(), &product.id().into()));
    assert_eq!(keys.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // The folder is private, as root's are: other users pass through it.
    fs::set_permissions(product.dir(), Permissions::from_mode(0o711)).unwrap();
    keys
}

impl LoneProxy {
    /// One as it runs on another machine: an unprivileged user, a key file, and no data directory.
    pub(crate) fn with_keys(
        installation: &Installation,
        program: &Path,
        keys: &Path,
        place: Place,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let folder = place.folder(installation);
        let own_keys = folder.join("proxy.keys");
        fs::copy(keys, &own_keys).unwrap();
        // As docs/operating.md says: the proxy reads the file, and can't change it.
        fs::set_permissions(&own_keys, Permissions::from_mode(0o640)).unwrap();
        let given = Command::new("chgrp").args([USER.as_ref(), own_keys.as_os_str()]).status();
        assert!(given.unwrap().success());
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--"]).arg(program);
        command.arg("proxy").arg("--keys").arg(&own_keys).env_clear();
        change(&mut command);
        Self::start(command, place, folder)
    }

    /// One with the installation's data directory, and a settings file of its own.
    pub(crate) fn with_data(
        installation: &Installation,
        program: &Path,
        place: Place,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let folder = place.folder(installation);
        fs::write(folder.join("memgate.toml"), "").unwrap();
        let mut command = installation.command(program, &["proxy", "--config"]);
        command.arg(folder.join("memgate.toml"));
        change(&mut command);
        Self::start(command, place, folder)
    }

    fn start(mut command: Command, place: Place, folder: PathBuf) -> Self {
        let Place { endpoint, health, .. } = place;
        command.env("MEMGATE_PROXY__LISTEN", endpoint.to_string());
        command.env("MEMGATE_PROXY__HEALTH", health.to_string());
        let log = File::create(folder.join("log")).unwrap();
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { process, endpoint, health, folder }
    }

    pub(crate) fn wait_until_it_listens(&self) {
        wait_until(deadline_in(30), "the proxy listens", || {
            std::net::TcpStream::connect(self.endpoint).is_ok()
        });
    }

    pub(crate) fn wait_until_ready(&self) {
        let is_ready = || get(self.health, "/readyz").is_some_and(|reply| reply.starts_with("HTTP/1.1 200"));
        wait_until(deadline_in(30), "the proxy is ready", is_ready);
    }

    /// The process that was started.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The proxies that are its children: one, and those that drain.
    pub(crate) fn children(&self) -> Vec<u32> {
        let pid = self.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    pub(crate) fn settings_file(&self) -> PathBuf {
        self.folder.join("memgate.toml")
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.folder.join("proxy.keys")
    }

    pub(crate) fn read_log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// Asks for an upgrade, and waits until the log has another line that says what became of it.
    pub(crate) fn upgrade(&self, result: &str) {
        let count = || self.read_log().matches(result).count();
        let before = count();
        signal(self.id(), "HUP");
        wait_until(deadline_in(90), &format!("the log says {result:?}"), || count() > before);
    }

    /// Sends a signal, and waits until it has ended.
    pub(crate) fn end(&mut self, name: &str) -> ExitStatus {
        signal(self.id(), name);
        self.wait()
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_until(deadline_in(40), "the proxy ends", || self.process.try_wait().unwrap().is_some());
        self.process.wait().unwrap()
    }
}

impl Drop for LoneProxy {
    fn drop(&mut self) {
        if self.process.try_wait().unwrap().is_some() {
            return;
        }
        signal(self.id(), "TERM");
        let status = self.process.wait().unwrap();
        if std::thread::panicking() {
            eprintln!("the log of a proxy that ran alone:\n{}", self.read_log());
        } else {
            assert!(status.success(), "{status}: {}", self.read_log());
        }
    }
}
