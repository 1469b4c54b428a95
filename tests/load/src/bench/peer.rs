//! A process that the benchmark has started, and the peers' settings.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::Failure;

const START_WITHIN: Duration = Duration::from_secs(10);
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// A certificate for this machine and its key, for peers that speak TLS.
pub(super) const PEM: &str = "tls.pem";
const LOOK: Duration = Duration::from_millis(20);

/// A running process. Dropped, it is stopped; should the benchmark be killed, the kernel stops it.
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
    ) -> Result<Self, Failure> {
        let log = fs::File::create(folder.join(format!("{name}.log")))?;
        let mut bound = leashed(command);
        bound.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = bound.spawn().map_err(|error| cannot(name, &error.to_string()))?;
        let mut peer = Self { name, child };
        let deadline = Instant::now() + START_WITHIN;
        while TcpStream::connect(listens).is_err() {
            let ended = peer.child.try_wait()?.is_some();
            if ended || Instant::now() > deadline {
                let log = fs::read_to_string(folder.join(format!("{name}.log"))).unwrap_or_default();
                return Err(cannot(name, log.lines().last().unwrap_or("it doesn't listen")));
            }
            std::thread::sleep(LOOK);
        }
        Ok(peer)
    }

    /// Its processes: itself and its children.
    pub(super) fn pids(&self) -> Vec<u32> {
        let pid = self.child.id();
        [pid].into_iter().chain(children(pid)).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if !end(&mut self.child, "TERM", STOP_WITHIN) {
            eprintln!("{} had to be killed", self.name);
        }
    }
}

/// The same command, in a process group of its own and ended by the kernel when we end.
pub(super) fn leashed(command: &Command) -> Command {
    let mut leashed = Command::new("setpriv");
    leashed.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => leashed.env(key, value),
            None => leashed.env_remove(key),
        };
    }
    leashed.process_group(0);
    leashed
}

/// Asks a child to end and waits; kills it if it doesn't. Whether it ended by itself.
pub(super) fn end(child: &mut Child, signal: &str, within: Duration) -> bool {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return true;
    }
    let _ = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return true;
        }
        std::thread::sleep(LOOK);
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

pub(super) fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Free ports on loopback, below those that the system hands out by itself.
pub(super) fn free_ports<const N: usize>() -> [SocketAddr; N] {
    let mut next = 12_000 + u16::try_from(std::process::id() % 7_000).unwrap_or(0);
    std::array::from_fn(|_| {
        loop {
            next += 1;
            let address = SocketAddr::from(([127, 0, 0, 1], next));
            if TcpListener::bind(address).is_ok() {
                return address;
            }
        }
    })
}

/// memcached as the provisioner starts it, but on loopback and without a login.
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

/// One listener for each backend; in front of those in `secured` it speaks TLS.
pub(super) fn haproxy(
    folder: &Path,
    ways: &[(SocketAddr, SocketAddr)],
    secured: &[(SocketAddr, SocketAddr)],
) -> Result<Command, Failure> {
    let mut text = "defaults\n  mode tcp\n  timeout connect 5s\n  \
                    timeout client 10m\n  timeout server 10m\n"
        .to_owned();
    for (index, (listen, backend)) in ways.iter().enumerate() {
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

pub(super) fn stunnel(folder: &Path, listen: SocketAddr, backend: SocketAddr) -> Result<Command, Failure> {
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

pub(super) fn nginx(folder: &Path, ways: &[(SocketAddr, SocketAddr)]) -> Result<Command, Failure> {
    let folder = folder.display();
    let mut text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nuser root;\ndaemon off;\n\
         worker_processes auto;\nworker_rlimit_nofile 40000;\npid {folder}/nginx.pid;\n\
         error_log {folder}/nginx-errors.log;\nevents {{ worker_connections 20000; }}\nstream {{\n"
    );
    for (listen, backend) in ways {
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
) -> Result<Command, Failure> {
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

fn cannot(name: &str, why: &str) -> Failure {
    Failure::new(format!("{name} doesn't start ({why})"), "deploy/bench installs what is needed")
}
