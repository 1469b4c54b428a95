//! What is on its way to one client: replies gathered in one turn leave in one write. Lanes write here
//! directly; the client's own task is woken only when its socket takes no more.

mod deferred;

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::io::{self, IoSlice};
use std::rc::Rc;

use crate::metrics::usage::{Asked, Usage};
use crate::notify::LocalNotify;
use crate::protocol::request::{CommandKind, Fault, Outcome, Reply, ReplyFormat, TextFormat, ValueHeader};
use crate::protocol::{self, fault_line};
use crate::transport::Stream;
use deferred::Queue;
pub(crate) use deferred::{Deferred, whole};

/// BufferPool buffers that a worker keeps.
const SPARE_MAX: usize = 64;
/// A buffer larger than this isn't kept.
const KEEP: usize = 256 * 1024;
/// Values of at least this length are sent from where they were read.
const DIRECT_MIN: usize = 16 * 1024;
/// A client that has taken no more than this of what it asked for gets no more values from a lane that
/// others use.
pub(crate) const UNSENT_MAX: usize = 256 * 1024;

/// Buffers that wait for their next client: an idle client holds none.
#[derive(Default)]
pub(crate) struct BufferPool(RefCell<Vec<Vec<u8>>>);

impl BufferPool {
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        let mut spare = self.0.borrow_mut();
        if spare.len() < SPARE_MAX && (1..=KEEP).contains(&buffer.capacity()) {
            buffer.clear();
            spare.push(buffer);
        }
    }
}

pub(crate) struct ResponseQueue {
    stream: Stream,
    spare: Rc<BufferPool>,
    buffer: RefCell<Vec<u8>>,
    /// How much of the buffer the socket has taken.
    sent: Cell<usize>,
    in_flight: Cell<usize>,
    /// Gets among them.
    reading: Cell<usize>,
    /// All that was asked of memcached.
    operations: Cell<u64>,
    /// A key of the current `get` line couldn't be had: the line ends in this instead of END.
    failed: Cell<Option<Fault>>,
    touched: Cell<bool>,
    /// The socket takes no more for now.
    blocked: Cell<bool>,
    /// The client's task waits for room.
    waits: Cell<bool>,
    broken: Cell<bool>,
    wake: LocalNotify,
    /// What must be said later, in order, because something before it must be asked for again.
    deferred: RefCell<Queue>,
    /// When what is being understood was read.
    asked: Cell<Asked>,
    usage: OnceCell<Rc<Usage>>,
}

/// See [`ResponseQueue::waiting`].
pub(crate) struct Waiting<'a>(&'a Cell<bool>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl ResponseQueue {
    pub(crate) fn new(stream: Stream, spare: Rc<BufferPool>) -> Rc<Self> {
        Rc::new(Self {
            stream,
            spare,
            buffer: RefCell::default(),
            sent: Cell::new(0),
            in_flight: Cell::new(0),
            reading: Cell::new(0),
            operations: Cell::new(0),
            failed: Cell::new(None),
            touched: Cell::new(false),
            blocked: Cell::new(false),
            waits: Cell::new(false),
            broken: Cell::new(false),
            wake: LocalNotify::default(),
            deferred: RefCell::default(),
            asked: Cell::default(),
            usage: OnceCell::new(),
        })
    }

    /// From now on what is sent is counted there.
    pub(crate) fn count_in(&self, usage: Rc<Usage>) {
        let _ = self.usage.set(usage);
    }

    /// Something was read: so many bytes, now.
    pub(crate) fn has_read(&self, bytes: usize) {
        if let Some(usage) = self.usage.get() {
            usage.read(bytes);
            self.asked.set(usage.now());
        }
    }

    /// When what is being understood was read.
    pub(crate) fn asked(&self) -> Asked {
        self.asked.get()
    }

