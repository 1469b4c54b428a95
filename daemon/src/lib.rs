//! What every role does alike: start, stop in two stages, say how it is. No role's own words in here.

pub mod health;
mod shutdown;
pub mod telemetry;

pub use shutdown::Shutdown;
