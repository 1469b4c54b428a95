//! Errors that stop the proxy.

use std::io;
use std::net::SocketAddr;

/// An error that stops the whole proxy. Errors of a single connection never do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache endpoint can't be bound.
    #[error("can't listen on {address} (cache endpoint): {}", fix(source))]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The certificate can't be used.
    #[error("{0}")]
    Certificate(String),
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// The task that follows the store has panicked.
    #[error("the task that reads changes from the store has failed: the log says why")]
    Following,
    /// A thread or its runtime can't be started.
    #[error("can't start a thread: raise the limit of processes (ulimit -u) or of open files (ulimit -n)")]
    Thread(#[source] io::Error),
}

fn fix(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use: stop the program that uses it or set another in memgate.toml"
        }
        io::ErrorKind::PermissionDenied => "permission denied: use a port above 1023",
        io::ErrorKind::AddrNotAvailable => {
            "this machine doesn't have that address: set another in memgate.toml"
        }
        _ => "see the cause, or set another address in memgate.toml",
    }
}
