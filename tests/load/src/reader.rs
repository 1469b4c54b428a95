//! Checks replies as they arrive, in any pieces, without keeping them. Pure.

/// What a reply must be: known bytes, bytes that nobody can know, known bytes, a value's rest, known bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expect<'a> {
    pub(crate) first: &'a [u8],
    pub(crate) unknown: usize,
    pub(crate) second: &'a [u8],
    pub(crate) rest: usize,
    pub(crate) last: &'a [u8],
}

/// How much of a reply has been seen.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Reader {
    seen: usize,
}

/// The reply isn't what it must be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) wanted: String,
    pub(crate) got: String,
}

impl<'a> Expect<'a> {
    pub(crate) const fn line(line: &'a [u8]) -> Self {
        Self { first: line, unknown: 0, second: b"", rest: 0, last: b"" }
    }

    fn len(&self) -> usize {
        self.first.len() + self.unknown + self.second.len() + self.rest + self.last.len()
    }

    /// Each stretch of known bytes, with where it begins.
    fn known(&self) -> [(usize, &'a [u8]); 3] {
        let second = self.first.len() + self.unknown;
        let last = second + self.second.len() + self.rest;
        [(0, self.first), (second, self.second), (last, self.last)]
    }
}

impl Reader {
    /// Checks what `input` holds of the reply; returns how many bytes that is, and whether it is whole now.
    #[inline]
    pub(crate) fn step(&mut self, expect: &Expect<'_>, input: &[u8]) -> Result<(usize, bool), Mismatch> {
        let (begin, len) = (self.seen, expect.len());
        let taken = input.len().min(len - begin);
        let end = begin + taken;
        for (at, known) in expect.known() {
            let (from, to) = (begin.max(at), end.min(at + known.len()));
            if from < to && input[from - begin..to - begin] != known[from - at..to - at] {
                return Err(Mismatch::new(known, &input[from - begin..]));
            }
        }
        self.seen = if end == len { 0 } else { end };
        Ok((taken, end == len))
    }
}

impl Mismatch {
    fn new(wanted: &[u8], got: &[u8]) -> Self {
        let shown = |bytes: &[u8]| bytes[..bytes.len().min(80)].escape_ascii().to_string();
        Self { wanted: shown(wanted), got: shown(got) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY: &[u8] = b"HEAD????keyvalue\r\n";
    const EXPECT: Expect<'static> =
        Expect { first: b"HEAD", unknown: 4, second: b"key", rest: 5, last: b"\r\n" };

    fn read(reply: &[u8], chunk: usize) -> Result<bool, Mismatch> {
        let mut reader = Reader::default();
        let mut whole = false;
        for piece in reply.chunks(chunk) {
            let (taken, done) = reader.step(&EXPECT, piece)?;
            assert_eq!(taken, piece.len());
            whole = done;
        }
        Ok(whole)
    }

    #[test]
    fn however_it_is_split() {
        for chunk in 1..=REPLY.len() {
            assert_eq!(read(REPLY, chunk), Ok(true), "{chunk}");
            assert_eq!(read(&REPLY[..REPLY.len() - 1], chunk), Ok(false), "{chunk}");
        }
    }

    #[test]
    fn every_known_byte_counts() {
        for at in 0..REPLY.len() {
            let mut wrong = REPLY.to_vec();
            wrong[at] = b'!';
            let known = !(4..8).contains(&at) && !(11..16).contains(&at);
            for chunk in [1, 3, REPLY.len()] {
                assert_eq!(read(&wrong, chunk).is_err(), known, "byte {at}");
            }
        }
    }

    #[test]
    fn the_next_reply_is_left_alone() {
        let two = [REPLY, b"HEAD"].concat();
        assert_eq!(Reader::default().step(&EXPECT, &two), Ok((REPLY.len(), true)));
    }
}
