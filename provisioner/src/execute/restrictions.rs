//! Whether a container that lacks restrictions, as Docker says, was created by somebody else. An engine may say the same in
//! other words after an upgrade: that costs no cache its contents.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::isolation::Isolation;
use crate::plan::Container;

/// What the engine has said since the connection to it was made.
#[derive(Debug, Default)]
pub(crate) struct Restrictions {
    said: Mutex<Answers>,
}

#[derive(Debug, Default)]
struct Answers {
    /// When it last said of a container that it has all restrictions.
    restricted: Option<Instant>,
    /// Since when it says of a container, by id, that it lacks some.
    broken: HashMap<String, Instant>,
}

impl Restrictions {
    /// Notes what the engine says of containers, and marks those that lack restrictions for certain: since it says so of them,
    /// or in the same pass, it has said of another that it has them all.
    pub(crate) fn assess(&self, containers: &mut [Container], now: Instant) {
        let mut said = self.lock();
        for container in containers.iter() {
            match container.isolation.as_ref().map(Isolation::is_broken) {
                Some(true) => _ = said.broken.entry(container.id.clone()).or_insert(now),
                Some(false) => {
                    said.broken.remove(&container.id);
                    said.restricted = Some(now);
                }
                None => {}
            }
        }
        for container in containers {
            let since = said.broken.get(&container.id).filter(|_| container.isolation.is_some());
            container.unrestricted =
                since.is_some_and(|since| said.restricted.is_some_and(|restricted| restricted >= *since));
        }
    }

    /// Forgets everything: another engine may answer now.
    pub(crate) fn reset(&self) {
        *self.lock() = Answers::default();
    }

    /// Forgets containers that exist no more.
    pub(crate) fn retain(&self, exists: impl Fn(&String) -> bool) {
        self.lock().broken.retain(|id, _| exists(id));
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::ContainerState;

    fn container(id: &str, lacks: Vec<&'static str>) -> Container {
        Container {
            id: id.into(),
            isolation: Some(Isolation { lacks, ..Isolation::default() }),
            ..crate::plan::tests::container(ContainerState::Running)
        }
    }

    fn restricted(id: &str) -> Container {
        container(id, vec![])
    }

    fn broken(id: &str) -> Container {
        container(id, vec!["a read-only root"])
    }

    //
    #[test]
    fn an_engine_that_tells_otherwise_after_an_upgrade_has_nothing_replaced() {
        let said = Restrictions::default();
        let mut now = Instant::now();
        let mut is_unrestricted = |containers: &mut [Container]| {
            now += Duration::from_secs(1);
            said.assess(containers, now);
            containers.iter().any(|it| it.unrestricted)
        };
        assert!(!is_unrestricted(&mut [restricted("a"), restricted("b")]));
        // Nothing has told of the upgrade yet.
        for _ in 0..3 {
            assert!(!is_unrestricted(&mut [broken("a"), broken("b")]));
            assert!(!is_unrestricted(&mut [broken("b")]));
        }
        // Another says it after them: the engine hasn't changed.
        assert!(!is_unrestricted(&mut [restricted("c")]));
        let mut both = [broken("a"), broken("b")];
        assert!(is_unrestricted(&mut both) && both.iter().all(|it| it.unrestricted));
        assert!(!is_unrestricted(&mut [Container { isolation: None, ..broken("a") }]), "not inspected");
        said.reset();
        assert!(
            !is_unrestricted(&mut [broken("a"), broken("b")]),
            "what the engine before said is forgotten"
        );
        assert!(is_unrestricted(&mut [broken("b"), restricted("a")]), "in one pass");
        assert!(is_unrestricted(&mut [broken("b")]), "and until the next connection");
        assert!(!is_unrestricted(&mut [restricted("b")]));
        assert!(!is_unrestricted(&mut [broken("b")]), "it counts from the last time that it was right");
    }

    #[test]
    fn nothing_is_kept_of_containers_that_are_gone() {
        let said = Restrictions::default();
        said.assess(&mut [broken("a"), broken("b")], Instant::now());
        said.retain(|id| id == "b");
        assert_eq!(said.lock().broken.keys().collect::<Vec<_>>(), ["b"]);
    }
}