    /// Buffers for whoever needs one for a while.
    pub(crate) fn spare(&self) -> &BufferPool {
        &self.spare
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Takes the stream back, when nobody else holds the responses.
    pub(crate) fn into_stream(self: Rc<Self>) -> Option<Stream> {
        Rc::into_inner(self).map(|responses| responses.stream)
    }

    /// Replies that are still to come.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Bytes that the socket hasn't taken.
    pub(crate) fn unsent(&self) -> usize {
        self.buffer.borrow().len() - self.sent.get() + usize::from(self.stream.has_pending_tls())
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Whether writing has failed: nothing more will attach there.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Ends the connection: nothing more is said, and the client's task sees it as broken.
    pub(crate) fn cut(&self) {
        self.broken.set(true);
        self.deferred.take();
        self.buffer.borrow_mut().clear();
        self.sent.set(0);
        self.blocked.set(false);
        self.wake.give();
    }

    /// One more reply is to come, to a request of this kind.
    pub(crate) fn expect(&self, kind: CommandKind) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.reading.set(self.reading.get() + usize::from(kind.is_get()));
        self.has_asked();
    }

    /// Something is asked of memcached.
    pub(crate) fn has_asked(&self) {
        self.operations.set(self.operations.get().wrapping_add(1));
    }

    /// How much was asked of memcached, key by key.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.get()
    }

    /// Words of ours are to come.
    pub(crate) fn expect_words(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// Replies to gets that are still to come.
    pub(crate) fn reading(&self) -> usize {
        self.reading.get()
    }

    fn has_come(&self, kind: CommandKind) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        self.reading.set(self.reading.get().saturating_sub(usize::from(kind.is_get())));
    }

