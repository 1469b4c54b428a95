//! Why the proxy can't start.

use std::io;
use std::net::SocketAddr;

/// What stops the whole proxy; a connection's troubles never do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port can't be had.
    #[error("can't listen on {address} ({what}): {}", fix(source))]
    Bind {
        /// Which of our ports.
        what: &'static str,
        /// Its address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate can't be used.
    #[error("{0}")]
    Certificate(String),
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// A thread or its runtime can't be had.
    #[error("can't start a worker: raise the limit of processes (ulimit -u) or of open files (ulimit -n)")]
    Worker(#[source] io::Error),
}

fn fix(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "the port is in use, stop what uses it or set another in memgate.toml",
        io::ErrorKind::PermissionDenied => "this user may not, choose a port above 1023 or run as root",
        io::ErrorKind::AddrNotAvailable => {
            "this machine doesn't have that address, set another in memgate.toml"
        }
        _ => "see the cause, or set another address in memgate.toml",
    }
}
