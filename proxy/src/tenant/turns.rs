//! Fairness between the tenants of one worker: after a tenant's sessions have done so much, those of others run first.
//!
//! The runtime runs tasks in the order in which they became ready. Thousands of sessions of one tenant that become ready
//! together would all run, each for as long as its turn takes, before the next request of anybody else. So a tenant has a
//! budget. What its sessions do beyond it waits for the next pass, when everything that was ready before has run.
//!
//! While a worker serves one tenant only, nothing waits, and a turn costs two comparisons.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// What the sessions of a tenant may do in one pass, in bytes moved.
const BUDGET: usize = 256 * 1024;
/// What a turn costs beside the bytes that it moves: its system calls.
const TURN_COST: usize = 4 * 1024;
/// Sessions of a tenant that are woken for a pass; as many turns without bytes use up the budget.
const WOKEN_MAX: usize = BUDGET / TURN_COST;

/// The turns of one worker's tenants.
#[derive(Debug, Default)]
pub(crate) struct WorkerTurns {
    /// The address of the tenant that had the last turn; 0 at first.
    last: Cell<usize>,
    /// Whether more than one tenant has had turns lately.
    is_contended: Cell<bool>,
    /// Tenants of which sessions wait.
    waiting: RefCell<Vec<Rc<Turns>>>,
    passes: RefCell<Option<Waker>>,
}

/// The turns of one tenant's sessions.
#[derive(Debug)]
pub(crate) struct Turns {
    worker: Rc<WorkerTurns>,
    left: Cell<usize>,
    queue: RefCell<VecDeque<Waker>>,
    /// How many sessions have ever left the queue: the number of the one at its front.
    woken: Cell<u64>,
}

impl WorkerTurns {
    /// Begins a pass whenever sessions wait for one. Never ends.
    pub(crate) async fn run(self: Rc<Self>) {
        poll_fn(|context| self.pass(context)).await;
    }

    /// Forgets which tenants were active.
    pub(crate) fn reset(&self) {
        self.is_contended.set(false);
    }

    fn pass(&self, context: &Context<'_>) -> Poll<()> {
        self.waiting.borrow_mut().retain(|turns| turns.refill());
        if !self.waiting.borrow().is_empty() {
            // Behind all tasks that are ready now, those that were just woken included.
            context.waker().wake_by_ref();
        }
        let mut passes = self.passes.borrow_mut();
        if !passes.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *passes = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Turns {
    pub(crate) fn new(worker: Rc<WorkerTurns>) -> Rc<Self> {
        Rc::new(Self { worker, left: Cell::new(BUDGET), queue: RefCell::default(), woken: Cell::new(0) })
    }

    /// Waits until a session may take a turn.
    #[inline]
    pub(crate) async fn begin(self: &Rc<Self>) {
        let own = Rc::as_ptr(self).addr();
        let last = self.worker.last.replace(own);
        if last != own && last != 0 {
            self.worker.is_contended.set(true);
        }
        if self.left.get() == 0 && self.worker.is_contended.get() {
            self.wait().await;
        }
    }

    /// Charges a turn that has moved so many `bytes`.
    #[inline]
    pub(crate) fn charge(&self, bytes: usize) {
        self.left.set(self.left.get().saturating_sub(TURN_COST + bytes));
    }

    #[cold]
    async fn wait(self: &Rc<Self>) {
        let mut place = None;
        poll_fn(|context| match place {
            Some(number) if number >= self.woken.get() => Poll::Pending,
            Some(_) if self.left.get() > 0 => Poll::Ready(()),
            _ => {
                place = Some(self.enqueue(context.waker()));
                Poll::Pending
            }
        })
        .await;
    }

    /// Puts a session at the end of the queue. Returns its number.
    fn enqueue(self: &Rc<Self>, waker: &Waker) -> u64 {
        let mut queue = self.queue.borrow_mut();
        if queue.is_empty() {
            self.worker.waiting.borrow_mut().push(self.clone());
            if let Some(passes) = &*self.worker.passes.borrow() {
                passes.wake_by_ref();
            }
        }
        queue.push_back(waker.clone());
        self.woken.get() + u64::try_from(queue.len()).unwrap_or(u64::MAX) - 1
    }

    /// Begins a pass. Returns whether sessions still wait.
    fn refill(&self) -> bool {
        self.left.set(BUDGET);
        let mut queue = self.queue.borrow_mut();
        for _ in 0..WOKEN_MAX {
            let Some(waker) = queue.pop_front() else { return false };
            self.woken.update(|woken| woken + 1);
            waker.wake();
        }
        !queue.is_empty()
    }
}

#[cfg(test)]
mod tests;
