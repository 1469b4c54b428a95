//! Counts the bytes that a client has sent over TLS and that aren't plaintext yet: rustls keeps them.

use std::cell::Cell;

use super::client_verifier::CHAIN_MAX;

/// The most bytes of one kind: a whole handshake with its certificates; afterwards a record of the greatest length, and
/// messages of TLS itself.
const HANDSHAKE_MAX: usize = CHAIN_MAX + 8 * 1024;
const PENDING_MAX: usize = 18 * 1024;
/// What messages of TLS itself, such as an update of keys, may have in bytes without counting: rustls keeps nothing of those that
/// are complete, and accepts few of them.
const CONTROL_MAX: usize = 1024;
/// The header of a record: type, version, length.
const HEADER_LEN: usize = 5;

#[derive(Debug, Default)]
pub(super) struct ReceivedBytes {
    /// Received and not decrypted to plaintext.
    pending: Cell<usize>,
    /// Plaintext that hasn't been read.
    plaintext: Cell<usize>,
    record: Cell<Record>,
}

/// The record that is being received.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    header: [u8; HEADER_LEN],
    /// Bytes of it that have arrived, header included.
    have: usize,
}

impl Record {
    /// The record's length, header included, once that has arrived.
    fn len(&self) -> Option<usize> {
        let [_, _, _, high, low] = self.header;
        (self.have >= HEADER_LEN).then(|| HEADER_LEN + usize::from(u16::from_be_bytes([high, low])))
    }
}

impl ReceivedBytes {
    /// `bytes` have arrived.
    pub(super) fn add(&self, bytes: &[u8]) {
        self.pending.set(self.pending.get().saturating_add(bytes.len()));
        let mut record = self.record.get();
        let mut rest = bytes;
        while let Some((first, others)) = rest.split_first() {
            match record.len() {
                None => {
                    if let Some(place) = record.header.get_mut(record.have) {
                        *place = *first;
                    }
                    record.have += 1;
                    rest = others;
                }
                Some(len) => {
                    let of_record = len.saturating_sub(record.have).min(rest.len());
                    record.have += of_record;
                    rest = rest.get(of_record..).unwrap_or_default();
                }
            }
            if record.len().is_some_and(|len| record.have >= len) {
                record = Record::default();
            }
        }
        self.record.set(record);
    }

    /// Whole records have been decrypted, and there are `unread` bytes of plaintext.
    pub(super) fn set_plaintext(&self, unread: usize) {
        self.plaintext.set(unread);
    }

    /// `bytes` bytes of plaintext were read: nothing is pending but the record that is being received.
    pub(super) fn read(&self, bytes: usize) {
        self.plaintext.set(self.plaintext.get().saturating_sub(bytes));
        self.pending.set(self.record.get().have);
    }

    /// The handshake is complete.
    pub(super) fn end_handshake(&self) {
        self.pending.set(self.record.get().have);
    }

    /// Whether so much has arrived without an end that the peer must be hostile.
    pub(super) fn is_too_much(&self, is_handshaking: bool) -> bool {
        self.pending.get() > if is_handshaking { HANDSHAKE_MAX } else { PENDING_MAX }
    }

    /// What rustls keeps, in bytes: of a record that hasn't arrived whole, and of whole ones their plaintext, or a message of
    /// TLS that is longer than any complete one.
    pub(super) fn kept(&self) -> usize {
        let partial = self.record.get().have;
        let whole = Some(self.pending.get().saturating_sub(partial)).filter(|whole| *whole > CONTROL_MAX);
        partial + self.plaintext.get().max(whole.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(len: u16) -> Vec<u8> {
        let mut record = vec![23, 3, 3];
        record.extend_from_slice(&len.to_be_bytes());
        record.resize(HEADER_LEN + usize::from(len), 0);
        record
    }

    //
    #[test]
    fn what_is_not_plaintext_yet_counts() {
        let bytes = [record(100), record(0), record(1000)].concat();
        for piece in [1, 3, 7, 104, 105, 1000, bytes.len()] {
            let received = ReceivedBytes::default();
            bytes.chunks(piece).for_each(|chunk| received.add(chunk));
            assert_eq!(received.kept(), bytes.len());
            received.set_plaintext(1100);
            assert_eq!(received.kept(), bytes.len());
            received.read(1100);
            assert_eq!(received.kept(), 0, "in pieces of {piece}");
            // The beginning of the next one stays.
            received.add(&bytes[..bytes.len() - 1]);
            received.set_plaintext(100);
            assert_eq!(received.kept(), HEADER_LEN + 999 + 100);
            received.read(60);
            assert_eq!(received.kept(), HEADER_LEN + 999 + 40);
        }
    }

    //
    #[test]
    fn update_of_keys_holds_nothing_once_it_has_arrived() {
        let received = ReceivedBytes::default();
        let update = record(22);
        received.add(&update[..20]);
        received.set_plaintext(0);
        assert_eq!(received.kept(), 20);
        received.add(&update[20..]);
        received.set_plaintext(0);
        assert_eq!(received.kept(), 0);
        // One that is never complete does.
        received.add(&record(2000));
        received.set_plaintext(0);
        assert_eq!(received.kept(), update.len() + HEADER_LEN + 2000);
    }

    //
    #[test]
    fn messages_that_never_become_plaintext_are_bounded() {
        let received = ReceivedBytes::default();
        received.add(&record(16 * 1024));
        assert!(!received.is_too_much(false), "the longest record");
        received.add(&record(4 * 1024));
        assert!(received.is_too_much(false) && received.is_too_much(true));
        received.end_handshake();
        assert!(!received.is_too_much(false));
    }
}
