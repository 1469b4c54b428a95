//! What a client keeps of a request that takes more than one turn.

use std::borrow::Cow;
use std::rc::Rc;

use crate::dialect::Then;
use crate::dialect::text::Keys;
use crate::lane::Lane;
use crate::request::{Answer, Request};

/// What a request spread over several turns has left behind.
#[derive(Default)]
pub(crate) struct State {
    pub(super) lane: Option<Rc<Lane>>,
    /// The keys of a `get` line that haven't been asked for.
    pub(super) keys: Option<OwnedKeys>,
    pub(super) swallow: Option<Swallow>,
    /// Whether the login at the front of the input has turned out to be one sent again.
    pub(super) resent: Option<bool>,
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
    Forget { key: Vec<u8>, answer: Answer },
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
            Then::Request(request) => Self::Forget { key: request.key.to_vec(), answer: request.answer },
        }
    }
}
