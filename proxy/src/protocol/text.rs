//! The text protocol's requests (memcached's protocol.txt). What memcached 1.6.45 refuses is refused here with
//! the same text and never forwarded (B-2).

pub(crate) mod classic;
pub(crate) mod reply;

use std::borrow::Cow;

use memchr::memchr;

use super::line::Line;
use super::request::Limits;
use super::{Parsed, ParsedFrame};

/// The longest line of `get`, `gets`, `gat` and `gats`, in bytes (D-5).
const KEYS_LINE_MAX: usize = 1024 * 1024;
/// The longest line of all other commands, in bytes (D-5).
const LINE_MAX: usize = 2048;
const TOO_LONG: &[u8] = b"CLIENT_ERROR line too long\r\n";

/// Parses the first request of `input`; `None` if it is incomplete.
pub(crate) fn parse(input: &[u8], limits: Limits) -> Option<ParsedFrame<'_>> {
    let Some(end) = memchr(b'\n', input) else {
        // The line end may be half received.
        let line = input.strip_suffix(b"\r").unwrap_or(input);
        return is_too_long(line).then(|| too_long(input));
    };
    let (line, rest) = input.split_at_checked(end)?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if is_too_long(line) {
        return Some(too_long(input));
    }
    let len = end + 1;
    let data = rest.get(1..)?;
    let line = Line { len, data, limits };
    line.parse(input.get(..len)?)
}

/// Whether `input` is the start of a `get` line that `fresh` neither ends nor makes too long.
pub(super) fn is_incomplete_line(input: &[u8], fresh: &[u8]) -> bool {
    // All other lines end within this limit.
    let Some(first) = input.get(..=LINE_MAX) else { return false };
    let fits = input.len().saturating_add(fresh.len()) <= KEYS_LINE_MAX;
    fits && memchr(b'\n', first).is_none() && memchr(b'\n', fresh).is_none()
}

/// The limit of a line depends on its verb, and not on how TCP splits the line (D-5).
fn is_too_long(line: &[u8]) -> bool {
    let lists_keys = || [&b"get "[..], b"gets ", b"gat ", b"gats "].iter().any(|verb| line.starts_with(verb));
    line.len() > LINE_MAX && (line.len() > KEYS_LINE_MAX || !lists_keys())
}

fn too_long(input: &[u8]) -> ParsedFrame<'_> {
    ParsedFrame { consumed: input.len(), parsed: Parsed::Close(Cow::Borrowed(TOO_LONG)) }
}

#[cfg(test)]
mod tests;
