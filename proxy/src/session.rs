//! A session: one authenticated connection. Reads requests, dispatches them to a lane and writes the replies in
//! order.
//!
//! A session uses one lane at a time and changes lanes only while none of its requests is in flight.

mod dedicated;
mod dispatch;
mod hold;
mod input;
mod relogin;
mod state;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use crate::auth::backoff::Throttle;
use crate::grants::Grants;
use crate::lane::Lane;
use crate::login::{Credential, Handshake};
use crate::protocol::Protocol;
use crate::protocol::denial::Ending;
use crate::protocol::request::FlagSet;
use crate::responses::ResponseQueue;
use crate::takeover::{self, MovedSession};
use crate::tenant::{Pause, Reauthentication, Served, SessionHandle, Tenant};
use crate::transport::Stream;
use dedicated::DedicatedRequest;
pub(crate) use state::State;

/// The most requests of one session that wait for replies.
const IN_FLIGHT_MAX: usize = 256;
/// How long a connection that must end stays open for its last reply.
const ENDING_TIMEOUT: Duration = Duration::from_secs(2);

/// One authenticated client connection.
pub(crate) struct Session {
    pub(crate) responses: Rc<ResponseQueue>,
    /// The client's address, which a repeated login is checked against.
    pub(crate) source: IpAddr,
    /// `None` until the first byte arrives; only possible after authentication by client certificate.
    pub(crate) protocol: Option<Protocol>,
    pub(crate) tenant: Rc<Tenant>,
    pub(crate) handle: SessionHandle,
    /// memcached's `-I`: the largest item in bytes.
    pub(crate) item_size_max: u64,
    /// How long to wait in one go for the client, or for memcached.
    pub(crate) wait_timeout: Duration,
    /// The reply to SASL LIST.
    pub(crate) mechanisms: &'static [u8],
    /// Bytes that were read and not yet dispatched.
    pub(crate) input: Vec<u8>,
    pub(crate) state: State,
}

/// Why dispatching stopped, and what to do next.
enum Step {
    /// Read more input.
    Input,
    /// Let other tasks run.
    Yield,
    /// Wait: too much is in flight or unsent.
    Backpressured,
    /// Don't read for a while: the plan's rate is exceeded.
    Throttled(Pause),
    /// Verify the login at the front of the input (D-11, D-14).
    VerifyRelogin(Credential),
    /// Wait for a lane: the instance restarts, moves or can't be reached (F-35).
    AwaitLane,
    /// Detect memcached's version, which the front of the input depends on (D-9).
    NeedsVersion,
    /// Run the request on a dedicated lane once nothing else is in flight.
    Dedicated(Box<DedicatedRequest>),
    /// Hand the connection to the authenticator: the input begins with a binary login.
    Login,
    /// Another process goes on with the session.
    Move,
    Close,
}

/// How a session ends.
pub(crate) enum End {
    Gone,
    /// All requests have been answered: another process takes the connection.
    Moved,
    /// The client logs in again; the authenticator continues with this input.
    Login(Vec<u8>),
}

/// The parts of a worker that its sessions use.
pub(crate) struct WorkerContext<'a> {
    pub(crate) grants: &'a Arc<Grants>,
    pub(crate) throttle: &'a Throttle,
    /// Whether the proxy is stopping. [`ResponseQueue::wake`] notifies waiting sessions.
    pub(crate) closing: &'a Cell<bool>,
    /// Whether another process takes over: sessions that can move do.
    pub(crate) moving: &'a Cell<bool>,
    /// Whether the proxy has been stopping for a while, so that no large value is sent to a client any more.
    pub(crate) begins_no_value: &'a Cell<bool>,
    /// The read buffer that the worker's sessions share; never borrowed across an await.
    pub(crate) scratch: &'a RefCell<Vec<u8>>,
}

