//! The processes that the benchmark starts, and the peers' configuration files.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::child::{bound_to_parent, children, stop};
use crate::error::LoadError;

const START_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// A certificate for this machine and its key, for peers that speak TLS.
pub(super) const PEM: &str = "tls.pem";
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running process. It is stopped on drop, or by the kernel if the benchmark is killed.
pub(super) struct Peer {
    name: &'static str,
    child: Child,
}

impl Peer {
    pub(super) fn start(
        name: &'static str,
        folder: &Path,
        command: &mut Command,
        listens: SocketAddr,
    ) -> Result<Self, LoadError> {
        let log = fs::File::create(folder.join(format!("{name}.log")))?;
        let mut bound = bound_to_parent(command);
        bound.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = bound.spawn().map_err(|error| start_failed(name, &error.to_string()))?;
        let mut peer = Self { name, child };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(listens).is_err() {
            let ended = peer.child.try_wait()?.is_some();
            if ended || Instant::now() > deadline {
                let log = fs::read_to_string(folder.join(format!("{name}.log"))).unwrap_or_default();
                return Err(start_failed(name, log.lines().last().unwrap_or("it doesn't listen")));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(peer)
    }

    /// Its process id and those of its children.
    pub(super) fn pids(&self) -> Vec<u32> {
        let pid = self.child.id();
        [pid].into_iter().chain(children(pid)).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if !stop(&mut self.child, "TERM", STOP_TIMEOUT) {
            eprintln!("{} had to be killed", self.name);
        }
    }
}

/// memcached with the provisioner's arguments, but on loopback and without a login.
pub(super) fn memcached(unpacked: &Path, listen: SocketAddr) -> Command {
    let usr = unpacked.join("usr");
    let libraries = ["x86_64-linux-gnu", "aarch64-linux-gnu"].map(|name| usr.join("lib").join(name));
    let libraries = libraries.map(|path| path.display().to_string()).join(":");
    let mut command = Command::new(usr.join("bin/memcached"));
    command.env("LD_LIBRARY_PATH", libraries);
    command.args(["-u", "nobody", "-U", "0", "-m", "64", "-c", "20000", "-t", "2", "-R", "500"]);
    command.args(["-l", &listen.ip().to_string(), "-p", &listen.port().to_string()]);
    command
}

/// One listener per pair of `(listen, backend)`; those in `secured` use TLS.
pub(super) fn haproxy(
    folder: &Path,
    endpoints: &[(SocketAddr, SocketAddr)],
    secured: &[(SocketAddr, SocketAddr)],
) -> Result<Command, LoadError> {
    let mut text = "defaults\n  mode tcp\n  timeout connect 5s\n  \
                    timeout client 10m\n  timeout server 10m\n"
        .to_owned();
    for (index, (listen, backend)) in endpoints.iter().enumerate() {
        text += &format!("listen l{index}\n  bind {listen}\n  server s {backend}\n");
    }
    let pem = folder.join(PEM);
    for (index, (listen, backend)) in secured.iter().enumerate() {
        let bind = format!("bind {listen} ssl crt {}", pem.display());
        text += &format!("listen t{index}\n  {bind}\n  server s {backend}\n");
    }
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}

pub(super) fn stunnel(folder: &Path, listen: SocketAddr, backend: SocketAddr) -> Result<Command, LoadError> {
    let pem = folder.join(PEM);
    let text = format!(
        "foreground = yes\npid =\nsyslog = no\ndebug = 3\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n\
         [bench]\naccept = {listen}\nconnect = {backend}\ncert = {}\nsessionCacheSize = 20000\n",
        pem.display()
    );
    let file = folder.join("stunnel.conf");
    fs::write(&file, text)?;
    let mut command = Command::new("stunnel");
    command.arg(file);
    Ok(command)
}

pub(super) fn nginx(folder: &Path, endpoints: &[(SocketAddr, SocketAddr)]) -> Result<Command, LoadError> {
    let folder = folder.display();
    let mut text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nuser root;\ndaemon off;\n\
         worker_processes auto;\nworker_rlimit_nofile 40000;\npid {folder}/nginx.pid;\n\
         error_log {folder}/nginx-errors.log;\nevents {{ worker_connections 20000; }}\nstream {{\n"
    );
    for (listen, backend) in endpoints {
        text += &format!("server {{ listen {listen}; proxy_pass {backend}; }}\n");
    }
    let file = format!("{folder}/nginx.conf");
    fs::write(&file, text + "}\n")?;
    let mut command = Command::new("nginx");
    command.args(["-p", &folder.to_string(), "-c", &file, "-e", &format!("{folder}/nginx-errors.log")]);
    Ok(command)
}

pub(super) fn twemproxy(
    folder: &Path,
    listen: SocketAddr,
    backend: SocketAddr,
    stats: SocketAddr,
) -> Result<Command, LoadError> {
    let file = folder.join("nutcracker.yml");
    let text = format!(
        "bench:\n  listen: {listen}\n  hash: fnv1a_64\n  distribution: ketama\n  preconnect: true\n  \
         servers:\n   - {backend}:1\n"
    );
    fs::write(&file, text)?;
    let mut command = Command::new("nutcracker");
    command.arg("-c").arg(file).args(["-a", "127.0.0.1", "-s", &stats.port().to_string()]);
    Ok(command)
}

fn start_failed(name: &str, reason: &str) -> LoadError {
    LoadError::new(format!("{name} doesn't start ({reason})"), "deploy/bench installs what is needed")
}
