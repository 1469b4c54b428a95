//! A lane: one authenticated TCP connection to the memcached of one instance, shared by the sessions of its
//! tenant and by nothing else.
//!
//! Requests that arrive in one turn of the event loop leave in one write; replies come back in one read. Each
//! request carries a tag, and `in_flight` delivers a reply only to the request with the same tag.

pub(crate) mod connect;
pub(crate) mod decode;
pub(crate) mod dedicated;
pub(crate) mod encode;
pub(crate) mod faults;
pub(crate) mod in_flight;
mod reachability;
mod read_buffer;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval};

use store::LaneCredential;

use crate::metrics::ConnectionGuard;
use crate::metrics::usage::{StartedAt, Usage};
use crate::notify::LocalNotify;
use crate::protocol::request::{Fault, Request, SHARED_VALUE_MAX};
use crate::responses::ResponseQueue;
use crate::transport::tcp;
use decode::{ProtocolError, ValueLimits};
use faults::LaneFaults;
use in_flight::InFlight;
use read_buffer::ReadBuffer;
pub(crate) use read_buffer::ReadBufferPool;

/// Time limit for the next reply, counted from the last reply or from the first request after a pause.
pub(crate) const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// A lane without requests is closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval at which timeouts are checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// A lane that has been open for this long works, whether it was used or not.
const LIFE_MIN: Duration = Duration::from_secs(2);
/// Unsent bytes at which sessions must wait before they send more.
const UNSENT_MAX: usize = 1024 * 1024;
/// The largest capacity, in bytes, that an empty write buffer keeps.
const KEPT_CAPACITY_MAX: usize = 256 * 1024;

/// A route with the credential for it. Has no `Debug`: the secret must not be logged.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) address: SocketAddr,
    pub(crate) generation: i64,
    pub(crate) credential: LaneCredential,
    /// The largest value of the instance, in bytes.
    pub(crate) value_max: usize,
}

pub(crate) struct Lane {
    in_flight: RefCell<InFlight>,
    out: RefCell<Vec<u8>>,
    /// Bytes of `out` that the socket has accepted.
    sent: Cell<usize>,
    /// Sessions to wake when the lane accepts more requests.
    held: RefCell<Vec<Weak<ResponseQueue>>>,
    /// Notified when there is something to write, or the lane must close.
    wake: LocalNotify,
    /// Set when the lane is closed or must close: it has failed, the route has changed, or the proxy is stopping.
    closing: Cell<Option<Fault>>,
    /// Whether it accepts no more requests and closes when those in flight are answered.
    draining: Cell<bool>,
    last_progress: Cell<Instant>,
    /// Whether reads in flight are left to their sessions if the lane fails, which send them again.
    repeats_reads: bool,
    opened_at: Instant,
    /// Once it is closed: whether memcached had replied to a request, and whether requests were in flight.
    ended: Cell<Option<(bool, bool)>>,
}

/// Why a lane was closed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    Idle,
    /// memcached closed the connection, didn't reply in time or violated the protocol; or the lane was told to close.
    Failed(Fault),
}

impl Lane {
    /// A lane on a connection that is open. `repeats_reads`: see [`Lane::send_again`].
    pub(crate) fn new(value_max: usize, usage: Rc<Usage>, repeats_reads: bool) -> Rc<Self> {
        let limits = ValueLimits { max: value_max, inline_max: SHARED_VALUE_MAX };
        Rc::new(Self {
            in_flight: RefCell::new(InFlight::new(limits, usage)),
            out: RefCell::default(),
            sent: Cell::new(0),
            held: RefCell::default(),
            wake: LocalNotify::default(),
            closing: Cell::new(None),
            draining: Cell::new(false),
            last_progress: Cell::new(Instant::now()),
            repeats_reads,
            opened_at: Instant::now(),
            ended: Cell::new(None),
        })
    }

