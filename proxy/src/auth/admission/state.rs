//! The unauthenticated connections: each is in one phase at a time, and counted there.

use std::collections::HashMap;
use std::sync::Arc;

use daemon::source::Source;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::FAST_LOGIN_TIMEOUT;
use super::source_index::SourceIndex;
use crate::metrics::admission::OpenCounts;

/// All unauthenticated connections.
#[derive(Default)]
pub(super) struct State {
    next_number: u64,
    pub(super) entries: HashMap<u64, Entry>,
    awaiting_proxy_header: usize,
    pub(super) silent: SourceIndex,
    pub(super) logins: SourceIndex,
    authenticated: usize,
    pub(super) closing: usize,
}

pub(super) struct Entry {
    pub(super) source: Source,
    pub(super) phase: Phase,
    pub(super) since: Instant,
    pub(super) evicted: Arc<Notify>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Of a load balancer that hasn't sent its client's address yet. Never evicted.
    AwaitingProxyHeader,
    /// No byte yet.
    Silent,
    LoggingIn,
    /// The login has succeeded, and the session isn't registered yet. Never evicted.
    Authenticated,
    /// Evicted, or being closed with a last reply.
    Closing,
}

impl State {
    /// Connections that aren't closing.
    pub(super) fn open(&self) -> usize {
        self.entries.len() - self.closing
    }

    pub(super) fn counts(&self) -> OpenCounts {
        OpenCounts {
            awaiting_proxy_header: self.awaiting_proxy_header,
            silent: self.silent.len(),
            logging_in: self.logins.len(),
            authenticated: self.authenticated,
            closing: self.closing,
        }
    }

    pub(super) fn insert(&mut self, source: Source, phase: Phase) -> u64 {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        let (since, evicted) = (Instant::now(), Arc::default());
        self.entries.insert(number, Entry { source, phase, since, evicted });
        self.enter(phase, source, number);
        number
    }

    pub(super) fn remove(&mut self, number: u64) {
        if let Some(Entry { source, phase, .. }) = self.entries.remove(&number) {
            self.leave(phase, source, number);
        }
    }

    pub(super) fn set_phase(&mut self, number: u64, phase: Phase) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        let (source, previous) = (entry.source, std::mem::replace(&mut entry.phase, phase));
        self.leave(previous, source, number);
        self.enter(phase, source, number);
    }

    fn enter(&mut self, phase: Phase, source: Source, number: u64) {
        match phase {
            Phase::AwaitingProxyHeader => self.awaiting_proxy_header += 1,
            Phase::Silent => self.silent.insert(source, number),
            Phase::LoggingIn => self.logins.insert(source, number),
            Phase::Authenticated => self.authenticated += 1,
            Phase::Closing => self.closing += 1,
        }
    }

    fn leave(&mut self, phase: Phase, source: Source, number: u64) {
        match phase {
            Phase::AwaitingProxyHeader => self.awaiting_proxy_header -= 1,
            Phase::Silent => self.silent.remove(source, number),
            Phase::LoggingIn => self.logins.remove(source, number),
            Phase::Authenticated => self.authenticated -= 1,
            Phase::Closing => self.closing -= 1,
        }
    }

    /// Whether a login has taken long enough to close for another.
    pub(super) fn is_slow(&self, number: u64) -> bool {
        self.entries.get(&number).is_some_and(|entry| entry.since.elapsed() >= FAST_LOGIN_TIMEOUT)
    }
}
