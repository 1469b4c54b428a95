//! The `[proxy]` section of memgate.toml.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use store::Cidr;

/// Settings of the proxy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the cache endpoint.
    pub listen: SocketAddr,
    /// Address of `/healthz`, `/readyz` and `/metrics`.
    pub health: SocketAddr,
    /// Worker threads; 0 means one per core.
    pub workers: usize,
    /// Maximum number of connections, lowered if the system allows fewer open files. At most a quarter of them may be
    /// unauthenticated.
    pub connections: usize,
    /// Accept plaintext from public addresses too.
    pub allow_plaintext: bool,
    /// The TLS certificate chain, in PEM; reloaded when the file changes.
    pub tls_certificate: Option<PathBuf>,
    /// Its private key.
    pub tls_key: Option<PathBuf>,
    /// Networks of load balancers. Their connections must begin with a PROXY protocol header (version 1 or 2), which
    /// gives the client's address.
    pub proxy_protocol_from: Vec<Cidr>,
    /// Offer SCRAM-SHA-256 in addition to PLAIN.
    pub scram: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 11211)),
            health: SocketAddr::from((Ipv4Addr::LOCALHOST, 9151)),
            workers: 0,
            connections: 100_000,
            allow_plaintext: false,
            tls_certificate: None,
            tls_key: None,
            proxy_protocol_from: Vec::new(),
            scram: false,
        }
    }
}

impl Config {
    /// The connection limit. A tenth of the open files is reserved for lanes and the store.
    pub(crate) fn connections_max(&self) -> usize {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
        self.connections.min(files - files / 10)
    }

    /// The number of workers, never 0.
    pub(crate) fn workers(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            n => n,
        }
    }
}