    /// Whether the lane accepts requests.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.closing.get().is_none() && !self.draining.get()
    }

    /// Whether sessions should wait before they send more.
    pub(crate) fn is_full(&self) -> bool {
        self.out.borrow().len() - self.sent.get() >= UNSENT_MAX || self.in_flight.borrow().is_full()
    }

    /// Wakes `client` when the lane isn't full any more, or has ended.
    pub(crate) fn hold(&self, client: &Rc<ResponseQueue>) {
        if client.mark_held() {
            self.held.borrow_mut().push(Rc::downgrade(client));
        }
    }

    fn wake_held(&self) {
        let held = self.held.take();
        held.iter().filter_map(Weak::upgrade).for_each(|client| client.wake_held());
    }

    /// Sends a request, whose reply goes to `client`. Only while [`Lane::is_open`].
    pub(crate) fn send(&self, request: &Request<'_>, client: &Rc<ResponseQueue>) {
        let mut in_flight = self.in_flight.borrow_mut();
        if in_flight.is_empty() {
            self.last_progress.set(Instant::now());
        }
        let tag = in_flight.push(request, client.clone());
        let mut out = self.out.borrow_mut();
        if out.is_empty() {
            self.wake.notify();
        }
        encode::request(request, tag, &mut out);
    }

    /// Sends a read, which was read at `started_at`, once more: it was in flight on a lane that has failed.
    pub(crate) fn send_again(
        &self,
        request: &Request<'_>,
        started_at: StartedAt,
        client: &Rc<ResponseQueue>,
    ) {
        self.send(request, client);
        self.in_flight.borrow_mut().mark_repeated(started_at);
    }

    /// Queues a local reply to `client` behind its replies in flight.
    pub(crate) fn send_local(&self, bytes: Cow<'static, [u8]>, client: &Rc<ResponseQueue>) {
        self.in_flight.borrow_mut().push_local(bytes, client.clone());
    }

    /// Closes the lane once its requests in flight are answered. It accepts no more.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        self.wake.notify();
    }

    /// Closes the lane. Requests in flight are answered with `fault`.
    pub(crate) fn close(&self, fault: Fault) {
        self.closing.set(Some(fault));
        self.wake.notify();
    }

    /// Serves until the lane is closed. Requests in flight are then answered with a fault, or are deferred. Records in
    /// `faults` what memcached, at `address`, does wrong.
    pub(crate) async fn run(
        &self,
        stream: &TcpStream,
        address: SocketAddr,
        faults: &LaneFaults,
        buffers: &ReadBufferPool,
    ) -> CloseReason {
        let _guard = CloseGuard(self);
        let _open = ConnectionGuard::new(faults.shared_lanes());
        self.last_progress.set(Instant::now());
        let reason = self.serve(stream, buffers).await.unwrap_or_else(|error| {
            faults.violation(address, error);
            self.in_flight.borrow_mut().spend_first();
            CloseReason::Failed(Fault::Unavailable)
        });
        if let CloseReason::Failed(fault) = reason {
            self.closing.set(Some(fault));
            if fault == Fault::TimedOut {
                faults.reachability.timed_out();
            }
        }
        reason
    }

    /// Whether memcached has replied to a request, or the lane has been open for long enough to be used by `now`.
    pub(crate) fn has_worked(&self, now: Instant) -> bool {
        let delivered = || match self.ended.get() {
            Some((delivered, _)) => delivered,
            None => self.in_flight.borrow().has_delivered(),
        };
        now.saturating_duration_since(self.opened_at) > LIFE_MIN || delivered()
    }

    pub(crate) fn opened_at(&self) -> Instant {
        self.opened_at
    }

    /// Whether requests were in flight when the lane was closed.
    pub(crate) fn has_interrupted(&self) -> bool {
        self.ended.get().is_some_and(|(_, interrupted)| interrupted)
    }

    /// Serves until the lane must close.
    ///
    /// # Errors
    ///
    /// If memcached violates the protocol.
    async fn serve(
        &self,
        stream: &TcpStream,
        buffers: &ReadBufferPool,
    ) -> Result<CloseReason, ProtocolError> {
        let mut input = ReadBuffer::new(buffers);
        // The clients that were written to after one read.
        let mut dirty = Vec::new();
        let mut check = interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Some(fault) = self.closing.get() {
                return Ok(CloseReason::Failed(fault));
            }
            if self.draining.get() && self.in_flight.borrow().is_empty() {
                return Ok(CloseReason::Idle);
            }
            let Ok(blocked) = self.flush(stream) else { return Ok(CloseReason::Failed(Fault::Unavailable)) };
            tokio::select! {
                biased;
                ready = tcp::readable(stream) => {
                    if ready.and_then(|()| self.read(stream, &mut input)).is_err() {
                        return Ok(CloseReason::Failed(Fault::Unavailable));
                    }
                    self.receive(&mut input, &mut dirty)?;
                }
                ready = tcp::writable(stream), if blocked => {
                    if ready.is_err() {
                        return Ok(CloseReason::Failed(Fault::Unavailable));
                    }
                }
                () = self.wake.notified() => {}
                _ = check.tick() => {
                    if let Some(reason) = self.timed_out() {
                        return Ok(reason);
                    }
                }
            }
        }
    }

    /// Writes the requests, and wakes held sessions if the lane isn't full any more. Returns whether the socket
    /// is blocked.
    fn flush(&self, stream: &TcpStream) -> io::Result<bool> {
        let mut out = self.out.borrow_mut();
        let was_full = out.len() - self.sent.get() >= UNSENT_MAX;
        let mut blocked = false;
        while let Some(rest) = out.get(self.sent.get()..).filter(|rest| !rest.is_empty()) {
            match stream.try_write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.sent.set(self.sent.get() + n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    blocked = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if !blocked {
            self.sent.set(0);
            out.clear();
            if out.capacity() > KEPT_CAPACITY_MAX {
                *out = Vec::new();
            }
        } else if self.sent.get() >= out.len() / 2 {
            // Under steady load the buffer may never become empty.
            out.drain(..self.sent.take());
        }
        drop(out);
        if was_full && !self.is_full() {
            self.wake_held();
        }
        Ok(blocked)
    }

    /// Reads once, if there is something to read.
    fn read(&self, stream: &TcpStream, input: &mut ReadBuffer<'_>) -> io::Result<()> {
        match input.read(stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            read => read.map(|_| self.last_progress.set(Instant::now())),
        }
    }

    /// Delivers every complete reply. `dirty` is empty before and after.
    fn receive(
        &self,
        input: &mut ReadBuffer<'_>,
        dirty: &mut Vec<Rc<ResponseQueue>>,
    ) -> Result<(), ProtocolError> {
        let mut in_flight = self.in_flight.borrow_mut();
        let was_full = in_flight.is_full();
        let delivered = in_flight.deliver(input.unread(), dirty);
        drop(in_flight);
        input.consume(*delivered.as_ref().unwrap_or(&0));
        dirty.drain(..).for_each(|client| client.flush_dirty());
        if was_full && !self.is_full() {
            self.wake_held();
        }
        delivered.map(drop)
    }

    fn timed_out(&self) -> Option<CloseReason> {
        let since = self.last_progress.get().elapsed();
        if self.in_flight.borrow().is_empty() {
            (since > IDLE_TIMEOUT && self.out.borrow().is_empty()).then_some(CloseReason::Idle)
        } else {
            (since > REPLY_TIMEOUT).then_some(CloseReason::Failed(Fault::TimedOut))
        }
    }
}

/// Ends everything in flight and frees the buffers when a lane ends, even by a panic.
struct CloseGuard<'a>(&'a Lane);

impl Drop for CloseGuard<'_> {
    fn drop(&mut self) {
        let lane = self.0;
        let fault = lane.closing.get().unwrap_or(Fault::Unavailable);
        lane.closing.set(Some(fault));
        let mut in_flight = lane.in_flight.borrow_mut();
        lane.ended.set(Some((in_flight.has_delivered(), !in_flight.is_empty())));
        // What has waited in vain for the whole time limit isn't asked for again.
        let repeats_reads = lane.repeats_reads && fault == Fault::Unavailable;
        let dirty = if repeats_reads { in_flight.fail_writes(fault) } else { in_flight.fail(fault) };
        drop(in_flight);
        dirty.iter().for_each(|client| client.flush_dirty());
        *lane.out.borrow_mut() = Vec::new();
        lane.sent.set(0);
        lane.wake_held();
    }
}

#[cfg(test)]
mod tests;
