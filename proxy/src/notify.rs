//! "Look again", from any task of a thread to one other: a flag and a waker. What tokio's `Notify` does
//! for many waiters and threads, without their locks.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Kept until it is waited for: a signal given too early is not lost. For one waiter at a time.
#[derive(Default)]
pub(crate) struct LocalNotify {
    given: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl LocalNotify {
    /// Wakes the waiter, now or as soon as it waits.
    pub(crate) fn give(&self) {
        self.given.set(true);
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    /// Waits for a signal, and takes it. Cancel-safe.
    pub(crate) async fn given(&self) {
        poll_fn(|context| {
            if self.given.take() {
                return Poll::Ready(());
            }
            let mut waiter = self.waiter.borrow_mut();
            match waiter.as_mut() {
                Some(waiter) => waiter.clone_from(context.waker()),
                None => *waiter = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }
}
