//! What every role needs to run as a daemon: two-stage shutdown, logging, listening sockets, an HTTP server with limits, health and metrics, how
//! much memory there is, what counts as one peer for limits, whose turn it is, sockets that one process gives another, and programs
//! of the system.
//!
//! Nothing here knows a role: no settings, no tables, no domain types.

pub mod fair_queue;
pub mod fd_passing;
pub mod health;
mod host_tool;
pub mod http;
pub mod listener;
pub mod memory;
pub mod metrics;
mod process;
mod shutdown;
pub mod source;
mod takeover;
pub mod telemetry;

pub use host_tool::host_tool;
pub use process::{Process, Reload};
pub use shutdown::{Shutdown, Ticks};
pub use takeover::Takeover;
