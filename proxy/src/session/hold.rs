//! Waiting for a lane while an instance restarts, moves or can't be reached (F-35). The session reads nothing meanwhile: its
//! client's further requests stay in the kernel, so a session that waits keeps no more than what it has read.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::{Session, WorkerContext};
use crate::metrics::denials;
use crate::metrics::usage::StartedAt;
use crate::policy;
use crate::protocol::request::{Command, Fault, Outcome, Request};
use crate::protocol::{self, Parsed};
use crate::responses::Again;

/// How often a session whose client has closed its side looks whether its instance is away.
const DIAL_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// For how long the requests have waited that were read at one time.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Waited {
    read_at: StartedAt,
    time: Duration,
}

impl Session {
    /// Whether the session has no open lane.
    #[inline]
    pub(super) fn lacks_lane(&self) -> bool {
        !self.state.lane.as_ref().is_some_and(|lane| lane.is_open())
    }

    /// Whether a frame must wait for a lane. Only while the session has none.
    #[cold]
    pub(super) fn must_wait(&mut self, parsed: &Parsed<'_>) -> bool {
        let needs_lane = match parsed {
            Parsed::Request(request) => !self.needs_dedicated(&request.command),
            Parsed::Keys(keys) => !self.needs_dedicated(&Command::Get { exptime: keys.exptime }),
            _ => false,
        };
        needs_lane && self.may_wait()
    }

    /// Whether a request may wait for a lane, since none is open.
    #[cold]
    pub(super) fn may_wait(&mut self) -> bool {
        self.lane().is_none()
            && !self.state.gives_up.get()
            && self.tenant.backend.wait_limit(self.waited()).is_some()
    }

    /// For how long the next request has waited already.
    fn waited(&self) -> Duration {
        let waited = self.state.waited;
        if waited.read_at == self.responses.read_at() { waited.time } else { Duration::ZERO }
    }

    /// Lets the next request wait for a lane. Returns whether one is open; if not, the request is answered that the backend
    /// is unavailable.
    pub(super) async fn wait_for_lane(&mut self, worker: &WorkerContext<'_>) -> io::Result<bool> {
        let (begun, waited) = (Instant::now(), self.waited());
        let is_open = self.hold(waited, worker).await?;
        let time = waited.saturating_add(begun.elapsed());
        self.state.waited = Waited { read_at: self.responses.read_at(), time };
        Ok(is_open)
    }

    /// Waits for the session's lane on behalf of a request that has waited for `waited`. Returns whether it is open. Ends
    /// early at shutdown, when the session must end, and when its client has left: what it has asked for isn't done then,
    /// since it may ask for something else on another connection.
    pub(super) async fn hold(&self, waited: Duration, worker: &WorkerContext<'_>) -> io::Result<bool> {
        let begun = Instant::now();
        let (backend, responses) = (&self.tenant.backend, &self.responses);
        let _waiting = responses.begin_work();
        let (mut awaits_end, mut has_left) = (true, false);
        let is_open = loop {
            if responses.is_broken() || responses.ending().is_some() {
                return Ok(false);
            }
            let limit = backend.wait_limit(waited.saturating_add(begun.elapsed()));
            let must_end = worker.closing.get() || has_left && backend.is_away();
            let Some(limit) = limit.filter(|_| !must_end) else { break false };
            // A client that closes its side still gets what it has asked for if only a lane is being opened.
            let limit = if has_left { limit.min(DIAL_CHECK_INTERVAL) } else { limit };
            tokio::select! {
                biased;
                is_open = backend.wait_for_lane(self.handle.number, limit) => if is_open { break true },
                () = responses.changed() => {}
                // For a caller that takes those notifications itself.
                () = poll_fn(|_| if worker.closing.get() { Poll::Ready(()) } else { Poll::Pending }) => {}
                room = responses.stream().writable(), if responses.is_blocked() => {
                    room?;
                    responses.flush();
                }
                ended = responses.stream().input_or_end(), if awaits_end => {
                    (awaits_end, has_left) = (false, ended?);
                }
            }
        };
        let was_away = backend.is_away();
        let is_served = is_open && !(was_away && responses.stream().is_closed_by_peer());
        if !is_served {
            self.state.gives_up.set(worker.closing.get() || responses.stream().is_closed_by_peer());
        }
        if was_away {
            self.tenant.metrics.held(is_served);
        }
        // Thousands may have waited.
        self.tenant.turns.begin().await;
        self.tenant.turns.charge(0);
        Ok(is_served)
    }

    /// Sends reads once more that were in flight on a lane that has failed, `first` and those deferred right behind it. What is
    /// deferred behind them waits for their replies.
    pub(super) async fn ask_again(&mut self, first: Again, worker: &WorkerContext<'_>) -> io::Result<()> {
        // What comes before is due.
        self.responses.flush();
        self.responses.set_deferred_aside();
        let asked = self.ask_all_again(first, worker).await;
        self.responses.bring_deferred_back();
        asked
    }

    async fn ask_all_again(&mut self, first: Again, worker: &WorkerContext<'_>) -> io::Result<()> {
        let mut next = Ok(first);
        while let Ok(read) = next {
            self.ask_one_again(&read, worker).await?;
            next = self.responses.next_aside();
        }
        if next.is_err_and(|more| more) {
            while self.responses.in_flight() > 0 {
                self.wait_while_alive().await?;
            }
        }
        Ok(())
    }

    async fn ask_one_again(&mut self, read: &Again, worker: &WorkerContext<'_>) -> io::Result<()> {
        let request = read.request();
        let usage = self.tenant.usage.clone();
        loop {
            // A lane that is closing has yet to say what was in flight: no other one is used before that.
            while self.lacks_lane() && self.responses.in_flight() > 0 {
                self.wait_while_alive().await?;
            }
            // It may be much later than the first time.
            let denial =
                self.handle.permissions.denial(|permissions| policy::deny_request(permissions, &request));
            if let Some(denial) = denial {
                self.record_denial(denial.cause(), denials::verb(&request));
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            match self.lane() {
                Some(lane) if lane.is_full() => self.wait_while_alive().await?,
                Some(lane) => {
                    lane.send_again(&request, read.started_at, &self.responses);
                    return Ok(());
                }
                None => {
                    let waited = Duration::from_micros(usage.now().since(read.started_at).into());
                    if self.state.gives_up.get() || !self.hold(waited, worker).await? {
                        break;
                    }
                }
            }
        }
        if self.responses.is_broken() || self.responses.ending().is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let unavailable = Outcome::Failed(Fault::Unavailable);
        self.responses.expect(read.kind);
        self.responses.complete(read.format, read.kind, &read.context, &unavailable.into());
        usage.answered(read.kind, read.format, &unavailable, usage.now().since(read.started_at));
        Ok(())
    }

    /// Waits for a change that may have made capacity, unless the session must end.
    async fn wait_while_alive(&self) -> io::Result<()> {
        if self.responses.is_broken() || self.responses.ending().is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.wait_for_capacity().await
    }

    /// Answers a request that the backend is unavailable. Only while nothing is in flight.
    #[cold]
    pub(super) fn answer_unavailable(&self, request: &Request<'_>) {
        let (kind, usage) = (request.command.kind(), &self.tenant.usage);
        let unavailable = Outcome::Failed(Fault::Unavailable);
        let mut context = Vec::new();
        protocol::reply_context(request, &mut context);
        self.responses.write_reply(request.format, kind, &context, &unavailable.into());
        usage.answered(kind, request.format, &unavailable, usage.now().since(self.responses.read_at()));
    }
}
