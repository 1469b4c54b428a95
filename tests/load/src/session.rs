//! One connection: what it has yet to send, and what it waits for, in order.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use crate::failure::Failure;
use crate::link::Link;
use crate::login::Login;
use crate::plan::Way;
use crate::reader::{Mismatch, Reader};
use crate::wire::{Op, Wire};

/// A reply to come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) op: Op,
    pub(crate) key: usize,
    /// When it was sent, or meant to be: nanoseconds since the run's start.
    pub(crate) at: u64,
}

pub(crate) struct Session {
    pub(crate) link: Link,
    pub(crate) out: Vec<u8>,
    sent: usize,
    pub(crate) pending: VecDeque<Pending>,
    reader: Reader,
    /// Bytes so far.
    pub(crate) received: u64,
    /// Requests without a whole reply.
    pub(crate) in_flight: usize,
    /// Whether the poller watches for room to write.
    pub(crate) blocked: bool,
    /// Open loop: requests whose time has come and that wait for room in the pipeline.
    pub(crate) due: u64,
    /// Open loop: the number of the next request.
    pub(crate) next: u64,
}

/// What replies are checked against.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) wire: &'a Wire,
    pub(crate) login: &'a Login,
}

impl Session {
    /// A connection that is there, logged in, and waits for nothing.
    pub(crate) fn open(link: Link) -> io::Result<Self> {
        link.tcp().set_nonblocking(true)?;
        Ok(Self::new(link))
    }

    /// Begins to connect; it is there when it can be written to.
    pub(crate) fn begin(way: &Way) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(way.target), Type::STREAM.nonblocking(), None)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&way.target.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
            _ => Ok(Self::new(Link::new(socket.into(), way.tls.as_ref())?)),
        }
    }

    /// One that waits for its reads: for what comes before a run.
    pub(crate) fn blocking(link: Link, pending: VecDeque<Pending>) -> Self {
        Self { in_flight: pending.len(), pending, ..Self::new(link) }
    }

    fn new(link: Link) -> Self {
        Self {
            link,
            out: Vec::new(),
            sent: 0,
            pending: VecDeque::new(),
            reader: Reader::default(),
            received: 0,
            in_flight: 0,
            blocked: false,
            due: 0,
            next: 0,
        }
    }

    /// Sends what there is. `true` when that waits for room in the socket.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        while self.sent < self.out.len() {
            match self.link.write(&self.out[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(!self.link.shakes_hands()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        match self.link.flush() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
            flushed => flushed.map(|()| false),
        }
    }

    /// Reads once and checks what came; `done` gets each whole reply.
    pub(crate) fn receive(
        &mut self,
        known: Known<'_>,
        scratch: &mut [u8],
        mut done: impl FnMut(Pending),
    ) -> Result<(), Failure> {
        let read = match self.link.read(scratch) {
            Ok(0) => return Err(Failure::void("the target has closed a connection")),
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
                return Err(unasked(input));
            };
            let expect = match pending.op {
                Op::Login => known.login.expect().ok_or_else(|| unasked(input))?,
                op => known.wire.expect(op, pending.key),
            };
            let (taken, whole) =
                self.reader.step(&expect, input).map_err(|wrong| mismatch(pending, &wrong))?;
            input = &input[taken..];
            if whole {
                self.pending.pop_front();
                self.in_flight -= usize::from(pending.op != Op::GetMore);
                done(pending);
            }
        }
        Ok(())
    }
}

fn unasked(input: &[u8]) -> Failure {
    Failure::void(format!("a reply that nobody asked for: {}", input[..input.len().min(80)].escape_ascii()))
}

fn mismatch(pending: Pending, Mismatch { wanted, got }: &Mismatch) -> Failure {
    Failure::void(format!("a wrong reply to {:?} of key {}: {got}, not {wanted}", pending.op, pending.key))
}
