//! The `[proxy]` section of memgate.toml.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use store::Cidr;

/// What an operator may set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The public door.
    pub listen: SocketAddr,
    /// `/healthz`, `/readyz`, `/metrics`.
    pub health: SocketAddr,
    /// Threads that serve; 0 means one per core.
    pub workers: usize,
    /// Connections at most; fewer if the system allows fewer open files. One in four may be a stranger's.
    pub connections: usize,
    /// Whether plaintext is accepted from public addresses too.
    pub allow_plaintext: bool,
    /// The certificate for TLS and what leads to its authority, in PEM; read again when it changes.
    pub tls_certificate: Option<PathBuf>,
    /// Its private key.
    pub tls_key: Option<PathBuf>,
    /// Load balancers, by their networks: each of their connections begins with a PROXY protocol header
    /// (version 1 or 2), which says where it comes from.
    pub proxy_protocol_from: Vec<Cidr>,
    /// Whether SASL offers SCRAM-SHA-256 next to PLAIN.
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
    /// The most connections to hold. One file in ten is left for what else needs one: lanes, the store.
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
