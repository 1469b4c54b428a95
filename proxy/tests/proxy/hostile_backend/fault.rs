//! The faults that a backend injects. None of them is another value under the correct tag: a proxy can't
//! detect that, and it harms only the backend's own user.

use testkit::Rng;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    // A correct backend may do this, too: the lane must stay open.
    Delayed,
    Chunked,
    OutOfMemory,
    OutOfMemoryDuringRead,
    NonNumeric,
    // These must close the lane.
    Reordered,
    Duplicated,
    Dropped,
    Garbage,
    EndlessLine,
    WrongTag,
    MissingTag,
    WrongLength,
    HugeLength,
    WrongKind,
    TextProtocolValue,
    ExtraReply,
    ExtraUntagged,
    Truncated,
    Silence,
}

pub(crate) const FAULTS: [Fault; 20] = [
    Fault::Delayed,
    Fault::Garbage,
    Fault::WrongTag,
    Fault::Chunked,
    Fault::Reordered,
    Fault::Duplicated,
    Fault::OutOfMemory,
    Fault::OutOfMemoryDuringRead,
    Fault::WrongLength,
    Fault::Dropped,
    Fault::ExtraReply,
    Fault::Truncated,
    Fault::NonNumeric,
    Fault::ExtraUntagged,
    Fault::MissingTag,
    Fault::TextProtocolValue,
    Fault::WrongKind,
    Fault::EndlessLine,
    Fault::HugeLength,
    Fault::Silence,
];

const OUT_OF_MEMORY: &[u8] = b"SERVER_ERROR out of memory storing object\r\n";
const NON_NUMERIC: &[u8] = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";

/// What a fault needs to know of the request.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) tag: u64,
    pub(crate) store: bool,
    pub(crate) arithmetic: bool,
}

impl Fault {
    /// Whether the proxy must close the lane.
    pub(crate) fn is_fatal(self) -> bool {
        !matches!(
            self,
            Self::Delayed
                | Self::Chunked
                | Self::OutOfMemory
                | Self::OutOfMemoryDuringRead
                | Self::NonNumeric
        )
    }

    /// Whether it can replace the reply `correct`.
    pub(crate) fn applies_to(self, target: Target, correct: &[u8]) -> bool {
        match self {
            Self::OutOfMemory | Self::OutOfMemoryDuringRead | Self::ExtraUntagged => target.store,
            Self::NonNumeric => target.arithmetic,
            Self::WrongLength | Self::HugeLength => correct.starts_with(b"VA "),
            Self::WrongKind => correct.starts_with(b"VA ") || correct.starts_with(b"HD "),
            _ => true,
        }
    }

    /// Returns the bytes that replace `correct`. Delays and closing are up to the caller.
    pub(crate) fn reply(self, target: Target, correct: &[u8], rng: &mut Rng) -> Vec<u8> {
        let tag = format!(" O{}", target.tag);
        let line = correct.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let (head, data) = correct.split_at(line);
        let head = std::str::from_utf8(head).unwrap();
        match self {
            Self::Delayed | Self::Chunked => correct.to_vec(),
            Self::OutOfMemory => OUT_OF_MEMORY.to_vec(),
            Self::OutOfMemoryDuringRead => b"SERVER_ERROR Out of memory during read\r\n".to_vec(),
            Self::NonNumeric => NON_NUMERIC.to_vec(),
            Self::Reordered | Self::Dropped | Self::Silence => Vec::new(),
            Self::Duplicated => correct.repeat(2),
            Self::Garbage => {
                let garbage = (0..1 + rng.below(300)).map(|_| u8::try_from(rng.below(256)).unwrap());
                // Must not be the start of a valid reply by chance.
                [b"\x80"[..].to_vec(), garbage.collect(), b"\r\n".to_vec(), correct.to_vec()].concat()
            }
            Self::EndlessLine => b"HD ".repeat(2000),
            Self::WrongTag => {
                let other = [target.tag + 1, target.tag.wrapping_sub(1), target.tag + 1000][rng.below(3)];
                [head.replace(&tag, &format!(" O{other}")).as_bytes(), data].concat()
            }
            Self::MissingTag => [head.replace(&tag, "").as_bytes(), data].concat(),
            Self::WrongLength => {
                let len = data.len() - 2;
                let other = if len == 0 || rng.below(2) == 0 { len + 1 } else { len - 1 };
                [head.replacen(&len.to_string(), &other.to_string(), 1).as_bytes(), data].concat()
            }
            Self::HugeLength => format!("VA 2147483645{tag}\r\n").into_bytes(),
            Self::WrongKind if head.starts_with("VA ") => format!("HD{tag}\r\n").into_bytes(),
            Self::WrongKind => format!("VA 3{tag}\r\nabc\r\n").into_bytes(),
            Self::TextProtocolValue => b"VALUE s1 0 3\r\nabc\r\nEND\r\n".to_vec(),
            Self::ExtraReply => [correct, format!("HD O{}\r\n", target.tag + 1_000_000).as_bytes()].concat(),
            Self::ExtraUntagged => [OUT_OF_MEMORY, correct].concat(),
            Self::Truncated => correct[..rng.below(correct.len())].to_vec(),
        }
    }
}
