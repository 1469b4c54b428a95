//! The faults, by what they hit.

pub(super) mod certificates;
mod clients;
mod containers;
mod database;
mod docker_api;
mod engine;
mod fleet;
mod networks;
mod proxy;
mod roles;
mod second_role;
mod writes;

use super::fault::Fault;

/// Faults of an installation with SQLite, in the order in which they are injected.
pub(super) fn with_sqlite() -> impl Iterator<Item = &'static Fault> {
    [
        containers::FAULTS,
        networks::FAULTS,
        roles::FAULTS,
        proxy::FAULTS,
        writes::FAULTS,
        database::FAULTS,
        clients::FAULTS,
        docker_api::FAULTS,
        certificates::FAULTS,
    ]
    .into_iter()
    .flatten()
}

/// Faults of the Docker Engine, which then is one of the measurement's own.
pub(super) fn with_own_docker() -> impl Iterator<Item = &'static Fault> {
    engine::FAULTS.iter()
}

/// Faults of an installation with PostgreSQL and three proxies.
pub(super) fn with_fleet() -> impl Iterator<Item = &'static Fault> {
    fleet::FAULTS.iter()
}
