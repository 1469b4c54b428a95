//! One meaning, three encodings: what a caller asks, whatever dialect it speaks. Pure.

/// A valid request for one key. Borrowed from the caller's bytes; the key is 1 to 250 bytes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) command: Command<'a>,
    pub(crate) key: &'a [u8],
    pub(crate) answer: Answer,
}

/// What to do with the key. Exptimes are signed seconds, as memcached takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    /// Read, and set the exptime too if one is given (gat).
    Get {
        exptime: Option<i32>,
    },
    Store(Store<'a>),
    /// Only if the item's cas is this one, when one is given.
    Delete {
        cas: Option<u64>,
    },
    Arithmetic {
        decrement: bool,
        delta: u64,
        create: Option<Create>,
        cas: Option<u64>,
    },
    Touch {
        exptime: i32,
    },
    /// The instance's own version. Has no key.
    Version,
    /// A `set` whose value is too large for the instance: memcached forgets the old item.
    Forget,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Store<'a> {
    pub(crate) mode: Mode,
    pub(crate) flags: u32,
    pub(crate) exptime: i32,
    pub(crate) cas: Option<u64>,
    pub(crate) value: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
}

/// What arithmetic on a missing key makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Create {
    pub(crate) initial: u64,
    pub(crate) exptime: i32,
}

/// What must be remembered of a request to answer it in its caller's dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Text(TextAnswer),
    Binary(BinaryAnswer),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextAnswer {
    /// `VALUE` lines; `last` of its line is followed by `END`.
    Value { with_cas: bool, last: bool },
    /// One line; with `noreply` none at all.
    Line { noreply: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BinaryAnswer {
    pub(crate) opcode: u8,
    pub(crate) opaque: [u8; 4],
}

/// What the instance's plan allows of one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// memcached's `-I`, in bytes: key, value and header together.
    pub(crate) item_size_max: u64,
}

/// What memcached adds to an item's key and value: header, cas and line end.
const ITEM_OVERHEAD: u64 = 59;
/// Kept only when they aren't 0.
const ITEM_FLAGS: u64 = 4;

impl Limits {
    /// Whether memcached would take an item of these lengths.
    pub(crate) fn fits(self, key: usize, value: usize, flags: u32) -> bool {
        let flags = if flags == 0 { 0 } else { ITEM_FLAGS };
        let len = u64::try_from(key.saturating_add(value)).unwrap_or(u64::MAX);
        len.saturating_add(ITEM_OVERHEAD + flags) <= self.item_size_max
    }
}

/// Why an instance couldn't answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No lane, or it died under the request.
    Unavailable,
    /// The deadline passed.
    TimedOut,
}

/// What memcached said, whatever was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome<'a> {
    Value { flags: u32, cas: u64, data: &'a [u8] },
    Done { flags: u32, cas: u64 },
    Miss,
    NotStored,
    Exists,
    TooLarge,
    OutOfMemory,
    NonNumeric,
    Version(&'a [u8]),
    Failed(Fault),
}

/// The kind of a request in flight: decides what may come back and how it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Get,
    Store(Mode),
    Delete,
    Arithmetic,
    Touch,
    Version,
    Forget,
}

impl Command<'_> {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Get { .. } => Kind::Get,
            Self::Store(store) => Kind::Store(store.mode),
            Self::Delete { .. } => Kind::Delete,
            Self::Arithmetic { .. } => Kind::Arithmetic,
            Self::Touch { .. } => Kind::Touch,
            Self::Version => Kind::Version,
            Self::Forget => Kind::Forget,
        }
    }
}