    /// Until this is dropped the client's task is woken by replies too. Take it before the first await
    /// of a wait: a task out of budget is put off before it has come to wait for anything, and what
    /// happens meanwhile must leave it a permit.
    pub(crate) fn waiting(&self) -> Waiting<'_> {
        self.waits.set(true);
        Waiting(&self.waits)
    }

    /// Waits until the connection is broken: nobody listens any more.
    pub(crate) async fn until_broken(&self) {
        while !self.is_broken() {
            self.wake.given().await;
        }
    }

    /// Waits until the socket takes no more, or is broken, or something was put off; while [`ResponseQueue::waiting`], also for a reply.
    pub(crate) async fn changed(&self) {
        self.wake.given().await;
    }

    /// Wakes the client's task whatever it waits for: it shall look again.
    pub(crate) fn wake_all(&self) {
        self.wake.give();
    }

    /// Wakes the client's task if it waits.
    pub(crate) fn wake(&self) {
        if self.waits.get() {
            self.wake.give();
        }
    }

    /// Says something now. Only while nothing is in flight.
    pub(crate) fn say(&self, words: &[u8]) {
        if !words.is_empty() {
            self.with_buffer(|buffer| buffer.extend_from_slice(words));
        }
    }

    /// One reply has come: words of our own.
    pub(crate) fn answer_words(&self, words: Cow<'static, [u8]>) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        if self.is_deferring() {
            self.defer(Deferred::Words(words));
        } else {
            self.say(&words);
        }
    }

    /// One reply has come: memcached's. It is put off if another was, or if the client takes too little.
    pub(crate) fn answer(&self, answer: ReplyFormat, kind: CommandKind, note: &[u8], reply: &Reply<'_>) {
        self.has_come(kind);
        if self.is_deferring() {
            self.defer(Deferred::of(answer, kind, note, reply));
        } else if self.takes(&reply.outcome) {
            self.speak(answer, kind, note, reply);
        } else {
            self.defer(Deferred::again(answer, kind, note, reply.tokens));
        }
    }

    /// One reply has come, with a value too long for the lane: it must be asked for again.
    pub(crate) fn put_off(&self, answer: ReplyFormat, kind: CommandKind, note: &[u8], tokens: &[u8]) {
        self.has_come(kind);
        self.defer(Deferred::again(answer, kind, note, tokens));
    }

    /// Whether there is room for a value, after one more try to make it.
    fn takes(&self, outcome: &Outcome<'_>) -> bool {
        let Outcome::Value(_, data) = outcome else { return true };
        let fits = || self.unsent() + data.len() <= UNSENT_MAX;
        if !fits() && !self.is_blocked() {
            self.flush();
        }
        fits() || self.broken.get()
    }

    /// Whether something must be asked for again before anything else may be said.
    pub(crate) fn is_deferring(&self) -> bool {
        !self.deferred.borrow().is_empty()
    }

    fn defer(&self, deferred: Deferred) {
        self.deferred.borrow_mut().push(deferred);
        // Its task may wait for input only.
        self.wake.give();
    }

    /// The first of what was put off.
    pub(crate) fn next_deferred(&self) -> Option<Deferred> {
        self.deferred.borrow_mut().pop()
    }

    /// Whether a key of the current `get` line couldn't be had.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.get().is_some()
    }

    /// Says `reply` in the client's protocol. One error, one line: a `get` line of which a key
    /// couldn't be had ends in the error instead of END, and names no more values.
    pub(crate) fn speak(&self, answer: ReplyFormat, kind: CommandKind, note: &[u8], reply: &Reply<'_>) {
        if let ReplyFormat::Text(TextFormat::Value { last, .. }) = answer {
            if let Outcome::Failed(fault) = reply.outcome {
                self.failed.set(self.failed.get().or(Some(fault)));
            }
            if let Some(fault) = self.failed.get() {
                if last {
                    self.failed.set(None);
                    self.say(fault_line(fault));
                }
                return;
            }
        }
        match reply.outcome {
            Outcome::Value(item, data) if data.len() >= DIRECT_MIN && kind.is_get() => {
                let head = ValueHeader { item, len: data.len(), tokens: reply.tokens };
                self.with_buffer(|buffer| protocol::encode_value_header(answer, note, &head, buffer));
                self.send_directly(data, protocol::value_end(answer));
            }
            _ => self.with_buffer(|buffer| protocol::encode_reply(answer, kind, note, reply, buffer)),
        }
    }

    /// Sends all there is and a large value behind it from where it is; what the socket doesn't take is
    /// copied.
    fn send_directly(&self, data: &[u8], tail: &[u8]) {
        if self.broken.get() {
            return;
        }
        let mut buffer = self.buffer.borrow_mut();
        let waiting = buffer.get(self.sent.get()..).unwrap_or_default();
        let pieces = [waiting, data, tail];
        let written = if self.blocked.get() {
            0
        } else {
            // An error is met again, and seen to, by the next flush.
            self.stream.write_vectored(&pieces.map(IoSlice::new)).unwrap_or(0)
        };
        if let Some(usage) = self.usage.get() {
            usage.written(written);
        }
        let of_waiting = written.min(waiting.len());
        let of_data = (written - of_waiting).min(data.len());
        let of_tail = written - of_waiting - of_data;
        self.sent.set(self.sent.get() + of_waiting);
        if self.sent.get() == buffer.len() {
            buffer.clear();
            self.sent.set(0);
        }
        buffer.extend_from_slice(data.get(of_data..).unwrap_or_default());
        buffer.extend_from_slice(tail.get(of_tail..).unwrap_or_default());
    }

    /// Marks the client as told something; `true` the first time in a turn.
    pub(crate) fn touch(&self) -> bool {
        !self.touched.replace(true)
    }

    /// The end of a turn: sends what there is, and lets the client's task go on if it waits.
    pub(crate) fn barrier(&self) {
        self.touched.set(false);
        self.flush();
        self.wake();
    }

    /// Sends what there is, as far as the socket takes it.
    pub(crate) fn flush(&self) {
        let mut buffer = self.buffer.borrow_mut();
        loop {
            let rest = buffer.get(self.sent.get()..).unwrap_or_default();
            let written =
                if rest.is_empty() { self.stream.flush().map(|()| 0) } else { self.stream.write(rest) };
            match written {
                Ok(0) if rest.is_empty() => break,
                Ok(n) if n > 0 => {
                    self.sent.set(self.sent.get() + n);
                    if let Some(usage) = self.usage.get() {
                        usage.written(n);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked.set(true);
                    self.wake.give();
                    // A reader that never quite catches up must not make us keep what it has read.
                    if self.sent.get() >= buffer.len() / 2 {
                        buffer.drain(..self.sent.take());
                    }
                    return;
                }
                _ => {
                    self.broken.set(true);
                    self.wake.give();
                    break;
                }
            }
        }
        self.blocked.set(false);
        self.sent.set(0);
        self.spare.give(std::mem::take(&mut *buffer));
    }

    /// Sends all there is, if somebody listens. A socket that has just come from another runtime takes nothing
    /// at first.
    pub(crate) async fn drain(&self) {
        self.flush();
        while self.unsent() > 0 && !self.is_broken() && self.stream.writable().await.is_ok() {
            self.flush();
        }
    }

    /// What hasn't been sent.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn told(&self) -> Vec<u8> {
        self.buffer.borrow().clone()
    }

    pub(crate) fn with_buffer<F: FnOnce(&mut Vec<u8>)>(&self, write: F) {
        if self.broken.get() {
            return;
        }
        let mut buffer = self.buffer.borrow_mut();
        if buffer.capacity() == 0 {
            *buffer = self.spare.take();
        }
        write(&mut buffer);
    }
}

#[cfg(test)]
mod tests;
