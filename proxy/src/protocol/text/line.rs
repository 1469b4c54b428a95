//! A line of the text protocol: its words, its data block, and what is said of a wrong one.

use std::borrow::Cow;

use memchr::memchr;

use crate::protocol::request::Limits;
use crate::protocol::{Frame, Parsed, Then};

const LINE_END: &[u8] = b"\r\n";
/// Of the words behind a verb memcached sees these; it reads on only for more keys.
const ARGUMENTS_MAX: usize = 22;

pub(super) const ERROR: &[u8] = b"ERROR\r\n";
pub(in crate::protocol) const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format\r\n";
pub(in crate::protocol) const BAD_CHUNK: &[u8] = b"CLIENT_ERROR bad data chunk\r\n";

/// A whole line: how long it is, and what has arrived behind it.
pub(in crate::protocol) struct Line<'a> {
    pub(super) head: usize,
    pub(super) data: &'a [u8],
    pub(in crate::protocol) limits: Limits,
}

impl<'a> Line<'a> {
    pub(in crate::protocol) fn frame(&self, parsed: Parsed<'a>) -> Frame<'a> {
        Frame { consumed: self.head, parsed }
    }

    pub(in crate::protocol) fn answer(&self, words: &'static [u8], noreply: bool) -> Frame<'a> {
        self.frame(Parsed::Answer(words_or_none(words, noreply)))
    }

    pub(in crate::protocol) fn close(&self, words: &'static [u8]) -> Frame<'a> {
        self.frame(Parsed::Close(Cow::Borrowed(words)))
    }

    /// To be read again when the version behind is known.
    pub(in crate::protocol) fn version_first(&self) -> Frame<'a> {
        Frame { consumed: 0, parsed: Parsed::NeedsVersion }
    }

    /// Drops a data block of `len` bytes.
    pub(in crate::protocol) fn swallow_block(&self, len: usize, then: Then<'a>) -> Frame<'a> {
        let bytes = u64::try_from(len + LINE_END.len()).unwrap_or(u64::MAX);
        self.frame(Parsed::Swallow { bytes, then })
    }

    /// The data block of `len` bytes behind the line: `None` while it isn't whole, `Some(None)` when it
    /// doesn't end as it should.
    pub(in crate::protocol) fn block(&self, len: usize) -> Option<Option<&'a [u8]>> {
        let (value, end) = self.data.get(..len + LINE_END.len())?.split_at_checked(len)?;
        Some((end == LINE_END).then_some(value))
    }

    /// What the line and its data block mean.
    pub(in crate::protocol) fn frame_with_block(&self, len: usize, parsed: Parsed<'a>) -> Frame<'a> {
        Frame { consumed: self.head + len + LINE_END.len(), parsed }
    }
}

pub(super) fn words_or_none(words: &'static [u8], noreply: bool) -> Cow<'static, [u8]> {
    Cow::Borrowed(if noreply { b"" } else { words })
}

/// The first token and all behind it; `None` on an empty line. No space in front.
pub(in crate::protocol) fn split_token(line: &[u8]) -> Option<(&[u8], &[u8])> {
    match memchr(b' ', line) {
        Some(end) => line.split_at_checked(end),
        None if line.is_empty() => None,
        None => Some((line, b"")),
    }
}

pub(in crate::protocol) fn trim_start(line: &[u8]) -> &[u8] {
    let spaces = line.iter().take_while(|byte| **byte == b' ').count();
    line.get(spaces..).unwrap_or_default()
}

pub(crate) fn tokens(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b' ').filter(|token| !token.is_empty())
}

/// Whether what is behind the verb says so where memcached still looks.
pub(super) fn ends_in_noreply(line: &[u8]) -> bool {
    tokens(line).take(ARGUMENTS_MAX).last() == Some(b"noreply")
}
