//! The text protocol's requests (memcached's protocol.txt), read strictly: what memcached 1.6.45 would
//! refuse is answered here with its words and never forwarded.

pub(crate) mod classic;
pub(crate) mod line;
pub(crate) mod reply;

use std::borrow::Cow;

use memchr::memchr;

use super::request::Limits;
use super::{Frame, Parsed};
use line::Line;

/// The longest line of `get`, `gets`, `gat` and `gats`.
const KEYS_LINE_MAX: usize = 1024 * 1024;
/// The longest of all others.
const LINE_MAX: usize = 2048;
const TOO_LONG: &[u8] = b"CLIENT_ERROR line too long\r\n";

/// Reads the first request of `input`.
pub(crate) fn parse(input: &[u8], limits: Limits) -> Option<Frame<'_>> {
    let Some(end) = memchr(b'\n', input) else {
        // The line's end may have come by half.
        let line = input.strip_suffix(b"\r").unwrap_or(input);
        return (line.len() > line_max(input)).then(|| too_long(input));
    };
    let (line, rest) = input.split_at_checked(end)?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > line_max(line) {
        return Some(too_long(input));
    }
    let head = end + 1;
    let data = rest.get(1..)?;
    let line = Line { head, data, limits };
    line.read(input.get(..head)?)
}

/// Whether `input` begins with a `get` line that `fresh` neither ends nor makes too long.
pub(super) fn goes_on(input: &[u8], fresh: &[u8]) -> bool {
    // All other lines end within these.
    let Some(first) = input.get(..=LINE_MAX) else { return false };
    let fits = input.len().saturating_add(fresh.len()) <= KEYS_LINE_MAX;
    fits && memchr(b'\n', first).is_none() && memchr(b'\n', fresh).is_none()
}

fn line_max(line: &[u8]) -> usize {
    let keys = [&b"get "[..], b"gets ", b"gat ", b"gats "].iter().any(|verb| line.starts_with(verb));
    if keys { KEYS_LINE_MAX } else { LINE_MAX }
}

fn too_long(input: &[u8]) -> Frame<'_> {
    Frame { consumed: input.len(), parsed: Parsed::Close(Cow::Borrowed(TOO_LONG)) }
}

#[cfg(test)]
mod tests;
