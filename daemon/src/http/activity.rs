//! What a connection is doing: whether it serves a request, waits for its peer, or is idle.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For how long a connection may wait for its peer, to send the rest of a body or to take a response, before it counts
/// as idle. A byte now and then doesn't help: it waits until all of it has come or gone.
const WAIT_TOLERANCE: Duration = Duration::from_secs(1);

/// The time limit that ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timeout {
    /// Of a request's head.
    Head,
    /// Of an idle connection: the usual end of one that is kept for further requests.
    Idle,
    /// Of a request's body.
    Body,
    /// Of a response that the peer doesn't take.
    Write,
}

impl Timeout {
    pub(super) fn cause(self) -> &'static str {
        match self {
            Self::Head => "head_timeout",
            Self::Idle => "idle_timeout",
            Self::Body => "body_timeout",
            Self::Write => "write_timeout",
        }
    }
}

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    in_request: bool,
    /// Since when it waits for the rest of a body.
    reading_since: Option<Instant>,
    /// Since when it waits until its peer takes a response.
    writing_since: Option<Instant>,
    /// When the connection was accepted, or the last request ended.
    idle_since: Instant,
    /// Whether the peer has sent something since then.
    head_begun: bool,
    /// The time limit of a body or of a response that has passed.
    timed_out: Option<Timeout>,
}

/// A request that is being answered, until dropped.
#[derive(Debug)]
pub(super) struct RequestInProgress(Arc<Activity>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            in_request: false,
            reading_since: None,
            writing_since: None,
            idle_since: Instant::now(),
            head_begun: false,
            timed_out: None,
        }))
    }

    pub(super) fn begin_request(this: Arc<Self>) -> RequestInProgress {
        this.state().in_request = true;
        RequestInProgress(this)
    }

    pub(super) fn record_bytes(&self) {
        self.state().head_begun = true;
    }

    pub(super) fn begin_reading(&self) {
        self.state().reading_since.get_or_insert_with(Instant::now);
    }

    pub(super) fn end_reading(&self) {
        self.state().reading_since = None;
    }

    pub(super) fn begin_writing(&self) {
        self.state().writing_since.get_or_insert_with(Instant::now);
    }

    pub(super) fn end_writing(&self) {
        self.state().writing_since = None;
    }

    pub(super) fn record_timeout(&self, timeout: Timeout) {
        self.state().timed_out.get_or_insert(timeout);
    }

    /// The time limit that ended the connection. `while_idle`: no request came, or no whole head of one.
    pub(super) fn timeout(&self, while_idle: bool) -> Option<Timeout> {
        let state = self.state();
        let idle = if state.head_begun { Timeout::Head } else { Timeout::Idle };
        state.timed_out.or(while_idle.then_some(idle))
    }

    /// For how long the connection has served nothing but its peer's slowness; `None` if it serves a request.
    pub(super) fn idle_for(&self, now: Instant) -> Option<Duration> {
        let state = self.state();
        match state.reading_since.into_iter().chain(state.writing_since).min() {
            Some(since) => Some(now.saturating_duration_since(since)).filter(|it| *it >= WAIT_TOLERANCE),
            None if state.in_request => None,
            None => Some(now.saturating_duration_since(state.idle_since)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        let mut state = self.0.state();
        (state.in_request, state.head_begun, state.idle_since) = (false, false, Instant::now());
    }
}
