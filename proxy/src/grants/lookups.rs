//! Whose look-up in the store is next: a few run at a time, and those that wait take turns by region, network and source.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use daemon::fair_queue::{FairQueue, Priority, Requester};
use daemon::source::Source;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{STORE_TIMEOUT, Unavailable};

/// Look-ups that run at a time.
pub(super) const RUNNING_MAX: usize = 32;
/// Look-ups that wait.
const QUEUE_MAX: usize = 1024;
/// Of these, look-ups of one source: as many as it may have logins in progress.
const QUEUED_PER_SOURCE_MAX: usize = 320;

/// The look-ups that run and that wait.
#[derive(Debug, Clone)]
pub(super) struct Lookups(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    running: usize,
    waiting: FairQueue<Waiting>,
    next_id: u64,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    turn: oneshot::Sender<LookupPermit>,
}

/// A look-up that may run. Dropped, it makes room for the next.
pub(super) struct LookupPermit(Lookups);

/// The place of a look-up that waits. Dropped, as when its client leaves, it waits no longer.
struct Place<'a> {
    lookups: &'a Lookups,
    requester: Requester,
    id: u64,
}

impl Lookups {
    pub(super) fn new() -> Self {
        let waiting = FairQueue::new(QUEUE_MAX).with_entries_per_source(QUEUED_PER_SOURCE_MAX);
        Self(Arc::new(Mutex::new(State { running: 0, waiting, next_id: 0 })))
    }

    /// Waits until a look-up for a client at `source` may run.
    ///
    /// # Errors
    ///
    /// If too many wait, or that takes too long.
    pub(super) async fn turn(&self, source: IpAddr) -> Result<LookupPermit, Unavailable> {
        let requester = Requester { source: Source::of(source), priority: Priority::Unknown };
        let (place, turn) = {
            let mut state = self.state();
            if state.running < RUNNING_MAX {
                state.running += 1;
                return Ok(LookupPermit(self.clone()));
            }
            let (sender, turn) = oneshot::channel();
            let id = state.next_id;
            state.next_id = id.wrapping_add(1);
            // Dropping the one without a place tells it.
            drop(state.waiting.push(requester, Waiting { id, turn: sender }));
            (Place { lookups: self, requester, id }, turn)
        };
        let turn = timeout(STORE_TIMEOUT, turn).await;
        drop(place);
        turn.map_err(|_| Unavailable)?.map_err(|_| Unavailable)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.lookups.state().waiting.remove(self.requester, |waiting| waiting.id == self.id);
    }
}

impl Drop for LookupPermit {
    fn drop(&mut self) {
        let mut state = self.0.state();
        match state.waiting.pop() {
            Some(next) => {
                drop(state);
                // If its client has just left, this turn is dropped, too.
                let _ = next.turn.send(LookupPermit(self.0.clone()));
            }
            None => state.running = state.running.saturating_sub(1),
        }
    }
}

impl fmt::Debug for LookupPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LookupPermit")
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Lets the tasks run until each has asked for its turn.
    async fn wait_for_requests(lookups: &Lookups, waiting: usize) {
        while lookups.state().next_id < u64::try_from(waiting).unwrap() {
            tokio::task::yield_now().await;
        }
    }

    //
    #[tokio::test]
    async fn sources_take_turns_and_those_that_have_left_do_not_wait() {
        let lookups = Lookups::new();
        let mut running = Vec::new();
        for _ in 0..RUNNING_MAX {
            running.push(lookups.turn(address("192.0.2.1")).await.unwrap());
        }
        // A flood from one source.
        let (sender, mut done) = tokio::sync::mpsc::unbounded_channel();
        let mut flood = JoinSet::new();
        for _ in 0..QUEUED_PER_SOURCE_MAX {
            let (lookups, sender) = (lookups.clone(), sender.clone());
            flood.spawn(async move {
                let turn = lookups.turn(address("192.0.2.1")).await;
                let _ = sender.send(("flood", turn.is_ok()));
            });
        }
        wait_for_requests(&lookups, QUEUED_PER_SOURCE_MAX).await;
        assert!(lookups.turn(address("192.0.2.1")).await.is_err(), "one source has so many places");
        let (of_other, other_sender) = (lookups.clone(), sender.clone());
        let mut others = JoinSet::new();
        others.spawn(async move {
            let turn = of_other.turn(address("198.51.100.1")).await;
            let _ = other_sender.send(("other", turn.is_ok()));
        });
        wait_for_requests(&lookups, QUEUED_PER_SOURCE_MAX + 2).await;
        running.pop();
        let mut order = Vec::new();
        while order.last() != Some(&("other", true)) {
            order.push(timeout(STORE_TIMEOUT, done.recv()).await.expect("the other has no turn").unwrap());
        }
        assert!(order.len() <= 2, "{order:?}");
        assert!(others.join_next().await.unwrap().is_ok());
        flood.shutdown().await;
        drop(running);
        let state = lookups.state();
        assert_eq!(state.running, 0);
    }

    #[tokio::test]
    async fn turn_for_a_client_that_has_left_passes_on() {
        let lookups = Lookups::new();
        let mut running = Vec::new();
        for _ in 0..RUNNING_MAX {
            running.push(lookups.turn(address("192.0.2.1")).await.unwrap());
        }
        let (of_left, mut clients) = (lookups.clone(), JoinSet::new());
        let left = clients.spawn(async move { of_left.turn(address("192.0.2.1")).await.is_ok() });
        wait_for_requests(&lookups, 1).await;
        left.abort();
        assert!(clients.join_next().await.unwrap().is_err());
        drop(running);
        assert_eq!(lookups.state().running, 0);
    }
}
