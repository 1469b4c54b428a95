//! One connection: bytes to send, and pending replies in order.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use crate::error::LoadError;
use crate::login::Login;
use crate::reply_checker::{Mismatch, ReplyChecker};
use crate::stream::Stream;
use crate::wire::{Op, Wire};
use crate::workload::Endpoint;

/// A reply that is expected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) op: Op,
    pub(crate) key: usize,
    /// When the request was sent, or scheduled: nanoseconds since the run's start.
    pub(crate) at: u64,
}

pub(crate) struct Session {
    pub(crate) stream: Stream,
    pub(crate) out: Vec<u8>,
    sent: usize,
    pub(crate) pending: VecDeque<Pending>,
    checker: ReplyChecker,
    /// Bytes received so far.
    pub(crate) received: u64,
    /// Requests without a complete reply.
    pub(crate) in_flight: usize,
    /// Whether the socket's send buffer is full, so that the poller waits until it is writable.
    pub(crate) blocked: bool,
    /// Open loop: requests that are due and wait for a place in the pipeline.
    pub(crate) due: u64,
    /// Open loop: the number of the next request.
    pub(crate) next: u64,
}

/// The replies to expect.
#[derive(Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub(crate) wire: &'a Wire,
    pub(crate) login: &'a Login,
}

impl Session {
    /// A session over an open connection that is logged in, with no pending replies.
    pub(crate) fn open(stream: Stream) -> io::Result<Self> {
        stream.tcp().set_nonblocking(true)?;
        Ok(Self::new(stream))
    }

    /// Starts to connect; the connection is open once the socket is writable.
    pub(crate) fn connect(endpoint: &Endpoint) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(endpoint.target), Type::STREAM.nonblocking(), None)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&endpoint.target.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
            _ => Ok(Self::new(Stream::new(socket.into(), endpoint.tls.as_ref())?)),
        }
    }

    /// A session whose reads block, for use before a run.
    pub(crate) fn blocking(stream: Stream, pending: VecDeque<Pending>) -> Self {
        Self { in_flight: pending.len(), pending, ..Self::new(stream) }
    }

    fn new(stream: Stream) -> Self {
        Self {
            stream,
            out: Vec::new(),
            sent: 0,
            pending: VecDeque::new(),
            checker: ReplyChecker::default(),
            received: 0,
            in_flight: 0,
            blocked: false,
            due: 0,
            next: 0,
        }
    }

    /// Sends what is buffered. `true` if the socket must become writable first.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(!self.stream.is_handshaking());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        match self.stream.flush() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
            flushed => flushed.map(|()| false),
        }
    }

    /// Reads once and checks the replies; calls `done` for each complete one.
    pub(crate) fn receive(
        &mut self,
        expected: Expected<'_>,
        scratch: &mut [u8],
        mut done: impl FnMut(Pending),
    ) -> Result<(), LoadError> {
        let read = match self.stream.read(scratch) {
            Ok(0) => return Err(LoadError::invalid_run("the target closed a connection")),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.received += read as u64;
        let mut input = &scratch[..read];
        while !input.is_empty() {
            let Some(&pending) = self.pending.front() else {
                return Err(unexpected(input));
            };
            let expect = match pending.op {
                Op::Login => expected.login.expect().ok_or_else(|| unexpected(input))?,
                op => expected.wire.expect(op, pending.key),
            };
            let (taken, complete) =
                self.checker.step(&expect, input).map_err(|difference| mismatch(pending, &difference))?;
            input = &input[taken..];
            if complete {
                self.pending.pop_front();
                self.in_flight -= usize::from(pending.op != Op::GetMore);
                done(pending);
            }
        }
        Ok(())
    }
}

fn unexpected(input: &[u8]) -> LoadError {
    LoadError::invalid_run(format!("an unexpected reply: {}", input[..input.len().min(80)].escape_ascii()))
}

fn mismatch(pending: Pending, Mismatch { expected, actual }: &Mismatch) -> LoadError {
    LoadError::invalid_run(format!(
        "a wrong reply to {:?} of key {}: {actual}, expected {expected}",
        pending.op, pending.key
    ))
}
