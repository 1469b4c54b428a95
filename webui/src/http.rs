//! What every request passes on its way from the server (`daemon::http`) to a page.

pub(crate) mod admin;
pub(crate) mod assets;
pub(crate) mod client_ip;
pub(crate) mod csrf;
pub(crate) mod headers;
pub(crate) mod reject;
pub(crate) mod session;
