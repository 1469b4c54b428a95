//! The provisioner against a real Docker Engine. Each test has an installation and a store of its own, and
//! removes everything at its end, whether it passes or fails.

mod capacity;
mod container_spec;
mod docker_relay;
mod foreign_resources;
mod harness;
mod images;
mod isolation;
mod isolation_checks;
mod life;
mod lifecycle;
mod operations;
mod pool;
mod repairs;
mod self_healing;
mod store_lock;
mod upgrades;
mod warm_growth;
mod warm_start;
