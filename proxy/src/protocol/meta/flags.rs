//! The meta flags, one row for each. The parser, the encoder of lanes, authorization, the merge of a repeated
//! `mg` and the fuzzing oracle read this table: a new flag is a new row here and a transcript.

use crate::protocol::line::tokens;
use crate::protocol::request::{Meta, OLDEST_VERSION, ValueWanted, Verb, Version};

/// One meta flag of memcached's protocol.txt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    pub(crate) letter: u8,
    /// The commands it is forwarded with. The parser accepts every flag with every command, as memcached does.
    pub(crate) verbs: &'static [Verb],
    pub(crate) argument: Argument,
    /// The first version of memcached that knows it; [`OLDEST_VERSION`] also stands for earlier ones.
    pub(crate) since: Version,
    /// Whether an `mg` with this flag changes the item.
    pub(crate) mutates: bool,
    /// The writing commands whose reply shows, with this flag, what the item holds (D-14).
    pub(crate) reveals_to: &'static [Verb],
    /// Which reply's value the client gets when an `mg` is sent twice.
    pub(crate) on_refetch: OnRefetch,
}

/// What follows a flag's letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Argument {
    /// Nothing; memcached ignores what stands there.
    None,
    /// Nothing: the key is base64-encoded.
    Base64Key,
    /// Nothing: successful replies are suppressed. Not forwarded; the proxy does it.
    Quiet,
    /// Seconds, signed 32 bits.
    Exptime,
    /// An unsigned number of 64 bits.
    Cas,
    /// The initial value of arithmetic, 64 bits.
    Initial,
    /// The delta of arithmetic, 64 bits.
    Delta,
    /// The item's client flags, 32 bits.
    ClientFlags,
    /// The mode of `ms` or `ma`; its first byte counts.
    Mode,
    /// The client's opaque. On a lane the proxy's tag takes its place (T-8).
    Opaque,
    /// Only memcached sends this flag: `W`, `X` and `Z` end a reply.
    ReplyOnly,
}

/// Which of two replies to the same `mg` a flag is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnRefetch {
    /// The first: sending the `mg` changed what it tells.
    First,
    /// The second, which carries the value.
    Second,
}

/// Letters that the proxy itself gives a meaning.
pub(crate) mod letter {
    pub(crate) const BASE64: u8 = b'b';
    pub(crate) const COMPARE_CAS: u8 = b'C';
    pub(crate) const CLIENT_FLAGS: u8 = b'F';
    pub(crate) const KEY: u8 = b'k';
    pub(crate) const MODE: u8 = b'M';
    pub(crate) const OPAQUE: u8 = b'O';
    pub(crate) const TOUCH: u8 = b'T';
    pub(crate) const VALUE: u8 = b'v';
    pub(crate) const VIVIFY: u8 = b'N';
}

const NONE: &[Verb] = &[];
const ALL: &[Verb] = &[Verb::Get, Verb::Set, Verb::Delete, Verb::Arithmetic];
const GET: &[Verb] = &[Verb::Get];
const GET_SET: &[Verb] = &[Verb::Get, Verb::Set];
const GET_ARITHMETIC: &[Verb] = &[Verb::Get, Verb::Arithmetic];
const GET_SET_ARITHMETIC: &[Verb] = &[Verb::Get, Verb::Set, Verb::Arithmetic];
const SET_DELETE: &[Verb] = &[Verb::Set, Verb::Delete];
const SET_ARITHMETIC: &[Verb] = &[Verb::Set, Verb::Arithmetic];
const DELETE: &[Verb] = &[Verb::Delete];
const ARITHMETIC: &[Verb] = &[Verb::Arithmetic];
const SET: &[Verb] = &[Verb::Set];
const V1_6_27: Version = [1, 6, 27];

/// What most rows have in common.
const FLAG: Flag = Flag {
    letter: 0,
    verbs: NONE,
    argument: Argument::None,
    since: OLDEST_VERSION,
    mutates: false,
    reveals_to: NONE,
    on_refetch: OnRefetch::Second,
};

