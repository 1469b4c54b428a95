//! A long value on its way to memcached: passed on as it comes. Nothing is stored unless its end has been
//! seen: until then, closing the lane makes memcached forget it.

use std::io;
use std::ops::ControlFlow;

use super::{DedicatedError, failed};
use crate::lane::dedicated::{BUFFER, Own, Said};
use crate::lane::encode;
use crate::protocol;
use crate::protocol::request::{Answer, Fault, ItemMeta, Kind, Outcome, Request};
use crate::session::state::{OwnedThen, Swallow};
use crate::session::{Client, WorkerContext};
use crate::tenant::PermissionVersion;

const LINE_END: &[u8] = b"\r\n";

/// A store whose value follows.
pub(crate) struct StreamedSet {
    /// What memcached is told first.
    line: Vec<u8>,
    tag: u64,
    kind: Kind,
    answer: Answer,
    note: Vec<u8>,
    /// How much of the value hasn't come yet.
    left: usize,
    /// What is said, at the end of the connection, when the value doesn't end as it should; `None` when
    /// nothing stands behind it.
    complaint: Option<&'static [u8]>,
}

impl StreamedSet {
    pub(crate) fn new(request: &Request<'_>, len: usize, complaint: Option<&'static [u8]>, tag: u64) -> Self {
        let (mut line, mut note) = (Vec::new(), Vec::new());
        encode::line(request, len, tag, &mut line);
        protocol::note(request, &mut note);
        let (kind, answer) = (request.command.kind(), request.answer);
        Self { line, tag, kind, answer, note, left: len, complaint }
    }

    /// How many bytes are still to come.
    fn to_come(&self) -> usize {
        self.left + self.complaint.map_or(0, |_| LINE_END.len())
    }
}

/// How a value has ended.
enum Ending {
    Good,
    /// Not in a line end.
    Bad(&'static [u8]),
}

impl Client {
    /// Passes the value on and the answer back.
    pub(super) async fn stream(
        &mut self,
        mut store: StreamedSet,
        begun: PermissionVersion,
        context: &WorkerContext<'_>,
    ) -> io::Result<ControlFlow<()>> {
        let responses = self.responses.clone();
        let streamed = tokio::select! {
            biased;
            () = responses.until_broken() => return Err(io::ErrorKind::BrokenPipe.into()),
            streamed = self.stream_on_own_lane(&mut store, begun, context) => streamed,
        };
        let outcome = match streamed {
            Ok(Ending::Good) => Outcome::Done(ItemMeta::default()),
            Ok(Ending::Bad(complaint)) => {
                responses.say(complaint);
                return Ok(ControlFlow::Break(()));
            }
            Err(DedicatedError::Client(error)) => return Err(error),
            Err(DedicatedError::Lane(fault)) => {
                let StreamedSet { answer, kind, .. } = store;
                let bytes = u64::try_from(store.to_come()).unwrap_or(u64::MAX);
                if bytes == 0 {
                    responses.speak(answer, kind, &store.note, &failed(fault));
                } else {
                    let then = OwnedThen::Fail { answer, kind, note: store.note, fault };
                    self.state.swallow = Some(Swallow { bytes, then });
                }
                Outcome::Failed(fault)
            }
        };
        self.tenant.usage.answered(store.kind, &outcome, responses.asked(), self.tenant.usage.now());
        Ok(ControlFlow::Continue(()))
    }

    async fn stream_on_own_lane(
        &mut self,
        store: &mut StreamedSet,
        begun: PermissionVersion,
        context: &WorkerContext<'_>,
    ) -> Result<Ending, DedicatedError> {
        let tenant = self.tenant.clone();
        let mut lane = self.own_lane(&tenant, begun).await?;
        let cancel = lane.cancel.clone();
        let ending = tokio::select! {
            ending = self.pass_on(&mut lane.own, store, begun, context) => ending?,
            () = cancel.given() => return Err(DedicatedError::Lane(Fault::Unavailable)),
        };
        if matches!(ending, Ending::Good) {
            lane.give_back();
        }
        Ok(ending)
    }

    async fn pass_on(
        &mut self,
        own: &mut Own,
        store: &mut StreamedSet,
        begun: PermissionVersion,
        context: &WorkerContext<'_>,
    ) -> Result<Ending, DedicatedError> {
        own.write(&store.line).await?;
        while store.left > 0 {
            if self.input.is_empty() {
                self.pass_piece(own, store, context).await?;
                continue;
            }
            let have = self.input.len().min(store.left);
            own.write(self.input.get(..have).unwrap_or_default()).await?;
            self.input.drain(..have);
            store.left -= have;
        }
        self.input.shrink_to_fit();
        if let Some(complaint) = store.complaint {
            while self.input.len() < LINE_END.len() {
                self.read_some(context).await?;
            }
            if !self.input.starts_with(LINE_END) {
                return Ok(Ending::Bad(complaint));
            }
            self.input.drain(..LINE_END.len());
            store.complaint = None;
        }
        self.still_allowed(begun)?;
        own.write(LINE_END).await?;
        match own.hear(store.kind, store.tag, context.scratch).await? {
            Said::Whole { len } => {
                if let Some(answered) = own.answer() {
                    self.responses.speak(store.answer, store.kind, &store.note, &answered.reply);
                }
                own.skip(len);
                Ok(Ending::Good)
            }
            Said::Value { .. } => Err(DedicatedError::Lane(Fault::Unavailable)),
        }
    }

    /// Reads a piece of the value and passes it on at once; what memcached doesn't take is waited for.
    async fn pass_piece(
        &self,
        own: &Own,
        store: &mut StreamedSet,
        context: &WorkerContext<'_>,
    ) -> Result<(), DedicatedError> {
        self.patiently(|| self.responses.stream().readable()).await?;
        let rest = {
            let mut scratch = context.scratch.borrow_mut();
            let room = scratch.get_mut(..store.left.min(BUFFER)).unwrap_or_default();
            let read = match self.responses.stream().read(room) {
                Ok(0) => return Err(DedicatedError::Client(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(DedicatedError::Client(error)),
            };
            self.responses.has_read(read);
            store.left -= read;
            let piece = room.get(..read).unwrap_or_default();
            let written = own.try_write(piece)?;
            piece.get(written..).unwrap_or_default().to_vec()
        };
        own.write(&rest).await?;
        Ok(())
    }

    /// Reads what there is to the input, a little.
    async fn read_some(&mut self, context: &WorkerContext<'_>) -> Result<(), DedicatedError> {
        self.patiently(|| self.responses.stream().readable()).await?;
        let mut scratch = context.scratch.borrow_mut();
        let room = scratch.get_mut(..LINE_END.len()).unwrap_or_default();
        match self.responses.stream().read(room) {
            Ok(0) => Err(DedicatedError::Client(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => {
                self.input.extend_from_slice(room.get(..read).unwrap_or_default());
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(DedicatedError::Client(error)),
        }
    }
}
