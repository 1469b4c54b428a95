//! Checks replies as they arrive, in chunks of any size, without storing them. Pure.

/// An expected reply: known bytes, unpredictable bytes (`unknown`), known bytes, the rest of a value, known bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExpectedReply<'a> {
    pub(crate) first: &'a [u8],
    pub(crate) unknown: usize,
    pub(crate) second: &'a [u8],
    pub(crate) rest: usize,
    pub(crate) last: &'a [u8],
}

/// Checks one reply after another.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct ReplyChecker {
    /// Bytes of the current reply that were checked.
    checked: usize,
}

/// A reply differs from the expected one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) expected: String,
    pub(crate) actual: String,
}

impl<'a> ExpectedReply<'a> {
    pub(crate) const fn line(line: &'a [u8]) -> Self {
        Self { first: line, unknown: 0, second: b"", rest: 0, last: b"" }
    }

    fn len(&self) -> usize {
        self.first.len() + self.unknown + self.second.len() + self.rest + self.last.len()
    }

    /// The known bytes, each part with its offset.
    fn known(&self) -> [(usize, &'a [u8]); 3] {
        let second = self.first.len() + self.unknown;
        let last = second + self.second.len() + self.rest;
        [(0, self.first), (second, self.second), (last, self.last)]
    }
}

impl ReplyChecker {
    /// Checks the next bytes of a reply. Returns how many bytes of `input` belong to it, and whether it is complete.
    #[inline]
    pub(crate) fn step(
        &mut self,
        expect: &ExpectedReply<'_>,
        input: &[u8],
    ) -> Result<(usize, bool), Mismatch> {
        let (begin, len) = (self.checked, expect.len());
        let taken = input.len().min(len - begin);
        let end = begin + taken;
        for (at, known) in expect.known() {
            let (from, to) = (begin.max(at), end.min(at + known.len()));
            if from < to && input[from - begin..to - begin] != known[from - at..to - at] {
                return Err(Mismatch::new(known, &input[from - begin..]));
            }
        }
        self.checked = if end == len { 0 } else { end };
        Ok((taken, end == len))
    }
}

impl Mismatch {
    fn new(expected: &[u8], actual: &[u8]) -> Self {
        let shown = |bytes: &[u8]| bytes[..bytes.len().min(80)].escape_ascii().to_string();
        Self { expected: shown(expected), actual: shown(actual) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY: &[u8] = b"HEAD????keyvalue\r\n";
    const EXPECT: ExpectedReply<'static> =
        ExpectedReply { first: b"HEAD", unknown: 4, second: b"key", rest: 5, last: b"\r\n" };

    fn read(reply: &[u8], chunk: usize) -> Result<bool, Mismatch> {
        let mut checker = ReplyChecker::default();
        let mut whole = false;
        for piece in reply.chunks(chunk) {
            let (taken, done) = checker.step(&EXPECT, piece)?;
            assert_eq!(taken, piece.len());
            whole = done;
        }
        Ok(whole)
    }

    #[test]
    fn a_reply_may_be_split_anywhere() {
        for chunk in 1..=REPLY.len() {
            assert_eq!(read(REPLY, chunk), Ok(true), "{chunk}");
            assert_eq!(read(&REPLY[..REPLY.len() - 1], chunk), Ok(false), "{chunk}");
        }
    }

    #[test]
    fn a_wrong_byte_is_noticed() {
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
    fn the_next_reply_is_not_consumed() {
        let two = [REPLY, b"HEAD"].concat();
        assert_eq!(ReplyChecker::default().step(&EXPECT, &two), Ok((REPLY.len(), true)));
    }
}