impl Session {
    /// Serves the session until it ends.
    pub(crate) async fn run(&mut self, worker: &WorkerContext<'_>) -> End {
        let mut step = self.resume();
        loop {
            if self.responses.unsent() > 0 && !self.responses.is_blocked() {
                self.responses.flush();
            }
            self.tenant.shed_if_over();
            if self.responses.is_broken() {
                self.record_ending(None);
                return End::Gone;
            }
            if let Some(ending) = self.responses.ending() {
                return Box::pin(self.end_unfinished(ending, worker)).await;
            }
            if self.responses.is_deferring() && self.responses.in_flight() == 0 {
                // Futures of rare paths are boxed, so that the task of an idle session stays small.
                match Box::pin(self.replay_deferred(worker)).await {
                    Ok(()) => {}
                    // Why is said above.
                    Err(_) if self.responses.ending().is_some() => continue,
                    Err(error) => return self.end_at_once(&error),
                }
            }
            step = match step {
                Step::Input => match self.wait_for_input(worker).await {
                    Ok(step) => step,
                    Err(error) => {
                        self.record_ending(Some(&error));
                        return Box::pin(self.close_gracefully(worker)).await;
                    }
                },
                Step::Yield => {
                    tokio::task::yield_now().await;
                    self.resume()
                }
                // The flush above may have made room, which wakes no task.
                Step::Backpressured if self.has_capacity() => self.resume(),
                Step::Backpressured => match Box::pin(self.wait_for_capacity()).await {
                    Ok(()) => self.resume(),
                    Err(error) => return self.end_at_once(&error),
                },
                Step::Throttled(pause) => match Box::pin(self.wait_out(pause, worker)).await {
                    Ok(()) => self.resume(),
                    Err(_) if self.responses.ending().is_some() => Step::Close,
                    Err(error) => return self.end_at_once(&error),
                },
                Step::AwaitLane => match Box::pin(self.wait_for_lane(worker)).await {
                    Ok(_) => self.resume(),
                    Err(error) => return self.end_at_once(&error),
                },
                Step::NeedsVersion => match Box::pin(self.detect_version(worker)).await {
                    Ok(()) => self.resume(),
                    Err(error) => return self.end_at_once(&error),
                },
                Step::Dedicated(dedicated) => match Box::pin(self.run_dedicated(*dedicated, worker)).await {
                    Ok(ControlFlow::Continue(())) => self.resume(),
                    Ok(ControlFlow::Break(())) => Step::Close,
                    // The loop says why.
                    Err(_) if self.responses.ending().is_some() => Step::Close,
                    Err(error) => return self.end_at_once(&error),
                },
                Step::VerifyRelogin(credential) => {
                    let verified = Box::pin(self.verify_relogin(worker, &credential)).await;
                    self.state.relogin = Some(verified);
                    self.resume()
                }
                Step::Login => match Box::pin(self.leave_for_login(worker)).await {
                    Some(end) => return end,
                    None => Step::Close,
                },
                Step::Move => match Box::pin(self.leave_for_process(worker)).await {
                    Ok(end) => return end,
                    Err(next) => next,
                },
                Step::Close => return Box::pin(self.close_gracefully(worker)).await,
            };
        }
    }

    /// All replies must be sent before the authenticator writes. `None` if they can't be.
    async fn leave_for_login(&mut self, worker: &WorkerContext<'_>) -> Option<End> {
        if !self.drain(worker).await {
            return None;
        }
        let mut input = std::mem::take(&mut self.input);
        input.shrink_to_fit();
        Some(End::Login(input))
    }

    /// Sends all replies, and reads nothing meanwhile, so that another process can go on.
    ///
    /// # Errors
    /// What to do next, if the session stays.
    async fn leave_for_process(&mut self, worker: &WorkerContext<'_>) -> Result<End, Step> {
        if !self.drain(worker).await {
            return Err(Step::Close);
        }
        let is_free = self.responses.ending().is_none() && Rc::strong_count(&self.responses) == 1;
        // If not it must end, or a lane is about to let go of it.
        if is_free { Ok(End::Moved) } else { Err(Step::Yield) }
    }