/// Every meta flag.
#[rustfmt::skip]
pub(crate) const FLAGS: [Flag; 28] = [
    Flag { letter: letter::BASE64, verbs: ALL, argument: Argument::Base64Key, ..FLAG },
    Flag { letter: b'c', verbs: GET_SET_ARITHMETIC, ..FLAG },
    Flag { letter: letter::COMPARE_CAS, verbs: ALL, argument: Argument::Cas, ..FLAG },
    Flag { letter: b'D', verbs: ARITHMETIC, argument: Argument::Delta, ..FLAG },
    Flag { letter: b'E', verbs: ALL, argument: Argument::Cas, since: V1_6_27, ..FLAG },
    Flag { letter: b'f', verbs: GET, ..FLAG },
    Flag { letter: letter::CLIENT_FLAGS, verbs: SET_DELETE, argument: Argument::ClientFlags, ..FLAG },
    Flag { letter: b'h', verbs: GET, on_refetch: OnRefetch::First, ..FLAG },
    Flag { letter: b'I', verbs: SET_DELETE, ..FLAG },
    Flag { letter: b'J', verbs: ARITHMETIC, argument: Argument::Initial, ..FLAG },
    Flag { letter: letter::KEY, verbs: ALL, ..FLAG },
    Flag { letter: b'l', verbs: GET, on_refetch: OnRefetch::First, ..FLAG },
    Flag { letter: b'L', ..FLAG },
    Flag { letter: letter::MODE, verbs: SET_ARITHMETIC, argument: Argument::Mode, ..FLAG },
    Flag { letter: letter::VIVIFY, verbs: GET_SET_ARITHMETIC, argument: Argument::Exptime, mutates: true, ..FLAG },
    Flag { letter: letter::OPAQUE, verbs: ALL, argument: Argument::Opaque, ..FLAG },
    Flag { letter: b'P', ..FLAG },
    Flag { letter: b'q', argument: Argument::Quiet, ..FLAG },
    Flag { letter: b'R', verbs: GET, argument: Argument::Exptime, mutates: true, ..FLAG },
    Flag { letter: b's', verbs: GET_SET, reveals_to: SET, ..FLAG },
    Flag { letter: b't', verbs: GET_ARITHMETIC, reveals_to: ARITHMETIC, on_refetch: OnRefetch::First, ..FLAG },
    Flag { letter: letter::TOUCH, verbs: ALL, argument: Argument::Exptime, mutates: true, ..FLAG },
    Flag { letter: b'u', verbs: GET, ..FLAG },
    Flag { letter: letter::VALUE, verbs: GET_ARITHMETIC, reveals_to: ARITHMETIC, ..FLAG },
    Flag { letter: b'W', argument: Argument::ReplyOnly, on_refetch: OnRefetch::First, ..FLAG },
    Flag { letter: b'x', verbs: DELETE, since: V1_6_27, ..FLAG },
    Flag { letter: b'X', argument: Argument::ReplyOnly, on_refetch: OnRefetch::First, ..FLAG },
    Flag { letter: b'Z', argument: Argument::ReplyOnly, on_refetch: OnRefetch::First, ..FLAG },
];

const LETTERS: usize = 128;
/// The rows of [`FLAGS`] by letter.
static BY_LETTER: [Option<&Flag>; LETTERS] = by_letter();

#[expect(clippy::indexing_slicing, clippy::as_conversions, reason = "evaluated at compile time")]
const fn by_letter() -> [Option<&'static Flag>; LETTERS] {
    const ROWS: &[Flag] = &FLAGS;
    let mut table = [None; LETTERS];
    let mut row = 0;
    while row < ROWS.len() {
        let letter = ROWS[row].letter as usize;
        assert!(table[letter].is_none(), "a flag has two rows");
        table[letter] = Some(&ROWS[row]);
        row += 1;
    }
    table
}

impl Flag {
    /// The row of `letter`; `None` if memcached has no such flag.
    pub(crate) fn find(letter: u8) -> Option<&'static Self> {
        BY_LETTER.get(usize::from(letter)).copied().flatten()
    }

    /// The row of the flag that `word` begins with.
    pub(crate) fn of(word: &[u8]) -> Option<&'static Self> {
        word.first().and_then(|letter| Self::find(*letter))
    }

    /// Whether only memcached sends it.
    pub(crate) fn is_reply_only(&self) -> bool {
        self.argument == Argument::ReplyOnly
    }
}

/// Whether `flags` contain `letter`.
pub(crate) fn contains(flags: &[u8], letter: u8) -> bool {
    tokens(flags).any(|flag| flag.first() == Some(&letter))
}

impl Meta<'_> {
    /// Whether the request changes the item, not only reads it.
    pub(crate) fn mutates(&self) -> bool {
        self.verb != Verb::Get || tokens(self.flags).filter_map(Flag::of).any(|flag| flag.mutates)
    }

    /// Whether the reply to a write shows what the item holds: the number, its expiry, or its size after an append.
    pub(crate) fn reveals(&self) -> bool {
        tokens(self.flags).filter_map(Flag::of).any(|flag| flag.reveals_to.contains(&self.verb))
    }

    /// Whether the request reads a value and may expire its item, so that it can't be sent twice.
    pub(in crate::protocol) fn may_expire_what_it_reads(&self) -> bool {
        let contains = |letter| contains(self.flags, letter);
        self.verb == Verb::Get && contains(letter::VALUE) && contains(letter::TOUCH)
    }

    pub(in crate::protocol) fn value_wanted(&self) -> ValueWanted {
        let contains = |letter| contains(self.flags, letter);
        match self.verb {
            Verb::Get if contains(letter::VALUE) && contains(letter::COMPARE_CAS) => ValueWanted::UnlessSame,
            Verb::Get | Verb::Arithmetic if contains(letter::VALUE) => ValueWanted::Yes,
            _ => ValueWanted::No,
        }
    }
}
