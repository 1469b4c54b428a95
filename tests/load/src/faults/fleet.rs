//! Three proxies behind a load balancer, with PostgreSQL: one of them runs under `memgate up`, the others beside it.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::child::{bound_to_parent, free_ports, stop};
use crate::error::LoadError;
use crate::installation::Installation;

const STOP_TIMEOUT: Duration = Duration::from_secs(35);

/// A process that is stopped when dropped.
pub(super) struct Process(pub(super) Child);

/// A proxy beside `memgate up`.
pub(super) struct SecondProxy {
    pub(super) listen: SocketAddr,
    pub(super) health: SocketAddr,
    pub(super) process: Process,
}

/// What is around the installation. What is dropped first comes first.
pub(super) struct Fleet {
    _balancer: Process,
    pub(super) proxies: Vec<SecondProxy>,
    /// Where the load balancer listens.
    pub(super) endpoint: SocketAddr,
}

impl Process {
    /// Starts a program, which ends with this one. Its output goes to a file.
    pub(super) fn start(command: &Command, log: &Path) -> Result<Self, LoadError> {
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = bound_to_parent(command);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        stop(&mut self.0, "TERM", STOP_TIMEOUT);
    }
}

impl SecondProxy {
    fn start(
        installation: &Installation,
        folder: &Path,
        [listen, health]: [SocketAddr; 2],
    ) -> Result<Self, LoadError> {
        let mut command = installation.memgate(&["proxy"]);
        command.env("MEMGATE_PROXY__LISTEN", listen.to_string());
        command.env("MEMGATE_PROXY__HEALTH", health.to_string());
        let log = folder.join(format!("proxy-{}.log", listen.port()));
        Ok(Self { listen, health, process: Process::start(&command, &log)? })
    }

    /// Starts it again after it has ended.
    pub(super) fn restart(&mut self, installation: &Installation, folder: &Path) -> Result<(), LoadError> {
        self.process.0.wait()?;
        *self = Self::start(installation, folder, [self.listen, self.health])?;
        Ok(())
    }
}

impl Fleet {
    /// Starts two more proxies for an installation with PostgreSQL, and the load balancer.
    pub(super) fn start(installation: &Installation, folder: &Path) -> Result<Self, LoadError> {
        let [first, first_health, second, second_health, endpoint] = free_ports();
        let ports = [[first, first_health], [second, second_health]];
        let proxies = ports.into_iter().map(|ports| SecondProxy::start(installation, folder, ports));
        let proxies = proxies.collect::<Result<Vec<_>, _>>()?;
        let mut servers = vec![(installation.endpoint(), installation.proxy_health())];
        servers.extend(proxies.iter().map(|proxy| (proxy.listen, proxy.health)));
        let file = folder.join("haproxy.cfg");
        std::fs::write(&file, configuration(endpoint, &servers))?;
        let mut haproxy = Command::new("haproxy");
        haproxy.arg("-db").arg("-f").arg(&file);
        let balancer = Process::start(&haproxy, &folder.join("haproxy.log"))?;
        Ok(Self { _balancer: balancer, proxies, endpoint })
    }
}

/// A load balancer that asks each proxy whether it is ready, and leaves open connections alone.
fn configuration(endpoint: SocketAddr, servers: &[(SocketAddr, SocketAddr)]) -> String {
    let servers: String = servers
        .iter()
        .enumerate()
        .map(|(number, (listen, health))| {
            format!("  server proxy{number} {listen} check port {} inter 500 send-proxy-v2\n", health.port())
        })
        .collect();
    format!(
        "global\n  maxconn 2000\n\
         defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 1h\n  timeout server 1h\n  retries 3\n\
         \x20 option redispatch\n\
         frontend caches\n  bind {endpoint}\n  default_backend proxies\n\
         backend proxies\n  option httpchk GET /readyz\n  balance roundrobin\n{servers}"
    )
}
