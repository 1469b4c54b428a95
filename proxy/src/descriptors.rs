//! File descriptors: raises the process's limit, and keeps enough for lanes, the store and the health endpoint before clients
//! get the rest.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors of the process other than connections and lanes: the store's database connections (three files each), the
/// health endpoint and its connections, certificate files while they are read, standard streams, the main runtime.
const BASE: usize = 192;
/// Descriptors of one worker: its listener, its runtime's, and a connection that is being refused.
const PER_WORKER: usize = 8;
/// Connections that are told that there are too many (`auth/admission.rs`) come on top of the limit.
const REJECTED_MAX: usize = 256;
/// Lanes, one for this many connections.
const CONNECTIONS_PER_LANE: usize = 8;
/// Lanes, even with few connections: two shared ones of some caches, and dedicated ones.
const LANES_MIN: usize = 512;

/// How many descriptors each use gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptors {
    /// Clients' connections.
    pub(crate) connections: usize,
    /// Dedicated lanes of all caches. As many descriptors are left for shared lanes, of which a cache has two at most.
    pub(crate) dedicated_lanes: usize,
}

impl Descriptors {
    /// Raises the limit of open files as far as `connections` need it, and divides what it allows. Warns if there are too
    /// few.
    pub(crate) fn reserve(connections: usize, workers: usize) -> Self {
        let wanted = connections
            .saturating_add(lanes(connections))
            .saturating_add(BASE + REJECTED_MAX)
            .saturating_add(workers.saturating_mul(PER_WORKER));
        let files = raise_limit(wanted);
        let reserved = Self::divide(files, connections, workers);
        if reserved.connections < connections {
            tracing::warn!(
                setting = connections,
                connections = reserved.connections,
                files,
                "the limit of open files allows fewer connections than proxy.connections: raise it to {wanted} \
                 (LimitNOFILE= of a systemd service, or `ulimit -Hn`), or lower the setting",
            );
        }
        reserved
    }

    /// Divides `files` descriptors. Lanes get theirs first: one for every eight connections, but at most half.
    fn divide(files: usize, connections: usize, workers: usize) -> Self {
        let fixed = BASE.saturating_add(workers.saturating_mul(PER_WORKER));
        let rest = files.saturating_sub(fixed);
        // With few files, few are kept for rejections.
        let rest = rest - REJECTED_MAX.min(rest / 4);
        let most = rest.saturating_sub(rest / (CONNECTIONS_PER_LANE + 1));
        let connections = connections.min(most).min(rest - LANES_MIN.min(rest / 2));
        let lanes = lanes(connections).min(rest - connections);
        Self { connections: connections.max(1), dedicated_lanes: (lanes / 2).max(1) }
    }
}

fn lanes(connections: usize) -> usize {
    (connections / CONNECTIONS_PER_LANE).max(LANES_MIN)
}

/// Raises the limit of open files to `wanted`, or as far as it goes. Returns the limit.
fn raise_limit(wanted: usize) -> usize {
    let number =
        |limit: Option<u64>| limit.map_or(usize::MAX, |it| usize::try_from(it).unwrap_or(usize::MAX));
    let limit = getrlimit(Resource::Nofile);
    if number(limit.current) >= wanted {
        return number(limit.current);
    }
    let raised = u64::try_from(wanted.min(number(limit.maximum))).ok();
    match setrlimit(Resource::Nofile, Rlimit { current: raised, ..limit }) {
        Ok(()) => number(raised),
        Err(error) => {
            tracing::warn!(%error, "failed to raise the limit of open files");
            number(limit.current)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn lanes_keep_their_descriptors_whatever_the_limit_is() {
        for files in [0, 100, 300, 600, 1024, 4096, 20_000, 65_536, 1_048_576, usize::MAX] {
            for connections in [1, 50, 1000, 100_000, usize::MAX] {
                let divided = Descriptors::divide(files, connections, 2);
                assert!(
                    (1..=connections).contains(&divided.connections),
                    "{files} {connections}: {divided:?}"
                );
                assert!(divided.dedicated_lanes >= 1);
                if files >= 1024 {
                    let used = divided.connections + 2 * divided.dedicated_lanes + BASE + 2 * PER_WORKER;
                    assert!(used <= files, "{files} {connections}: {divided:?}");
                    let least = (divided.connections / CONNECTIONS_PER_LANE / 2).max(100);
                    assert!(divided.dedicated_lanes >= least, "{files} {connections}: {divided:?}");
                }
            }
        }
        let all = Descriptors { connections: 100_000, dedicated_lanes: 6_250 };
        assert_eq!(Descriptors::divide(1_048_576, 100_000, 2), all);
    }
}
