//! How a container is shut off from everything else, as Docker says. No I/O.

/// What Docker says of it. Docker can't change most of this while the container exists: one that lacks a restriction was
/// created by somebody else, under the name and with the labels of memgate's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Isolation {
    /// Whether it publishes ports.
    pub(crate) publishes: bool,
    /// The restrictions that it lacks.
    pub(crate) lacks: Vec<&'static str>,
    /// The networks that it is on beside its own, by name.
    pub(crate) other_networks: Vec<String>,
    /// The file with its network namespace, which Docker keeps while it runs.
    pub(crate) namespace: String,
    /// Its first process; 0 if it doesn't run.
    pub(crate) process: i64,
}

impl Isolation {
    /// Whether another container is needed.
    pub(crate) fn is_broken(&self) -> bool {
        self.publishes || !self.lacks.is_empty()
    }
}
