//! A session's state between turns: a request that is only partly dispatched, and the lane in use.

use std::borrow::Cow;
use std::rc::Rc;

use super::relogin::Relogin;
use crate::lane::Lane;
use crate::protocol::Then;
use crate::protocol::request::{CommandKind, Fault, KeyForm, ReplyFormat, Request};
use crate::protocol::text::classic::Keys;

/// Gets that go to a dedicated lane after a large value.
const DEDICATED_GETS: u8 = 8;

/// What a session keeps between turns.
#[derive(Default)]
pub(crate) struct State {
    pub(super) lane: Option<Rc<Lane>>,
    /// The keys of a `get` line that haven't been forwarded.
    pub(super) keys: Option<OwnedKeys>,
    pub(super) swallow: Option<Swallow>,
    /// The result for the login at the front of the input, once verified.
    pub(super) relogin: Option<Relogin>,
    /// Whether to parse the front of the input as the newest memcached would: the version can't be detected.
    pub(super) reads_as_newest: bool,
    /// Whether the next request must wait until the session's gets have been answered.
    pub(super) waits_for_reads: bool,
    /// The operations sent to memcached when the last whole turn ended.
    pub(super) operations: u64,
    /// Whether the last pause has paid for the next frame.
    pub(super) prepaid: bool,
    /// Small replies until the session's gets use the shared lane again.
    dedicated_gets: u8,
}

impl State {
    /// Whether gets go to a dedicated lane at once, since recent values were large.
    pub(super) fn prefers_dedicated(&self) -> bool {
        self.dedicated_gets > 0
    }

    /// A large value was sent.
    pub(super) fn note_large(&mut self) {
        self.dedicated_gets = DEDICATED_GETS;
    }

    /// A small reply was sent.
    pub(super) fn note_small(&mut self) {
        self.dedicated_gets = self.dedicated_gets.saturating_sub(1);
    }
}

/// The keys of a `get` line that are still to be forwarded.
pub(super) struct OwnedKeys {
    line: Vec<u8>,
    pub(super) at: usize,
    with_cas: bool,
    exptime: Option<i32>,
}

/// A data block that is being dropped.
pub(super) struct Swallow {
    /// Bytes still to be dropped.
    pub(super) bytes: u64,
    pub(super) then: OwnedThen,
}

/// What to do once the data block is dropped.
pub(super) enum OwnedThen {
    LocalReply(Cow<'static, [u8]>),
    /// Only while nothing is in flight.
    Fail {
        format: ReplyFormat,
        kind: CommandKind,
        context: Vec<u8>,
        fault: Fault,
    },
    Invalidate {
        key: Vec<u8>,
        form: KeyForm,
        format: ReplyFormat,
    },
}

impl OwnedKeys {
    /// The memory of the line, in bytes.
    pub(super) fn len(&self) -> usize {
        self.line.len()
    }

    /// The next key as a request, and the offset of the key behind it, if any.
    pub(super) fn next(&self) -> Option<(Request<'_>, Option<usize>)> {
        let line = self.line.get(self.at..)?;
        let (request, rest) = Keys { line, with_cas: self.with_cas, exptime: self.exptime }.next()?;
        Some((request, (!rest.is_empty()).then(|| self.line.len() - rest.len())))
    }
}

impl From<Keys<'_>> for OwnedKeys {
    fn from(Keys { line, with_cas, exptime }: Keys<'_>) -> Self {
        Self { line: line.to_vec(), at: 0, with_cas, exptime }
    }
}

impl From<Then<'_>> for OwnedThen {
    fn from(then: Then<'_>) -> Self {
        match then {
            Then::LocalReply(bytes) => Self::LocalReply(bytes),
            Then::Request(Request { key, format, .. }) => {
                Self::Invalidate { key: key.bytes.to_vec(), form: key.form, format }
            }
        }
    }
}
