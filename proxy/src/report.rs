//! What the proxy reports to the store: usage, denials, its heartbeat, live connections.

pub(crate) mod connections;
pub(crate) mod heartbeat;
pub(crate) mod usage;
pub(crate) mod wake;
