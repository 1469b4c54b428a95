//! When each cache was used last, as its memcached counts commands. An open connection is no activity, and neither is what
//! the provisioner asks itself. Counted from the start of this process on: after a restart of the provisioner a cache goes to
//! sleep later. No I/O; the caller passes the time.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The commands of each container's memcached.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    seen: Mutex<HashMap<String, Seen>>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    commands: u64,
    /// Since when it has counted no other one.
    since: Instant,
}

impl Activity {
    /// Notes how many commands a container's memcached has had.
    pub(crate) fn note(&self, container: &str, commands: u64, now: Instant) {
        let mut seen = self.lock();
        if seen.get(container).is_none_or(|before| before.commands != commands) {
            seen.insert(container.to_owned(), Seen { commands, since: now });
        }
    }

    /// Whether a container's memcached has had no command for this time.
    pub(crate) fn is_idle(&self, container: &str, time: Duration, now: Instant) -> bool {
        self.lock().get(container).is_some_and(|seen| now.duration_since(seen.since) >= time)
    }

    /// How many commands it had when it was asked last.
    pub(crate) fn commands(&self, container: &str) -> Option<u64> {
        self.lock().get(container).map(|seen| seen.commands)
    }

    /// Forgets a container that is stopped: it counts from 0 again.
    pub(crate) fn forget(&self, container: &str) {
        self.lock().remove(container);
    }

    /// Forgets containers that exist no more.
    pub(crate) fn retain(&self, existing: &HashSet<&str>) {
        self.lock().retain(|container, _| existing.contains(container.as_str()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_is_idle_while_its_commands_do_not_change() {
        let (activity, start) = (Activity::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let is_idle = |seconds| activity.is_idle("a", Duration::from_secs(60), after(seconds));
        assert!(!is_idle(100), "nothing is known of it");
        activity.note("a", 5, start);
        activity.note("a", 5, after(30));
        assert!(!is_idle(59) && is_idle(60));
        activity.note("a", 6, after(61));
        assert!(!is_idle(120) && is_idle(121));
        activity.note("a", 0, after(122));
        assert!(!is_idle(180), "it was restarted");
        assert_eq!(activity.commands("a"), Some(0));
        activity.forget("a");
        assert!(!is_idle(1_000));
        activity.note("a", 0, after(1_000));
        activity.retain(&HashSet::from(["b"]));
        assert_eq!(activity.commands("a"), None);
    }
}
