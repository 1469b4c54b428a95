//! What every role needs to run as a daemon: two-stage shutdown, logging, an HTTP server with limits, health and metrics,
//! and how much memory there is.
//!
//! Nothing here knows a role: no settings, no store, no domain types.

pub mod health;
pub mod http;
pub mod memory;
mod shutdown;
pub mod telemetry;

pub use shutdown::{Shutdown, Ticks};
