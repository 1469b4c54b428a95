//! What a connection holds in memory, and why it must end.

use super::{ResponseQueue, UNSENT_MAX};
use crate::buffers::HeldBytes;
use crate::metrics::usage::{StartedAt, Time};
use crate::protocol::denial::Ending;

/// The most unsent bytes of a session while the tenant's buffers are tight.
const TIGHT_UNSENT_MAX: usize = 16 * 1024;

impl ResponseQueue {
    #[inline]
    pub(super) fn held(&self) -> Option<&HeldBytes> {
        self.out.account.get().map(|account| &account.held)
    }

    /// Counts the unfinished input that the session keeps, and whether it waits for the rest.
    #[inline]
    pub(crate) fn hold_input(&self, bytes: usize, awaits_input: bool) {
        if let Some(held) = self.held() {
            held.set_input(bytes, awaits_input, self.read_at());
        }
    }

    /// The session has dispatched a request, or passed some of a value on: what it still keeps of the input is younger.
    #[inline]
    pub(crate) fn advance_input(&self) {
        if let Some(held) = self.held() {
            held.advance_input(self.read_at());
        }
    }

    /// Whether the client has left as much unread as it may.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.exceeds_unsent(1)
    }

    /// Whether the unsent bytes with `more` are too many. Fewer are allowed while the tenant's buffers are tight.
    #[inline]
    pub(super) fn exceeds_unsent(&self, more: usize) -> bool {
        let unsent = self.unsent() + self.order.local_bytes.get() + more;
        unsent > TIGHT_UNSENT_MAX && (unsent > UNSENT_MAX || self.held().is_some_and(HeldBytes::is_tight))
    }

    /// Why the connection must end, if so.
    #[inline]
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.held().and_then(HeldBytes::ending)
    }

    /// Ends the connection: at once if its client doesn't read, otherwise the session's task says why first.
    pub(crate) fn end(&self, ending: Ending) {
        if let Some(held) = self.held() {
            held.end(ending);
        }
        if self.is_blocked() { self.abort() } else { self.wake.notify.notify() }
    }

    /// For how long the connection has held something, in microseconds; `None` if it holds nothing.
    pub(crate) fn held_for(&self, now: StartedAt) -> Option<u32> {
        self.held()?.age(now)
    }

    /// What the connection holds, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held().map_or(0, HeldBytes::total)
    }

    /// Whether the connection holds something, and when its client has last sent something; `None` if a reply is missing, or it
    /// is being ended.
    pub(crate) fn idle_since(&self) -> Option<(bool, Time)> {
        let awaits_reply = self.in_flight() > 0 || self.wake.is_working.get();
        let is_busy = awaits_reply || self.is_broken() || self.ending().is_some();
        (!is_busy).then(|| (self.held_bytes() > 0, self.read_at.get()))
    }

    /// Why a sweep at `now` must end the connection, if so; see [`HeldBytes::overdue`].
    pub(crate) fn overdue(&self, limit: u32, now: StartedAt) -> Option<Ending> {
        self.held()?.overdue(limit, self.read_at(), now)
    }

    pub(super) fn hold_deferred(&self) {
        if let Some(account) = self.out.account.get() {
            let bytes = self.order.deferred.borrow().bytes() + self.order.local_bytes.get();
            account.held.set_deferred(bytes, account.usage.now());
        }
    }

    /// Sets the bytes of local replies that wait for earlier ones.
    pub(super) fn hold_local(&self, bytes: usize) {
        self.order.local_bytes.set(bytes);
        if let Some(held) = self.held() {
            held.set_deferred(self.order.deferred.borrow().bytes() + bytes, self.read_at());
        }
    }
}
