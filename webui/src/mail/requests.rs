//! What visitors ask for by mail, until it is looked up.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Requests that wait. Each takes one look-up.
const QUEUE_MAX: usize = 256;

/// What a visitor asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// A link to set a new password, for the account with this address.
    ResetPassword(String),
    /// A link that makes an account with this address.
    SignUp(String),
}

/// Requests in the order of their coming.
#[derive(Debug, Default)]
pub(super) struct RequestQueue {
    waiting: Mutex<VecDeque<Request>>,
    added: Notify,
}

impl RequestQueue {
    /// Returns `false` if too many wait.
    pub(super) fn push(&self, request: Request) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = waiting.len() < QUEUE_MAX;
        if has_room {
            waiting.push_back(request);
            self.added.notify_one();
        }
        has_room
    }

    pub(super) async fn next(&self) -> Request {
        loop {
            let first = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match first {
                Some(request) => return request,
                None => self.added.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // W-17.
    #[tokio::test]
    async fn requests_are_bounded_and_keep_their_order() {
        let queue = RequestQueue::default();
        let request = |n: usize| Request::ResetPassword(format!("{n}@example.org"));
        let accepted = (0..QUEUE_MAX + 5).filter(|n| queue.push(request(*n))).count();
        assert_eq!(accepted, QUEUE_MAX);
        assert_eq!(queue.next().await, request(0));
        assert!(queue.push(request(7)));
        assert_eq!(queue.next().await, request(1));
    }
}
