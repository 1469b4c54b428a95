//! Why the web UI can't start. What may be said to a browser is in `pages/trouble.rs`.

use std::net::SocketAddr;

/// What is wrong, and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port can't be had.
    #[error(
        "can't listen on {address} ({source}): stop what uses it, or set webui.{what} to another address"
    )]
    Listen {
        /// The setting's name.
        what: &'static str,
        /// Its value.
        address: SocketAddr,
        /// What the system said.
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
    /// The system gave no randomness to hash a password with.
    #[error("can't hash passwords ({0}): check that the system's random numbers work")]
    Passwords(String),
}
