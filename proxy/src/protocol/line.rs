//! A line of the text protocols: its tokens, its data block, and the replies to a malformed one.

use std::borrow::Cow;

use memchr::memchr;

use super::request::Limits;
use super::{Parsed, ParsedFrame, Then};

const LINE_END: &[u8] = b"\r\n";
/// Tokens behind the verb that memcached splits at once; it reads further ones only as keys.
const ARGUMENTS_MAX: usize = 22;

pub(super) const ERROR: &[u8] = b"ERROR\r\n";
pub(super) const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format\r\n";
pub(super) const BAD_CHUNK: &[u8] = b"CLIENT_ERROR bad data chunk\r\n";

/// A complete line.
pub(super) struct Line<'a> {
    /// The line's length in bytes, its end included.
    pub(super) len: usize,
    /// The bytes received behind the line.
    pub(super) data: &'a [u8],
    pub(super) limits: Limits,
}

impl<'a> Line<'a> {
    /// A frame that consumes the line.
    pub(super) fn frame(&self, parsed: Parsed<'a>) -> ParsedFrame<'a> {
        ParsedFrame { consumed: self.len, parsed }
    }

    /// Replies with `text`; with nothing if `noreply`.
    pub(super) fn reply(&self, text: &'static [u8], noreply: bool) -> ParsedFrame<'a> {
        self.frame(Parsed::LocalReply(unless_noreply(text, noreply)))
    }

    /// Replies with `text`, then closes the connection.
    pub(super) fn close(&self, text: &'static [u8]) -> ParsedFrame<'a> {
        self.frame(Parsed::Close(Cow::Borrowed(text)))
    }

    /// Consumes nothing: the line is parsed again once memcached's version is known.
    pub(super) fn needs_version(&self) -> ParsedFrame<'a> {
        ParsedFrame { consumed: 0, parsed: Parsed::NeedsVersion }
    }

    /// Drops a data block of `len` bytes, then does `then`.
    pub(super) fn swallow_block(&self, len: usize, then: Then<'a>) -> ParsedFrame<'a> {
        let bytes = u64::try_from(len + LINE_END.len()).unwrap_or(u64::MAX);
        self.frame(Parsed::Swallow { bytes, then })
    }

    /// The data block of `len` bytes behind the line: `None` while it is incomplete, `Some(None)` if no line
    /// end follows it.
    pub(super) fn block(&self, len: usize) -> Option<Option<&'a [u8]>> {
        let (value, end) = self.data.get(..len + LINE_END.len())?.split_at_checked(len)?;
        Some((end == LINE_END).then_some(value))
    }

    /// A frame that consumes the line and its data block of `len` bytes.
    pub(super) fn frame_with_block(&self, len: usize, parsed: Parsed<'a>) -> ParsedFrame<'a> {
        ParsedFrame { consumed: self.len + len + LINE_END.len(), parsed }
    }
}

/// `text`, or nothing if `noreply`.
pub(super) fn unless_noreply(text: &'static [u8], noreply: bool) -> Cow<'static, [u8]> {
    Cow::Borrowed(if noreply { b"" } else { text })
}

/// Splits `line`, which begins with a token, behind that token; `None` if it is empty.
pub(super) fn split_token(line: &[u8]) -> Option<(&[u8], &[u8])> {
    match memchr(b' ', line) {
        Some(end) => line.split_at_checked(end),
        None if line.is_empty() => None,
        None => Some((line, b"")),
    }
}

/// `line` without leading spaces.
pub(super) fn trim_start(line: &[u8]) -> &[u8] {
    let spaces = line.iter().take_while(|byte| **byte == b' ').count();
    line.get(spaces..).unwrap_or_default()
}

/// The words of `line`, which spaces separate.
pub(crate) fn tokens(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b' ').filter(|token| !token.is_empty())
}

/// Whether the arguments end in `noreply`, within the tokens that memcached reads.
pub(super) fn ends_in_noreply(arguments: &[u8]) -> bool {
    tokens(arguments).take(ARGUMENTS_MAX).last() == Some(b"noreply")
}
