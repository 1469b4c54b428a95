//! What every role needs to run as a daemon: two-stage shutdown, logging, an HTTP server with limits, health and metrics, how
//! much memory there is, and what counts as one peer for limits.
//!
//! Nothing here knows a role: no settings, no store, no domain types.

pub mod health;
pub mod http;
pub mod memory;
mod shutdown;
pub mod source;
pub mod telemetry;

pub use shutdown::{Shutdown, Ticks};
