//! Everything that takes part in the benchmark, started once and stopped at the end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::memgate::{Logins, Memgate, listener_of};
use super::peer::{self, Peer};
use crate::child::free_ports;
use crate::cpu::Watched;
use crate::error::LoadError;

/// Stops everything on drop: proxies before their backends, the folder last.
pub(super) struct Testbed {
    haproxy: Peer,
    nginx: Peer,
    twemproxy: Peer,
    stunnel: Peer,
    pub(super) memgate: Memgate,
    memcached: Peer,
    pub(super) addresses: Addresses,
    folder: TempDir,
}

pub(super) struct Addresses {
    pub(super) direct: SocketAddr,
    pub(super) haproxy: SocketAddr,
    pub(super) nginx: SocketAddr,
    pub(super) twemproxy: SocketAddr,
    /// HAProxy and nginx in front of the container.
    pub(super) haproxy_container: SocketAddr,
    pub(super) nginx_container: SocketAddr,
    /// Listeners with TLS.
    pub(super) haproxy_tls: SocketAddr,
    pub(super) haproxy_tls_container: SocketAddr,
    pub(super) stunnel: SocketAddr,
}

impl Testbed {
    pub(super) async fn start(memgate: &Path, memcached: &Path, users: usize) -> Result<Self, LoadError> {
        eprintln!("starting memgate and its peers ...");
        let folder = tempfile::tempdir()?;
        let path = folder.path();
        let memgate = Memgate::start(memgate, path, users).await?;
        let [direct, haproxy, nginx, twemproxy, haproxy_container, nginx_container, stats, tls @ ..] =
            free_ports::<10>();
        let [haproxy_tls, haproxy_tls_container, stunnel] = tls;
        let addresses = Addresses {
            direct,
            haproxy,
            nginx,
            twemproxy,
            haproxy_container,
            nginx_container,
            haproxy_tls,
            haproxy_tls_container,
            stunnel,
        };
        memgate.write_pem(&path.join(peer::PEM))?;
        let behind = Logins::LanesThroughPeer(haproxy_container);
        for kind in [Logins::Token, Logins::Tokens, Logins::Lane, Logins::Lanes, behind] {
            memgate.write_logins(&logins(path, kind), kind)?;
        }
        let container = memgate.users[0].backend;
        let memcached = Peer::start("memcached", path, &mut peer::memcached(memcached, direct), direct)?;
        let mut endpoints = vec![(haproxy, direct), (haproxy_container, container)];
        endpoints.extend(
            memgate
                .users
                .iter()
                .enumerate()
                .map(|(n, user)| (listener_of(haproxy_container, n), user.backend)),
        );
        let secured = [(haproxy_tls, direct), (haproxy_tls_container, container)];
        let mut command = peer::haproxy(path, &endpoints, &secured)?;
        let haproxy = Peer::start("haproxy", path, &mut command, haproxy)?;
        let mut command = peer::nginx(path, &[(nginx, direct), (nginx_container, container)])?;
        let nginx = Peer::start("nginx", path, &mut command, nginx)?;
        let mut command = peer::twemproxy(path, twemproxy, direct, stats)?;
        let twemproxy = Peer::start("twemproxy", path, &mut command, twemproxy)?;
        let mut command = peer::stunnel(path, stunnel, direct)?;
        let stunnel = Peer::start("stunnel", path, &mut command, stunnel)?;
        Ok(Self { haproxy, nginx, twemproxy, stunnel, memgate, memcached, addresses, folder })
    }

    pub(super) fn logins(&self, kind: Logins) -> PathBuf {
        logins(self.folder.path(), kind)
    }

    /// The process ids of a target.
    pub(super) fn pids(&self, name: &str) -> Vec<u32> {
        match name {
            "haproxy" => self.haproxy.pids(),
            "nginx" => self.nginx.pids(),
            "twemproxy" => self.twemproxy.pids(),
            "stunnel" => self.stunnel.pids(),
            "memcached" => self.memcached.pids(),
            "container" => self.memgate.users.iter().map(|user| user.memcached_pid).collect(),
            "memgate" => self.memgate.proxy_pid().into_iter().collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn watched(&self, role: &str, name: &str) -> Vec<Watched> {
        self.pids(name).into_iter().map(|pid| Watched { name: role.into(), pid }).collect()
    }
}

fn logins(folder: &Path, kind: Logins) -> PathBuf {
    let name = match kind {
        Logins::LanesThroughPeer(_) => "LanesThroughPeer".into(),
        named => format!("{named:?}"),
    };
    folder.join(name + ".logins")
}
