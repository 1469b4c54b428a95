//! The provisioner against the real Docker Engine: each test is an installation of its own, with its own
//! store, and leaves nothing behind, whether it passes or not.

mod golden;
mod harness;
mod healing;
mod isolation;
mod life;
