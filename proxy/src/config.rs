//! The `[proxy]` section of memgate.toml.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
    /// Whether plaintext is accepted from public addresses too.
    pub allow_plaintext: bool,
    /// The certificate for TLS and what leads to its authority, in PEM; read again when it changes.
    pub tls_certificate: Option<PathBuf>,
    /// Its private key.
    pub tls_key: Option<PathBuf>,
    /// Whether SASL offers SCRAM-SHA-256 next to PLAIN.
    pub scram: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 11211)),
            health: SocketAddr::from((Ipv4Addr::LOCALHOST, 9151)),
            workers: 0,
            allow_plaintext: false,
            tls_certificate: None,
            tls_key: None,
            scram: false,
        }
    }
}

impl Config {
    /// The number of workers, never 0.
    pub(crate) fn workers(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            n => n,
        }
    }
}
