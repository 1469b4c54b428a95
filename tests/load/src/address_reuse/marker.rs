//! Marks of owners in keys and values, and the search for others' marks in all that a client receives. Pure.

/// What each mark begins with; the owner's number follows, in as many digits.
const PREFIX: &[u8] = b"owner-";
const DIGITS: usize = 4;
const MARK_LEN: usize = PREFIX.len() + DIGITS;

/// The mark of an owner: each of its keys, and so each of its values, begins with it.
pub(super) fn mark(owner: usize) -> String {
    format!("owner-{owner:0DIGITS$}")
}

/// Looks for marks of others in bytes that come in pieces.
pub(super) struct Scanner {
    own: String,
    /// The last bytes before the next piece: fewer than a mark has.
    tail: Vec<u8>,
}

impl Scanner {
    pub(super) fn new(owner: usize) -> Self {
        Self { own: mark(owner), tail: Vec::new() }
    }

    /// How many bytes of others' marks end in the next piece.
    pub(super) fn scan(&mut self, piece: &[u8]) -> u64 {
        let mut bytes = std::mem::take(&mut self.tail);
        bytes.extend_from_slice(piece);
        let (mut from, mut foreign) = (0, 0);
        while let Some(at) = bytes[from..].iter().position(|byte| *byte == PREFIX[0]) {
            let begin = from + at;
            if let Some(found) = bytes.get(begin..begin + MARK_LEN) {
                let is_mark =
                    found.starts_with(PREFIX) && found[PREFIX.len()..].iter().all(u8::is_ascii_digit);
                foreign += u64::from(is_mark && found != self.own.as_bytes());
            }
            from = begin + 1;
        }
        self.tail = bytes.split_off(bytes.len().saturating_sub(MARK_LEN - 1));
        foreign * MARK_LEN as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(owner: usize, text: &str, piece: usize) -> u64 {
        let mut scanner = Scanner::new(owner);
        text.as_bytes().chunks(piece).map(|piece| scanner.scan(piece)).sum()
    }

    #[test]
    fn marks_of_others_are_found_however_bytes_are_split() {
        let own = format!("VALUE {} 0 3\r\nfoo owner- owner-12\r\nEND\r\n", mark(7));
        let foreign = format!("{own}{}{}owner-0007", mark(8), mark(9999));
        for piece in 1..=foreign.len() {
            assert_eq!((scan(7, &own, piece), scan(7, &foreign, piece)), (0, 20), "{piece}");
        }
        assert_eq!(scan(8, &own, 5), 10, "to another one it is foreign");
    }
}
