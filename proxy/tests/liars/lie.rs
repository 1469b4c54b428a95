//! The lies that a backend tells. None of them is another key's value under the tag that was asked
//! with: that a proxy can't see, and it harms only the liar's own user.

use crate::dice::Dice;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    // What an honest backend may do too: its lane must live on.
    Late,
    InPieces,
    OutOfMemory,
    NonNumeric,
    // What must end the lane.
    Swapped,
    Twice,
    Dropped,
    Garbage,
    EndlessLine,
    AnothersTag,
    NoTag,
    AnotherLength,
    TooLong,
    AnotherKind,
    ClassicValue,
    OneTooMany,
    UntaggedToo,
    Half,
    Silence,
}

pub(crate) const LIES: [Lie; 19] = [
    Lie::Late,
    Lie::Garbage,
    Lie::AnothersTag,
    Lie::InPieces,
    Lie::Swapped,
    Lie::Twice,
    Lie::OutOfMemory,
    Lie::AnotherLength,
    Lie::Dropped,
    Lie::OneTooMany,
    Lie::Half,
    Lie::NonNumeric,
    Lie::UntaggedToo,
    Lie::NoTag,
    Lie::ClassicValue,
    Lie::AnotherKind,
    Lie::EndlessLine,
    Lie::TooLong,
    Lie::Silence,
];

const OUT_OF_MEMORY: &[u8] = b"SERVER_ERROR out of memory storing object\r\n";
const NON_NUMERIC: &[u8] = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";

/// What was asked, as far as a lie depends on it.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) tag: u64,
    pub(crate) store: bool,
    pub(crate) arithmetic: bool,
}

impl Lie {
    /// Whether the lane must end of it.
    pub(crate) fn is_fatal(self) -> bool {
        !matches!(self, Self::Late | Self::InPieces | Self::OutOfMemory | Self::NonNumeric)
    }

    /// Whether it would be a lie in place of `truth`.
    pub(crate) fn suits(self, asked: Asked, truth: &[u8]) -> bool {
        match self {
            Self::OutOfMemory | Self::UntaggedToo => asked.store,
            Self::NonNumeric => asked.arithmetic,
            Self::AnotherLength | Self::TooLong => truth.starts_with(b"VA "),
            Self::AnotherKind => truth.starts_with(b"VA ") || truth.starts_with(b"HD "),
            _ => true,
        }
    }

    /// What is said instead of `truth`. What takes time, or the lane's end, is its teller's.
    pub(crate) fn words(self, asked: Asked, truth: &[u8], dice: &mut Dice) -> Vec<u8> {
        let tag = format!(" O{}", asked.tag);
        let line = truth.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let (head, data) = truth.split_at(line);
        let head = std::str::from_utf8(head).unwrap();
        match self {
            Self::Late | Self::InPieces => truth.to_vec(),
            Self::OutOfMemory => OUT_OF_MEMORY.to_vec(),
            Self::NonNumeric => NON_NUMERIC.to_vec(),
            Self::Swapped | Self::Dropped | Self::Silence => Vec::new(),
            Self::Twice => truth.repeat(2),
            Self::Garbage => {
                let garbage = (0..1 + dice.below(300)).map(|_| u8::try_from(dice.below(256)).unwrap());
                // Not by chance the beginning of something true.
                [b"\x80"[..].to_vec(), garbage.collect(), b"\r\n".to_vec(), truth.to_vec()].concat()
            }
            Self::EndlessLine => b"HD ".repeat(2000),
            Self::AnothersTag => {
                let other = [asked.tag + 1, asked.tag.wrapping_sub(1), asked.tag + 1000][dice.below(3)];
                [head.replace(&tag, &format!(" O{other}")).as_bytes(), data].concat()
            }
            Self::NoTag => [head.replace(&tag, "").as_bytes(), data].concat(),
            Self::AnotherLength => {
                let len = data.len() - 2;
                let other = if len == 0 || dice.below(2) == 0 { len + 1 } else { len - 1 };
                [head.replacen(&len.to_string(), &other.to_string(), 1).as_bytes(), data].concat()
            }
            Self::TooLong => format!("VA 2147483645{tag}\r\n").into_bytes(),
            Self::AnotherKind if head.starts_with("VA ") => format!("HD{tag}\r\n").into_bytes(),
            Self::AnotherKind => format!("VA 3{tag}\r\nabc\r\n").into_bytes(),
            Self::ClassicValue => b"VALUE s1 0 3\r\nabc\r\nEND\r\n".to_vec(),
            Self::OneTooMany => [truth, format!("HD O{}\r\n", asked.tag + 1_000_000).as_bytes()].concat(),
            Self::UntaggedToo => [OUT_OF_MEMORY, truth].concat(),
            Self::Half => truth[..dice.below(truth.len())].to_vec(),
        }
    }
}
