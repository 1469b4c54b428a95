//! File descriptors: keeps enough for lanes, the store and the health endpoint before clients get the rest.

use rustix::process::{Resource, getrlimit};

/// Descriptors of the process other than connections and lanes: the store's database connections (three files each), the
/// health endpoint and its connections, certificate files while they are read, standard streams, the main runtime.
const BASE: usize = 192;
/// Descriptors of one worker and one acceptor: the listener, two runtimes, and a connection that closes without a reply.
const PER_WORKER: usize = 12;
/// Connections that close after a last reply, or for others (`auth/admission.rs`): one for this many connections, within
/// these bounds. They come on top of the limit.
const CONNECTIONS_PER_CLOSING: usize = 16;
const CLOSING_MIN: usize = 16;
const CLOSING_MAX: usize = 256;
/// Lanes, one for this many connections.
const CONNECTIONS_PER_LANE: usize = 8;
/// Lanes, even with few connections: two shared ones of some caches, and dedicated ones.
const LANES_MIN: usize = 512;

/// How many descriptors each use gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptors {
    /// Clients' connections.
    pub(crate) connections: usize,
    /// Connections that are closing, on top of these.
    pub(crate) closing: usize,
    /// Dedicated lanes of all caches. As many descriptors are left for shared lanes, of which a cache has two at most.
    pub(crate) dedicated_lanes: usize,
}

impl Descriptors {
    /// Divides the open files that the process may have, whose limit its role has raised. Warns if there are too few for
    /// `connections`.
    pub(crate) fn reserve(connections: usize, workers: usize) -> Self {
        let wanted = wanted(connections, workers);
        let limit = getrlimit(Resource::Nofile).current;
        let files = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
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
        let rest = files.saturating_sub(fixed(workers));
        let closing = closing(connections.min(rest)).min(rest / 4);
        let rest = rest - closing;
        let most = rest.saturating_sub(rest / (CONNECTIONS_PER_LANE + 1));
        let connections = connections.min(most).min(rest - LANES_MIN.min(rest / 2));
        let lanes = lanes(connections).min(rest - connections);
        Self { connections: connections.max(1), closing, dedicated_lanes: (lanes / 2).max(1) }
    }
}

/// All that `connections` need.
pub(crate) fn wanted(connections: usize, workers: usize) -> usize {
    let of_clients = connections.saturating_add(closing(connections)).saturating_add(lanes(connections));
    of_clients.saturating_add(fixed(workers))
}

fn fixed(workers: usize) -> usize {
    BASE.saturating_add(workers.saturating_mul(PER_WORKER))
}

fn closing(connections: usize) -> usize {
    (connections / CONNECTIONS_PER_CLOSING).clamp(CLOSING_MIN, CLOSING_MAX)
}

fn lanes(connections: usize) -> usize {
    (connections / CONNECTIONS_PER_LANE).max(LANES_MIN)
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
                    let of_clients = divided.connections + divided.closing + 2 * divided.dedicated_lanes;
                    let used = of_clients + fixed(2);
                    assert!(used <= files, "{files} {connections}: {divided:?}");
                    let least = (divided.connections / CONNECTIONS_PER_LANE / 2).max(100);
                    assert!(divided.dedicated_lanes >= least, "{files} {connections}: {divided:?}");
                }
            }
        }
        let all = Descriptors { connections: 100_000, closing: 256, dedicated_lanes: 6_250 };
        assert_eq!(Descriptors::divide(1_048_576, 100_000, 2), all);
    }
    //
    #[test]
    fn what_is_wanted_suffices() {
        for connections in [1, 50, 400, 512, 1000, 4096, 10_000, 100_000] {
            let divided = Descriptors::divide(wanted(connections, 2), connections, 2);
            assert_eq!((divided.connections, divided.closing), (connections, closing(connections)));
        }
    }
}
