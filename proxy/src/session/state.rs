//! What a client keeps of a request that takes more than one turn.

use std::borrow::Cow;
use std::rc::Rc;

use crate::lane::Lane;
use crate::protocol::Then;
use crate::protocol::request::{Answer, Fault, KeyForm, Kind, Request};
use crate::protocol::text::classic::Keys;

/// See [`State::is_bulky`].
const BULKY_FOR: u8 = 8;

/// What a request spread over several turns has left behind.
#[derive(Default)]
pub(crate) struct State {
    pub(super) lane: Option<Rc<Lane>>,
    /// The keys of a `get` line that haven't been asked for.
    pub(super) keys: Option<OwnedKeys>,
    pub(super) swallow: Option<Swallow>,
    /// Whether the login at the front of the input has turned out to be one sent again.
    pub(super) resent: Option<bool>,
    /// The front of the input is to be read as the newest memcached would: the one behind is away.
    pub(super) reads_as_newest: bool,
    /// The front of the input changes something: not before the client's gets have been answered.
    pub(super) waits_for_reads: bool,
    /// How many more small answers it takes until the client shares its lane again.
    bulky: u8,
}

impl State {
    /// Whether the client has asked for long values lately: then it asks for the next on a lane of its own
    /// at once.
    pub(super) fn is_bulky(&self) -> bool {
        self.bulky > 0
    }

    pub(super) fn saw_long(&mut self) {
        self.bulky = BULKY_FOR;
    }

    pub(super) fn saw_small(&mut self) {
        self.bulky = self.bulky.saturating_sub(1);
    }
}

pub(super) struct OwnedKeys {
    line: Vec<u8>,
    pub(super) at: usize,
    with_cas: bool,
    exptime: Option<i32>,
}

pub(super) struct Swallow {
    pub(super) bytes: u64,
    pub(super) then: OwnedThen,
}

pub(super) enum OwnedThen {
    Answer(Cow<'static, [u8]>),
    /// Only when nothing is in flight.
    Fail {
        answer: Answer,
        kind: Kind,
        note: Vec<u8>,
        fault: Fault,
    },
    Invalidate {
        key: Vec<u8>,
        form: KeyForm,
        answer: Answer,
    },
}

impl OwnedKeys {
    /// The next key as a request, and where the one behind it begins, if there is one.
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
            Then::Answer(words) => Self::Answer(words),
            Then::Request(Request { key, answer, .. }) => {
                Self::Invalidate { key: key.bytes.to_vec(), form: key.form, answer }
            }
        }
    }
}
