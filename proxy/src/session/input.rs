//! A session's input: reads it, and counts what is kept of it.

use std::io;

use super::state::OwnedKeys;
use super::{Session, Step, WorkerContext};
use crate::protocol::Protocol;

/// The capacity of the input buffer, in bytes, that is kept although little of it is used.
const INPUT_KEPT_MAX: usize = 64 * 1024;
/// Bytes of one read while the tenant's buffers are tight: as many as any line without a value has, and not many more.
const TIGHT_READ_MAX: usize = 4 * 1024;

impl Session {
    /// Reads into the shared buffer and dispatches from there: a request that arrives whole is not copied.
    pub(super) fn read(&mut self, worker: &WorkerContext<'_>) -> io::Result<Step> {
        let mut scratch = worker.scratch.borrow_mut();
        let kept_before = self.responses.stream().kept_by_tls();
        let room = if self.tenant.buffers.is_tight() { TIGHT_READ_MAX } else { scratch.len() };
        let read = match self.responses.stream().read(scratch.get_mut(..room).unwrap_or_default()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if self.responses.stream().kept_by_tls().max(kept_before) > 0 {
                    // A part of a record, or the rest of a message of TLS itself.
                    self.responses.record_read(0);
                    self.hold_input(&Step::Input, false);
                }
                return Err(error);
            }
            read => read?,
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.responses.record_read(read);
        self.tenant.turns.charge(read);
        let fresh = scratch.get(..read).unwrap_or_default();
        if self.protocol.is_none() {
            self.protocol = fresh.first().copied().map(Protocol::detect);
            if let Some(protocol) = self.protocol {
                self.tenant.set_protocol(&self.handle, protocol);
            }
        }
        if self.input.is_empty() {
            let (consumed, step) = self.dispatch(fresh);
            if let Some(rest) = fresh.get(consumed..).filter(|rest| !rest.is_empty()) {
                self.input = self.responses.buffers().take_for(rest.len());
                self.input.extend_from_slice(rest);
            }
            self.hold_input(&step, consumed > 0);
            return Ok(step);
        }
        let is_incomplete =
            self.protocol.is_some_and(|protocol| protocol.is_incomplete_line(&self.input, fresh));
        self.input.extend_from_slice(fresh);
        drop(scratch);
        if is_incomplete {
            self.hold_input(&Step::Input, false);
            return Ok(Step::Input);
        }
        Ok(self.resume())
    }

    /// Counts what the session keeps until its next turn, which is younger if some input `was_dispatched`.
    #[inline]
    fn hold_input(&self, step: &Step, was_dispatched: bool) {
        let keys = self.state.keys.as_ref().map_or(0, OwnedKeys::len);
        // The rest of a data block that is dropped is awaited too, although nothing of it is kept.
        let dropped = usize::from(self.state.swallow.is_some());
        let bytes = self.input.capacity() + keys + dropped + self.responses.stream().kept_by_tls();
        self.responses.hold_input(bytes, matches!(step, Step::Input));
        if bytes > 0 && was_dispatched {
            self.responses.advance_input();
        }
    }

    /// Continues with input that was read before.
    pub(super) fn resume(&mut self) -> Step {
        if self.responses.is_broken() || self.responses.ending().is_some() {
            // The loop ends the session: nothing more is done for it.
            return Step::Input;
        }
        let mut input = std::mem::take(&mut self.input);
        let (consumed, step) = self.dispatch(&input);
        if consumed < input.len() {
            input.drain(..consumed);
            if input.capacity() > 4 * INPUT_KEPT_MAX && input.len() < INPUT_KEPT_MAX {
                input.shrink_to_fit();
            }
            self.input = input;
        } else {
            self.responses.buffers().give(input);
        }
        self.hold_input(&step, consumed > 0);
        step
    }
}
