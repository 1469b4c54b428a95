//! A lane: one TCP connection to one instance's memcached, shared by that instance's clients and by
//! nobody else. It logs in with the instance's own secret before anything is sent.
//!
//! Requests gathered in one turn of the loop leave in one write; replies come back in one read. Each
//! carries our tag (`in_flight` checks it): a value can never reach a caller that didn't ask for it.

mod connect;
pub(crate) mod decode;
pub(crate) mod dedicated;
pub(crate) mod encode;
pub(crate) mod in_flight;
mod read_buffer;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::metrics::usage::Usage;
use crate::notify::LocalNotify;
use crate::protocol::request::{Fault, FlagSet, Request, SHARED_VALUE_MAX};
use crate::responses::ResponseQueue;
use crate::transport::tcp;
use decode::ValueLimits;
use in_flight::Queue;
pub(crate) use read_buffer::Buffers;
use read_buffer::ReadBuffer;

/// From the last byte written, or the last reply, to the next reply.
pub(crate) const REPLY_DEADLINE: Duration = Duration::from_secs(2);
/// A lane that nobody uses closes after so long.
const IDLE: Duration = Duration::from_secs(60);
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(200);
/// Bytes that may wait to be written before clients are held back.
const OUT_MAX: usize = 1024 * 1024;
/// An idle lane keeps no more room than this.
const OUT_KEEP: usize = 256 * 1024;

/// Where a lane leads. Never logged whole: it holds the secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) generation: i64,
    pub(crate) secret: String,
    /// The largest value that may come back.
    pub(crate) value_max: usize,
}

pub(crate) struct Lane {
    queue: RefCell<Queue>,
    out: RefCell<Vec<u8>>,
    /// How much of `out` the socket has taken.
    sent: Cell<usize>,
    /// Clients that wait until less is to be written.
    held: RefCell<Vec<Weak<ResponseQueue>>>,
    /// Something to write, or a reason to end.
    wake: LocalNotify,
    /// Set when the lane must end: the route moved, or the proxy stops.
    closing: Cell<Option<Fault>>,
    dead: Cell<bool>,
    progress: Cell<Instant>,
}

/// Why a lane ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Nobody needed it.
    Idle,
    /// memcached is away, silent, or says what it can't say here.
    Failed(Fault),
}

impl Lane {
    pub(crate) fn new(value_max: usize, usage: Rc<Usage>) -> Rc<Self> {
        let sizes = ValueLimits { most: value_max, whole: SHARED_VALUE_MAX };
        Rc::new(Self {
            queue: RefCell::new(Queue::new(sizes, usage)),
            out: RefCell::default(),
            sent: Cell::new(0),
            held: RefCell::default(),
            wake: LocalNotify::default(),
            closing: Cell::new(None),
            dead: Cell::new(false),
            progress: Cell::new(Instant::now()),
        })
    }

    /// Whether requests may still be put on it.
    pub(crate) fn is_open(&self) -> bool {
        !self.dead.get() && self.closing.get().is_none()
    }

    /// Whether clients should wait before they put more on it.
    pub(crate) fn is_full(&self) -> bool {
        self.out.borrow().len() - self.sent.get() >= OUT_MAX
    }

    /// Wakes `client` when the lane isn't full any more.
    pub(crate) fn hold(&self, client: &Rc<ResponseQueue>) {
        self.held.borrow_mut().push(Rc::downgrade(client));
    }

    fn release(&self) {
        let held = self.held.take();
        held.iter().filter_map(Weak::upgrade).for_each(|client| client.wake());
    }

    /// Puts a request on the lane; its reply goes to `client`. Only while [`Lane::is_open`].
    pub(crate) fn send(&self, request: &Request<'_>, client: &Rc<ResponseQueue>) {
        let mut queue = self.queue.borrow_mut();
        if queue.is_empty() {
            self.progress.set(Instant::now());
        }
        let tag = queue.push(request, client.clone());
        let mut out = self.out.borrow_mut();
        if out.is_empty() {
            self.wake.give();
        }
        encode::request(request, tag, &mut out);
    }

    /// Says something to `client` behind the replies that it waits for.
    pub(crate) fn say(&self, words: Cow<'static, [u8]>, client: &Rc<ResponseQueue>) {
        self.queue.borrow_mut().push_words(words, client.clone());
    }

    /// Ends the lane; what is in flight is answered with `fault`.
    pub(crate) fn close(&self, fault: Fault) {
        self.closing.set(Some(fault));
        self.wake.give();
    }

