//! The replies of one session, in the order of its requests. Replies that arrive in one turn of the event
//! loop leave in one write. Lanes write here directly; the session's own task wakes only when the socket
//! accepts no more.

mod deferred;
mod held;
mod write_buffer;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::buffers::HeldBytes;
use crate::metrics::usage::{StartedAt, Time, Usage};
use crate::notify::LocalNotify;
use crate::protocol::request::{CommandKind, Fault, Outcome, Reply, ReplyFormat, TextFormat, ValueHeader};
use crate::protocol::{self, fault_line};
use crate::transport::Stream;
use deferred::DeferredQueue;
pub(crate) use deferred::{Again, Deferred, with_data};
pub(crate) use write_buffer::BufferPool;
use write_buffer::{Account, WriteBuffer};

/// Values of at least this length, in bytes, are written from where they were read.
const WRITE_THROUGH_MIN: usize = 16 * 1024;
/// The most unsent bytes of a session. While there are more, no value from a shared lane is added.
pub(crate) const UNSENT_MAX: usize = 256 * 1024;

pub(crate) struct ResponseQueue {
    out: WriteBuffer,
    order: ReplyOrder,
    wake: SessionWake,
    /// When the input that is being dispatched was read.
    read_at: Cell<Time>,
    /// Operations sent to memcached, one per key.
    operations: Cell<u64>,
}

/// Which replies are missing, and which must wait for others.
#[derive(Default)]
struct ReplyOrder {
    in_flight: Cell<usize>,
    /// The gets among them.
    gets_in_flight: Cell<usize>,
    /// The fault of a key of the current `get` line. The line ends in it instead of END.
    get_fault: Cell<Option<Fault>>,
    deferred: RefCell<DeferredQueue>,
    /// Bytes of local replies that wait for earlier replies.
    local_bytes: Cell<usize>,
}

/// Wakes the task of the session.
#[derive(Default)]
struct SessionWake {
    notify: LocalNotify,
    /// Whether replies wake the task.
    on_reply: Cell<bool>,
    /// Whether a lane has written in this turn, and will call [`ResponseQueue::flush_dirty`].
    dirty: Cell<bool>,
    /// Whether a lane will call [`ResponseQueue::wake_held`].
    held: Cell<bool>,
    /// Whether the task works on a request or a reply itself, on a dedicated lane perhaps, or waits for a lane.
    is_working: Cell<bool>,
}

/// See [`ResponseQueue::wake_on_reply`].
pub(crate) struct WakeOnReply<'a>(&'a Cell<bool>);

impl Drop for WakeOnReply<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// See [`ResponseQueue::begin_work`].
pub(crate) struct Work {
    queue: Rc<ResponseQueue>,
    was_working: bool,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.queue.wake.is_working.set(self.was_working);
    }
}

impl ResponseQueue {
    pub(crate) fn new(stream: Stream, pool: Rc<BufferPool>) -> Rc<Self> {
        Rc::new(Self {
            out: WriteBuffer::new(stream, pool),
            order: ReplyOrder::default(),
            wake: SessionWake::default(),
            read_at: Cell::default(),
            operations: Cell::new(0),
        })
    }

    /// Sets where the session's bytes are counted.
    pub(crate) fn set_account(&self, usage: Rc<Usage>, held: HeldBytes) {
        // What came with the login.
        self.read_at.set(usage.time());
        let _ = self.out.account.set(Account { usage, held });
    }

    /// Records that `bytes` bytes were read from the client just now.
    pub(crate) fn record_read(&self, bytes: usize) {
        if let Some(account) = self.out.account.get() {
            account.usage.read(bytes);
            self.read_at.set(account.usage.time());
        }
    }

    /// When the input that is being dispatched was read.
    pub(crate) fn read_at(&self) -> StartedAt {
        self.read_at.get().started_at()
    }

    pub(crate) fn buffers(&self) -> &BufferPool {
        &self.out.pool
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.out.stream
    }

    /// Returns the stream, if no lane holds the queue any more.
    pub(crate) fn into_stream(self: Rc<Self>) -> Option<Stream> {
        Some(self.into_parts()?.0)
    }

    /// Returns the stream and what the connection holds, if no lane holds the queue any more.
    pub(crate) fn into_parts(self: Rc<Self>) -> Option<(Stream, Option<HeldBytes>)> {
        let out = Rc::into_inner(self)?.out;
        Some((out.stream, out.account.into_inner().map(|account| account.held)))
    }

    /// Bytes that the socket hasn't accepted.
    pub(crate) fn unsent(&self) -> usize {
        self.out.unsent()
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.out.blocked.get()
    }

    /// Whether the connection is closed: nothing more is written.
    pub(crate) fn is_broken(&self) -> bool {
        self.out.broken.get()
    }

    /// Closes the connection at once. The session's task ends when it wakes.
    pub(crate) fn abort(&self) {
        self.out.abort();
        self.order.deferred.take();
        self.hold_deferred();
        self.wake.notify.notify();
    }

