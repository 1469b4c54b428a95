//! Why the web UI can't start. Errors that browsers see are in `http/reject.rs`.

use std::net::SocketAddr;

/// Startup error: what is wrong, and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port can't be bound.
    #[error(
        "can't listen on {address} ({source}): stop what uses it, or set webui.listen to another address"
    )]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// `webui.endpoint` is not `host:port`.
    #[error("webui.endpoint is `{0}`, which is not host:port: write it like `cache.example.com:11211`")]
    Endpoint(String),
    /// `webui.base_url` is not an origin.
    #[error(
        "webui.base_url is `{0}`: write it like `https://cache.example.com`, in lower case, with no path"
    )]
    BaseUrl(String),
    /// No password can be hashed, or no worker can be started.
    #[error("can't hash passwords ({0}): check that the system's random numbers work")]
    Passwords(String),
}
