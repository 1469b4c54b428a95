//! How many requests may wait for something at a time. When all places are taken, a newcomer takes that of a region,
//! network or source that has most: no flood of requests that wait keeps others out, or holds all connections.

use std::sync::{Mutex, MutexGuard, PoisonError};

use daemon::fair_queue::FairQueue;
use tokio::sync::oneshot;

use crate::password::Requester;

/// Places for requests that wait.
#[derive(Debug)]
pub(crate) struct WaitLimit {
    places: Mutex<Places>,
}

#[derive(Debug)]
struct Places {
    next_id: u64,
    waiting: FairQueue<Waiting>,
}

/// A request that waits. Dropped, it waits no longer.
#[derive(Debug)]
struct Waiting {
    id: u64,
    _displaced: oneshot::Sender<()>,
}

/// There is no place to wait, or another request has taken it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoPlace;

/// A place until dropped.
struct Place<'a> {
    limit: &'a WaitLimit,
    requester: Requester,
    id: u64,
}

impl WaitLimit {
    pub(crate) fn new(max: usize) -> Self {
        Self { places: Mutex::new(Places { next_id: 0, waiting: FairQueue::new(max) }) }
    }

    /// Waits until `done`.
    ///
    /// # Errors
    ///
    /// [`NoPlace`] at once, or as soon as another request has taken the place.
    pub(crate) async fn wait<F: Future>(&self, requester: Requester, done: F) -> Result<F::Output, NoPlace> {
        let (sender, displaced) = oneshot::channel();
        let _place = self.take_place(requester, sender);
        tokio::select! {
            biased;
            _ = displaced => Err(NoPlace),
            output = done => Ok(output),
        }
    }

    fn take_place(&self, requester: Requester, displaced: oneshot::Sender<()>) -> Place<'_> {
        let mut places = self.places();
        let id = places.next_id;
        places.next_id = id.wrapping_add(1);
        // Dropping the one without a place tells it.
        drop(places.waiting.push(requester, Waiting { id, _displaced: displaced }));
        Place { limit: self, requester, id }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.limit.places().waiting.remove(self.requester, |waiting| waiting.id == self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Arc;

    use daemon::source::Source;
    use tokio::task::JoinSet;

    use super::*;
    use crate::password::Priority;

    fn unknown(address: &str) -> Requester {
        Requester { source: Source::of(address.parse().unwrap()), priority: Priority::Unknown }
    }

    //
    #[tokio::test]
    async fn flood_that_waits_makes_room_for_others() {
        let limit = Arc::new(WaitLimit::new(16));
        let mut flood = JoinSet::new();
        for network in 0..100 {
            let limit = limit.clone();
            let from = unknown(&format!("2001:db8:{network:x}::1"));
            flood.spawn(async move { limit.wait(from, pending::<()>()).await });
        }
        for _ in 0..84 {
            assert_eq!(flood.join_next().await.unwrap().unwrap(), Err(NoPlace), "refused at once");
        }
        let (finish, finished) = oneshot::channel();
        let other = limit.clone();
        let mut others = JoinSet::new();
        others.spawn(async move { other.wait(unknown("203.0.113.9"), finished).await });
        assert_eq!(flood.join_next().await.unwrap().unwrap(), Err(NoPlace), "one of the flood goes");
        finish.send(7).unwrap();
        assert_eq!(others.join_next().await.unwrap().unwrap(), Ok(Ok(7)));
        assert_eq!(flood.len(), 15);
    }

    //
    #[tokio::test]
    async fn places_are_free_again_after_the_wait_and_after_disconnects() {
        let limit = Arc::new(WaitLimit::new(1));
        for _ in 0..3 {
            assert_eq!(limit.wait(unknown("203.0.113.9"), ready(1)).await, Ok(1));
            let gone = limit.wait(unknown("203.0.113.9"), pending::<()>());
            assert!(tokio::time::timeout(std::time::Duration::from_millis(1), gone).await.is_err());
        }
    }
}
