//! Notifies one waiting task of the same thread: a flag and a waker, without the locks of tokio's `Notify`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Keeps a notification until a task waits for it. One task may wait at a time.
#[derive(Default)]
pub(crate) struct LocalNotify {
    notified: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl LocalNotify {
    /// Wakes the waiting task, or the next one that waits.
    pub(crate) fn notify(&self) {
        self.notified.set(true);
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    /// Waits for a notification and takes it. Cancel-safe.
    pub(crate) async fn notified(&self) {
        poll_fn(|context| {
            if self.notified.take() {
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