    /// Waits for input and reads once. An error ends the connection.
    async fn wait_for_input(&mut self, worker: &WorkerContext<'_>) -> io::Result<Step> {
        loop {
            if worker.closing.get() {
                return Ok(Step::Close);
            }
            // One whose client doesn't read goes on reading, until it does.
            if worker.moving.get() && self.can_move() && !self.responses.is_blocked() {
                return Ok(Step::Move);
            }
            if self.responses.is_deferring() {
                return Ok(Step::Backpressured);
            }
            if self.responses.ending().is_some() {
                return Ok(Step::Input);
            }
            if self.responses.is_broken() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if self.responses.is_blocked() {
                Box::pin(self.wait_for_either()).await?;
            } else {
                tokio::select! {
                    biased;
                    ready = self.responses.stream().readable() => ready?,
                    () = self.responses.changed() => continue,
                }
            }
            self.tenant.turns.begin().await;
            match self.read(worker) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    /// Waits for input, or until the socket accepts unsent bytes.
    async fn wait_for_either(&self) -> io::Result<()> {
        let stream = self.responses.stream();
        tokio::select! {
            biased;
            ready = stream.readable() => ready,
            () = self.responses.changed() => Ok(()),
            room = timeout(self.wait_timeout, stream.writable()) => {
                room.map_err(|_| io::ErrorKind::TimedOut)??;
                self.responses.flush();
                Ok(())
            }
        }
    }

    fn has_capacity(&self) -> bool {
        let in_flight = self.responses.in_flight();
        let lane_takes = match &self.state.lane {
            Some(lane) if in_flight > 0 => lane.is_open() && !lane.is_full(),
            _ => self.full_lane().is_none(),
        };
        let in_flight_max = if self.state.prefers_dedicated() { 1 } else { IN_FLIGHT_MAX };
        in_flight < in_flight_max
            && !self.responses.is_full()
            && lane_takes
            && !self.responses.is_deferring()
            && !(self.state.waits_for_reads && self.responses.gets_in_flight() > 0)
    }

    /// The lane that the next request would use, if its queue is full.
    fn full_lane(&self) -> Option<Rc<Lane>> {
        self.tenant.backend.open_lane(self.handle.number).filter(|lane| lane.is_full())
    }

    /// Waits for a change that may have made capacity.
    async fn wait_for_capacity(&self) -> io::Result<()> {
        let _waiting = self.responses.wake_on_reply();
        if let Some(lane) = self.full_lane() {
            lane.hold(&self.responses);
        }
        let changed = async {
            tokio::select! {
                () = self.responses.changed() => Ok(()),
                room = self.responses.stream().writable(), if self.responses.is_blocked() => {
                    self.responses.flush();
                    room
                }
            }
        };
        timeout(self.wait_timeout, changed).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Waits out a pause. Replies are still sent. Ends early at shutdown: what was received is answered.
    async fn wait_out(&mut self, pause: Pause, worker: &WorkerContext<'_>) -> io::Result<()> {
        self.tenant.metrics.throttled_sessions.inc();
        let end = Instant::now() + pause.time;
        let mut is_over = false;
        let rates = self.tenant.rate_changes();
        while !worker.closing.get()
            && self.tenant.rate_changes() == rates
            && !self.responses.is_broken()
            && self.responses.ending().is_none()
        {
            if self.responses.is_deferring() && self.responses.in_flight() == 0 {
                self.replay_deferred(worker).await?;
            }
            tokio::select! {
                () = sleep_until(end) => {
                    is_over = true;
                    break;
                }
                () = self.responses.changed() => {}
                room = self.responses.stream().writable(), if self.responses.is_blocked() => {
                    room?;
                    self.responses.flush();
                }
            }
        }
        self.state.prepaid = pause.prepaid && is_over;
        Ok(())
    }

    /// Opens a lane, which reports memcached's version. If that fails, the request is parsed as the newest version
    /// would, and answered that the backend is unavailable.
    async fn detect_version(&mut self, worker: &WorkerContext<'_>) -> io::Result<()> {
        let is_unknown = |session: &Self| session.tenant.backend.flags() == FlagSet::Unknown;
        while is_unknown(self) && self.wait_for_lane(worker).await? {}
        self.state.reads_as_newest = is_unknown(self);
        Ok(())
    }

    /// Waits until all replies have arrived and are sent; returns whether they are. The time limit restarts
    /// whenever the client reads some bytes. A session that must end first frees its input, which isn't counted any more.
    async fn finish_in_flight(&self) -> bool {
        while self.responses.in_flight() > 0 || self.responses.unsent() > 0 {
            let must_end = self.responses.ending().is_some() && self.input.capacity() > 0;
            if must_end || self.responses.is_broken() || self.wait_for_capacity().await.is_err() {
                return false;
            }
        }
        true
    }

    /// Waits until all replies, deferred ones included, are sent; returns whether they are.
    async fn drain(&mut self, worker: &WorkerContext<'_>) -> bool {
        loop {
            if !self.finish_in_flight().await {
                return false;
            }
            if !self.responses.is_deferring() {
                return true;
            }
            if Box::pin(self.replay_deferred(worker)).await.is_err() {
                return false;
            }
        }
    }

    /// Whether another process could go on with the session once its replies are sent.
    fn can_move(&self) -> bool {
        let is_plain = !self.responses.stream().is_tls() && self.protocol.is_some();
        is_plain && self.state.is_between_requests() && self.input.len() <= takeover::INPUT_MAX
    }

    /// What another process needs to go on with the session; `None` if something still uses the connection.
    pub(crate) fn into_moved(self) -> Option<MovedSession> {
        let Self { responses, source, protocol, handle, input, state, .. } = self;
        let (operations, since) = (responses.operations(), handle.since()?);
        let token = handle.permissions.token();
        drop(state);
        let stream = responses.into_stream()?.into_plain()?;
        Some(MovedSession { stream, token, source, protocol: protocol?, since, operations, input })
    }

    /// Returns the connection's stream, if nothing else uses it, and the session's registration, which goes on counting what
    /// the connection holds while its client logs in again with this `input`.
    pub(crate) fn into_login(self, input: &[u8]) -> Option<(Stream, SessionHandle)> {
        let Self { responses, mut handle, tenant, .. } = self;
        let operations = responses.operations();
        let (stream, held) = responses.into_parts()?;
        let bytes = input.len().max(Handshake::BUFFER_MAX) + stream.kept_by_tls();
        let served = Served { is_tls: stream.is_tls(), operations };
        handle.begin_reauthentication(Reauthentication::new(held?, bytes, tenant.usage.time(), served));
        tenant.shed_if_over();
        Some((stream, handle))
    }

    /// Records why the session ends if the proxy has decided that.
    fn record_ending(&self, error: Option<&io::Error>) {
        let is_timeout = error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
        if let Some(ending) = self.responses.ending().or(is_timeout.then_some(Ending::Stalled)) {
            self.record_denial(ending.cause(), "");
        }
    }

    fn end_at_once(&self, error: &io::Error) -> End {
        self.record_ending(Some(error));
        End::Gone
    }

    /// Ends a connection that holds an unfinished request for too long, or too much. Its client is told why if nothing
    /// else is on the way to it. What it still holds isn't counted, so there is little time for that.
    async fn end_unfinished(&mut self, ending: Ending, worker: &WorkerContext<'_>) -> End {
        self.record_denial(ending.cause(), "");
        let reply = match self.protocol {
            Some(protocol) => protocol.encode_ending(&self.input, ending),
            None => Cow::Borrowed(&b""[..]),
        };
        self.input = Vec::new();
        self.state.keys = None;
        self.state.swallow = None;
        self.reply(reply);
        if timeout(ENDING_TIMEOUT, self.close_gracefully(worker)).await.is_err() {
            self.responses.abort();
        }
        End::Gone
    }

    /// Sends all replies and lets the client read them before the connection is closed.
    async fn close_gracefully(&mut self, worker: &WorkerContext<'_>) -> End {
        self.responses.flush();
        if self.drain(worker).await {
            self.responses.stream().linger(worker.scratch).await;
        }
        End::Gone
    }
}

#[cfg(test)]
mod tests;