    // ---- The order of replies.

    /// Counts one more request, whose reply must be [completed](ResponseQueue::complete).
    pub(crate) fn expect(&self, kind: CommandKind) {
        let order = &self.order;
        order.in_flight.set(order.in_flight.get() + 1);
        order.gets_in_flight.set(order.gets_in_flight.get() + usize::from(kind.is_get()));
        self.operations.set(self.operations.get().wrapping_add(1));
    }

    /// Counts one more local reply, which must be [completed](ResponseQueue::complete_local).
    /// Until then it holds `bytes` bytes.
    pub(crate) fn expect_local(&self, bytes: usize) {
        self.order.in_flight.set(self.order.in_flight.get() + 1);
        if bytes > 0 {
            self.hold_local(self.order.local_bytes.get() + bytes);
        }
    }

    /// Counts an operation that isn't sent on a shared lane.
    pub(crate) fn count_operation(&self) {
        self.operations.set(self.operations.get().wrapping_add(1));
    }

    /// Operations sent to memcached, one per key.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.get()
    }

    /// Goes on counting from what another process has counted.
    pub(crate) fn set_operations(&self, operations: u64) {
        self.operations.set(operations);
    }

    /// Replies that are missing.
    pub(crate) fn in_flight(&self) -> usize {
        self.order.in_flight.get()
    }

    /// Replies to gets that are missing.
    pub(crate) fn gets_in_flight(&self) -> usize {
        self.order.gets_in_flight.get()
    }

    /// Completes a request with memcached's reply. The reply is deferred if an earlier one is, or if the
    /// client reads too slowly.
    pub(crate) fn complete(&self, format: ReplyFormat, kind: CommandKind, context: &[u8], reply: &Reply<'_>) {
        self.count_reply(kind);
        if self.is_deferring() {
            self.push_deferred(Deferred::reply(format, kind, context, reply));
        } else if self.has_room_for(&reply.outcome) {
            self.write_reply(format, kind, context, reply);
        } else {
            self.push_deferred(Deferred::refetch(format, kind, context, reply.tokens));
        }
    }

    /// Completes a local reply.
    pub(crate) fn complete_local(&self, bytes: Cow<'static, [u8]>) {
        self.order.in_flight.set(self.order.in_flight.get().saturating_sub(1));
        if let Cow::Owned(bytes) = &bytes {
            self.hold_local(self.order.local_bytes.get().saturating_sub(bytes.len()));
        }
        if self.is_deferring() {
            self.push_deferred(Deferred::Bytes(bytes));
        } else {
            self.write_raw(&bytes);
        }
    }

    /// Defers a request whose value is too large for a shared lane.
    pub(crate) fn defer(&self, format: ReplyFormat, kind: CommandKind, context: &[u8], tokens: &[u8]) {
        self.count_reply(kind);
        self.push_deferred(Deferred::refetch(format, kind, context, tokens));
    }

    /// Defers a read that was in flight on a lane that has failed: the session sends it again.
    pub(crate) fn defer_again(&self, again: Again) {
        self.count_reply(again.kind);
        self.push_deferred(Deferred::Again(again));
    }

    /// Lets the deferred replies wait for what is sent from now on, until [`ResponseQueue::bring_deferred_back`].
    pub(crate) fn set_deferred_aside(&self) {
        self.order.deferred.borrow_mut().set_aside();
    }

    /// The first reply set aside, if it is a read to send again; else whether there are any.
    pub(crate) fn next_aside(&self) -> Result<Again, bool> {
        let next = self.order.deferred.borrow_mut().pop_aside();
        if next.is_ok() {
            self.hold_deferred();
        }
        next
    }

    pub(crate) fn bring_deferred_back(&self) {
        self.order.deferred.borrow_mut().bring_back();
    }

    /// Whether a reply is deferred. Nothing may be written before it.
    pub(crate) fn is_deferring(&self) -> bool {
        !self.order.deferred.borrow().is_empty()
    }

    pub(crate) fn next_deferred(&self) -> Option<Deferred> {
        let next = self.order.deferred.borrow_mut().pop();
        if next.is_some() {
            self.hold_deferred();
        }
        next
    }

    /// Whether a key of the current `get` line has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.order.get_fault.get().is_some()
    }

    #[inline]
    fn count_reply(&self, kind: CommandKind) {
        let order = &self.order;
        order.in_flight.set(order.in_flight.get().saturating_sub(1));
        order.gets_in_flight.set(order.gets_in_flight.get().saturating_sub(usize::from(kind.is_get())));
    }

    /// Whether the client has read enough for one more value; flushes if not.
    #[inline]
    fn has_room_for(&self, outcome: &Outcome<'_>) -> bool {
        let Outcome::Value(_, data) = outcome else { return true };
        let fits = || !self.exceeds_unsent(data.len());
        if !fits() && !self.is_blocked() {
            self.flush();
        }
        fits() || self.is_broken()
    }

    fn push_deferred(&self, deferred: Deferred) {
        self.order.deferred.borrow_mut().push(deferred);
        self.hold_deferred();
        // The task may be waiting for input only.
        self.wake.notify.notify();
    }

    // ---- Writing.

    /// Writes `bytes`. Only while no reply is missing.
    pub(crate) fn write_raw(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.out.append(|buffer| buffer.extend_from_slice(bytes));
        }
    }

    /// Lets `write` append to the write buffer. Only while no reply is missing.
    pub(crate) fn with_buffer<F: FnOnce(&mut Vec<u8>)>(&self, write: F) {
        self.out.append(write);
    }

    /// Writes `reply` in the client's protocol. If a key of a `get` line has failed, the line ends in one
    /// error instead of END, and its later values are dropped.
    pub(crate) fn write_reply(
        &self,
        format: ReplyFormat,
        kind: CommandKind,
        context: &[u8],
        reply: &Reply<'_>,
    ) {
        if let ReplyFormat::Text(TextFormat::Value { last, .. }) = format {
            let get_fault = &self.order.get_fault;
            if let Outcome::Failed(fault) = reply.outcome {
                get_fault.set(get_fault.get().or(Some(fault)));
            }
            if let Some(fault) = get_fault.get() {
                if last {
                    get_fault.set(None);
                    self.write_raw(fault_line(fault));
                }
                return;
            }
        }
        match reply.outcome {
            Outcome::Value(item, data) if data.len() >= WRITE_THROUGH_MIN && kind.is_get() => {
                let header = ValueHeader { item, len: data.len(), tokens: reply.tokens };
                self.out.append(|buffer| protocol::encode_value_header(format, context, &header, buffer));
                self.out.write_through(data, protocol::value_end(format));
            }
            _ => self.out.append(|buffer| protocol::encode_reply(format, kind, context, reply, buffer)),
        }
    }

    /// Marks the queue as written in this turn. Returns `true` the first time.
    pub(crate) fn mark_dirty(&self) -> bool {
        !self.wake.dirty.replace(true)
    }

    /// Ends a turn: flushes, and wakes the session's task if it waits for replies.
    pub(crate) fn flush_dirty(&self) {
        self.wake.dirty.set(false);
        if !self.out.flush() || self.wake.on_reply.get() {
            self.wake.notify.notify();
        }
    }

    /// Writes until the socket accepts no more.
    pub(crate) fn flush(&self) {
        if !self.out.flush() {
            self.wake.notify.notify();
        }
    }

    /// Flushes, waiting until the socket accepts everything or the connection is closed. A socket that was
    /// just attached to this runtime accepts nothing at first.
    pub(crate) async fn drain(&self) {
        self.flush();
        while self.unsent() > 0 && !self.is_broken() && self.stream().writable().await.is_ok() {
            self.flush();
        }
    }

    // ---- Waking the session's task.

    /// Makes replies wake the session's task until the guard is dropped. Take the guard before the first
    /// await of a wait: tokio may suspend a task that is out of budget before it waits for anything, and a
    /// reply that arrives meanwhile must not be missed.
    pub(crate) fn wake_on_reply(&self) -> WakeOnReply<'_> {
        self.wake.on_reply.set(true);
        WakeOnReply(&self.wake.on_reply)
    }

    /// Marks the session's task as working on a request or a reply, which no lane does for it, or as waiting for a lane, until
    /// the guard is dropped.
    pub(crate) fn begin_work(self: &Rc<Self>) -> Work {
        Work { queue: self.clone(), was_working: self.wake.is_working.replace(true) }
    }

    /// Waits until the socket is blocked, the connection is closed or a reply is deferred; with
    /// [`ResponseQueue::wake_on_reply`] also for a reply.
    pub(crate) async fn changed(&self) {
        self.wake.notify.notified().await;
    }

    /// Waits until the connection is closed or must end.
    pub(crate) async fn wait_until_ended(&self) {
        while !self.is_broken() && self.ending().is_none() {
            self.wake.notify.notified().await;
        }
    }

    /// Wakes the session's task, whatever it waits for.
    pub(crate) fn wake(&self) {
        self.wake.notify.notify();
    }

    /// Notes that a lane will wake the session. Returns whether none would already.
    pub(crate) fn mark_held(&self) -> bool {
        !self.wake.held.replace(true)
    }

    /// Wakes the session's task if it waits for replies: a lane accepts requests again, or has ended.
    pub(crate) fn wake_held(&self) {
        self.wake.held.set(false);
        if self.wake.on_reply.get() {
            self.wake.notify.notify();
        }
    }

    /// The bytes that haven't been sent.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn unsent_bytes(&self) -> Vec<u8> {
        self.out.buffer.borrow().clone()
    }
}

#[cfg(test)]
mod tests;
