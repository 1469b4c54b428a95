//! One meaning, three encodings: what a caller asks, whatever protocol it speaks. Pure.

/// A valid request for one key. Borrowed from the caller's bytes; the key is 1 to 250 bytes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) command: Command<'a>,
    pub(crate) key: Key<'a>,
    pub(crate) answer: Answer,
}

/// A key as its caller wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) form: KeyForm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyForm {
    /// Fits a line of text as it is.
    Plain,
    /// May hold what a line can't: then it travels base64-encoded.
    Raw,
    /// Is base64 already (meta's `b`).
    Base64,
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
    Invalidate,
    /// A caller that speaks the lane's own protocol.
    Meta(Meta<'a>),
}

/// A meta command whose flags have been checked: what memcached understands passes as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta<'a> {
    pub(crate) verb: Verb,
    /// The rest of the line behind the key and, for `ms`, the length.
    pub(crate) flags: &'a [u8],
    /// Of `ms`.
    pub(crate) value: &'a [u8],
}

/// The meta commands that carry a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Set,
    Delete,
    Arithmetic,
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

/// What must be remembered of a request to answer it in its caller's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Text(TextAnswer),
    Meta(MetaAnswer),
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
pub(crate) struct MetaAnswer {
    pub(crate) verb: Verb,
    /// Hides what went as expected.
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BinaryAnswer {
    pub(crate) opcode: u8,
    pub(crate) opaque: [u8; 4],
}

/// What this installation and the instance's plan allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// memcached's `-I`, in bytes: key, value and header together.
    pub(crate) item_size_max: u64,
    pub(crate) flags: FlagSet,
    /// What SASL LIST answers.
    pub(crate) mechanisms: &'static [u8],
}

/// Which meta flags the instance's memcached knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FlagSet {
    /// No lane has been open yet.
    #[default]
    Unknown,
    /// Those of 1.6.18.
    Old,
    /// `E` and `x` too.
    Newest,
}

impl FlagSet {
    /// What memcached says of itself: `1.6.18`.
    pub(crate) fn of(version: &[u8]) -> Self {
        /// The first that knows them all.
        const SINCE: [u32; 3] = [1, 6, 27];
        let mut numbers = [0; 3];
        let parts = version.split(|byte| *byte == b'.');
        for (number, part) in numbers.iter_mut().zip(parts) {
            let digits = part.iter().take_while(|byte| byte.is_ascii_digit());
            *number = digits.fold(0_u32, |sum, digit| {
                sum.saturating_mul(10).saturating_add(u32::from(digit.saturating_sub(b'0')))
            });
        }
        if numbers < SINCE { Self::Old } else { Self::Newest }
    }
}

/// A longer value never goes over a lane that others use: it is forwarded as it comes, on a lane of its
/// client's own.
pub(crate) const SHARED_VALUE_MAX: usize = 128 * 1024;

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
pub(crate) struct Reply<'a> {
    pub(crate) outcome: Outcome<'a>,
    /// The flags that it gave back, as they stand, our tag among them.
    pub(crate) tokens: &'a [u8],
}

impl<'a> From<Outcome<'a>> for Reply<'a> {
    fn from(outcome: Outcome<'a>) -> Self {
        Self { outcome, tokens: b"" }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome<'a> {
    Value(ItemMeta, &'a [u8]),
    Done(ItemMeta),
    Miss,
    NotStored,
    Exists,
    TooLarge,
    OutOfMemory,
    NonNumeric,
    Version(&'a [u8]),
    Failed(Fault),
}

/// All of a value's reply but the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    pub(crate) stamp: ItemMeta,
    pub(crate) len: usize,
    pub(crate) tokens: &'a [u8],
}

/// What an item is marked with, where it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ItemMeta {
    pub(crate) flags: u32,
    pub(crate) cas: u64,
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
    Invalidate,
    Meta { verb: Verb, value: ValueWanted },
}

/// Whether a meta request asks for the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueWanted {
    No,
    Yes,
    /// Newer memcacheds leave it out if the item's cas is the one given.
    UnlessSame,
}

impl Kind {
    /// Whether it asks for a value.
    pub(crate) fn is_get(self) -> bool {
        matches!(self, Self::Get | Self::Meta { verb: Verb::Get, .. })
    }
}

impl<'a> Key<'a> {
    pub(crate) fn plain(bytes: &'a [u8]) -> Self {
        Self { bytes, form: KeyForm::Plain }
    }
}

impl Meta<'_> {
    fn asks(&self, letter: u8) -> bool {
        self.flags.split(|byte| *byte == b' ').any(|flag| flag.first() == Some(&letter))
    }

    fn value_wanted(&self) -> ValueWanted {
        match self.verb {
            Verb::Get if self.asks(b'v') && self.asks(b'C') => ValueWanted::UnlessSame,
            Verb::Get | Verb::Arithmetic if self.asks(b'v') => ValueWanted::Yes,
            _ => ValueWanted::No,
        }
    }
}

impl Command<'_> {
    /// Whether it asks for a value and gives its item another time to live, perhaps none.
    pub(crate) fn may_end_what_it_reads(&self) -> bool {
        match self {
            Self::Get { exptime } => exptime.is_some(),
            Self::Meta(meta) => meta.verb == Verb::Get && meta.asks(b'v') && meta.asks(b'T'),
            _ => false,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Get { .. } => Kind::Get,
            Self::Store(store) => Kind::Store(store.mode),
            Self::Delete { .. } => Kind::Delete,
            Self::Arithmetic { .. } => Kind::Arithmetic,
            Self::Touch { .. } => Kind::Touch,
            Self::Version => Kind::Version,
            Self::Invalidate => Kind::Invalidate,
            Self::Meta(meta) => Kind::Meta { verb: meta.verb, value: meta.value_wanted() },
        }
    }
}

/// What carries no tag, and so goes alone on a lane of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UntaggedCommand<'a> {
    pub(crate) ask: Ask<'a>,
    pub(crate) answer: Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask<'a> {
    /// All, or one of the groups on the list.
    Stats { group: &'a [u8] },
    /// At once, or so many seconds from now.
    FlushAll { delay: Option<i32> },
    /// `me`: all that is known of an item.
    Inspect { key: &'a [u8], base64: bool },
}

/// What `stats` may be asked for: the others dump keys, reset or tune something.
pub(super) const STAT_GROUPS: [&[u8]; 5] = [b"", b"items", b"slabs", b"sizes", b"settings"];

/// Whether a key can't stand in a line of text as it is.
pub(crate) fn travels_encoded(key: &[u8]) -> bool {
    key.iter().any(|byte| *byte <= b' ' || *byte == 0x7f)
}
