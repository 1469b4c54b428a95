//! Everything between a TCP connection and a page: the server, and what every request passes on its way.

pub(crate) mod assets;
pub(crate) mod client_ip;
pub(crate) mod csrf;
pub(crate) mod headers;
pub(crate) mod reject;
pub(crate) mod server;
pub(crate) mod session;