    /// Connects, logs in and serves until the end. What is in flight then is answered. `flags` learns what
    /// the memcached there knows.
    pub(crate) async fn run(&self, target: &Target, flags: &Cell<FlagSet>, buffers: &Buffers) -> End {
        let _ending = Ending(self);
        let dialled = tokio::select! {
            dialled = connect::dial(target) => dialled,
            fault = self.closed() => return End::Failed(fault),
        };
        let end = match dialled {
            Ok((stream, known)) => {
                flags.set(known);
                self.release();
                self.progress.set(Instant::now());
                self.drive(&stream, buffers).await
            }
            Err(error) => {
                tracing::debug!(address = %target.address, %error, "no lane");
                End::Failed(Fault::Unavailable)
            }
        };
        if let End::Failed(fault) = end {
            self.closing.set(Some(fault));
        }
        end
    }

    /// Waits until the lane must end.
    async fn closed(&self) -> Fault {
        loop {
            if let Some(fault) = self.closing.get() {
                return fault;
            }
            self.wake.given().await;
        }
    }

    async fn drive(&self, stream: &TcpStream, buffers: &Buffers) -> End {
        let mut inbound = ReadBuffer::new(buffers);
        // Clients that were told something by one read.
        let mut touched = Vec::new();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Some(fault) = self.closing.get() {
                return End::Failed(fault);
            }
            let Ok(blocked) = self.flush(stream) else { return End::Failed(Fault::Unavailable) };
            tokio::select! {
                biased;
                ready = tcp::readable(stream) => {
                    let read = ready.and_then(|()| self.receive(stream, &mut inbound, &mut touched));
                    if read.is_err() {
                        return End::Failed(Fault::Unavailable);
                    }
                }
                ready = tcp::writable(stream), if blocked => {
                    if ready.is_err() {
                        return End::Failed(Fault::Unavailable);
                    }
                }
                () = self.wake.given() => {}
                _ = tick.tick() => {
                    if let Some(end) = self.overdue() {
                        return end;
                    }
                }
            }
        }
    }

    /// Writes what has gathered. `Ok(true)` when the socket takes no more for now.
    fn flush(&self, stream: &TcpStream) -> io::Result<bool> {
        let was_full = self.is_full();
        let blocked = self.write(stream)?;
        if was_full && !self.is_full() {
            self.release();
        }
        Ok(blocked)
    }

    fn write(&self, stream: &TcpStream) -> io::Result<bool> {
        let mut out = self.out.borrow_mut();
        while let Some(rest) = out.get(self.sent.get()..).filter(|rest| !rest.is_empty()) {
            match stream.try_write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.sent.set(self.sent.get() + n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Under steady load there may never be nothing left to write.
                    if self.sent.get() >= out.len() / 2 {
                        out.drain(..self.sent.take());
                    }
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
        }
        self.sent.set(0);
        out.clear();
        if out.capacity() > OUT_KEEP {
            *out = Vec::new();
        }
        Ok(false)
    }

    /// Reads once, hands out every whole reply, keeps the rest. `touched` is empty between two calls.
    fn receive(
        &self,
        stream: &TcpStream,
        inbound: &mut ReadBuffer<'_>,
        touched: &mut Vec<Rc<ResponseQueue>>,
    ) -> io::Result<()> {
        match inbound.read(stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            read => read?,
        }
        let delivered = self.queue.borrow_mut().deliver(inbound.unread(), touched);
        inbound.consume(*delivered.as_ref().unwrap_or(&0));
        self.progress.set(Instant::now());
        touched.drain(..).for_each(|client| client.barrier());
        delivered.map(drop).map_err(|garbage| {
            tracing::warn!(%garbage, "a lane ends: memcached said what it can't say here");
            io::ErrorKind::InvalidData.into()
        })
    }

    fn overdue(&self) -> Option<End> {
        let since = self.progress.get().elapsed();
        if self.queue.borrow().is_empty() {
            (since > IDLE && self.out.borrow().is_empty()).then_some(End::Idle)
        } else {
            (since > REPLY_DEADLINE).then_some(End::Failed(Fault::TimedOut))
        }
    }
}

/// However a lane ends, by a panic too: nobody waits for it any more, and it keeps nothing.
struct Ending<'a>(&'a Lane);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let lane = self.0;
        lane.dead.set(true);
        let waiting = lane.queue.borrow_mut().fail(lane.closing.get().unwrap_or(Fault::Unavailable));
        waiting.iter().for_each(|client| client.barrier());
        *lane.out.borrow_mut() = Vec::new();
        lane.sent.set(0);
        lane.release();
    }
}

#[cfg(test)]
mod tests;
