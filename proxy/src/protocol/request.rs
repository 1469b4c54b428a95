//! Requests and replies independent of the protocol that encodes them. Pure.

/// A valid request for one key of 1 to 250 bytes. Borrows from the client's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) command: Command<'a>,
    pub(crate) key: Key<'a>,
    pub(crate) format: ReplyFormat,
}

/// A key as the client sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) form: KeyForm,
}

/// How a key is encoded on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyForm {
    /// Contains no white space or control bytes: sent as it is.
    Plain,
    /// May contain any byte: sent base64-encoded where [`needs_base64`] (D-7).
    Raw,
    /// Already base64-encoded by the client (meta flag `b`).
    Base64,
}

/// What to do with the key. Expiry times are signed seconds, as in memcached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    /// Reads the value; with an expiry time (gat) also sets it.
    Get {
        exptime: Option<i32>,
    },
    Store(Store<'a>),
    /// With a cas: only if the item's cas is the same.
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
    /// The instance's version. The key is empty.
    Version,
    /// Deletes the old item after a `set` whose value is too large, as memcached does (T-1).
    Invalidate,
    /// A client's own meta command.
    Meta(Meta<'a>),
}

/// A meta command with valid flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta<'a> {
    pub(crate) verb: Verb,
    /// The rest of the line behind the key and, in `ms`, the length.
    pub(crate) flags: &'a [u8],
    /// The data block of `ms`; else empty.
    pub(crate) value: &'a [u8],
}

/// The meta commands whose replies carry an opaque.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Set,
    Delete,
    Arithmetic,
}

/// A command with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Store<'a> {
    pub(crate) mode: Mode,
    pub(crate) flags: u32,
    pub(crate) exptime: i32,
    pub(crate) cas: Option<u64>,
    pub(crate) value: &'a [u8],
}

/// How a store treats an existing item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
}

/// The item that arithmetic creates if the key is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Create {
    pub(crate) initial: u64,
    pub(crate) exptime: i32,
}

/// How the client expects the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyFormat {
    Text(TextFormat),
    Meta(MetaFormat),
    Binary(BinaryFormat),
}

/// The reply of a text command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextFormat {
    /// A `VALUE` line; `END` follows the `last` key of the client's line.
    Value { with_cas: bool, last: bool },
    /// One line; none if `noreply`.
    Line { noreply: bool },
}

/// The reply of a meta command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MetaFormat {
    pub(crate) verb: Verb,
    /// Suppresses the replies that T-10 lists.
    pub(crate) quiet: bool,
}

/// The reply of a binary command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BinaryFormat {
    pub(crate) opcode: u8,
    pub(crate) opaque: [u8; 4],
}

/// Limits of the installation and of the cache's plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// memcached's `-I`: the most bytes of key, value and item header together.
    pub(crate) item_size_max: u64,
    /// The longest value, in bytes, that is gathered before its request is forwarded: [`SHARED_VALUE_MAX`] or less.
    pub(crate) gathered_max: usize,
    pub(crate) flags: FlagSet,
    /// The reply to SASL LIST.
    pub(crate) mechanisms: &'static [u8],
}

/// A version of memcached: major, minor, patch.
pub(crate) type Version = [u32; 3];

/// The oldest version that may run in an instance.
pub(crate) const OLDEST_VERSION: Version = [1, 6, 18];

/// The meta flags that the instance's memcached knows (D-9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FlagSet {
    /// No lane has been opened yet.
    #[default]
    Unknown,
    /// The flags of this version.
    Version(Version),
}

impl FlagSet {
    /// Every flag that the proxy knows.
    pub(crate) const NEWEST: Self = Self::Version([u32::MAX; 3]);

    /// Reads a version that memcached reported, like `1.6.18`. Missing parts count as 0.
    pub(crate) fn from_version(version: &[u8]) -> Self {
        let mut numbers = [0; 3];
        let parts = version.split(|byte| *byte == b'.');
        for (number, part) in numbers.iter_mut().zip(parts) {
            let digits = part.iter().take_while(|byte| byte.is_ascii_digit());
            *number = digits.fold(0_u32, |sum, digit| {
                sum.saturating_mul(10).saturating_add(u32::from(digit.saturating_sub(b'0')))
            });
        }
        Self::Version(numbers)
    }
}

/// The longest value, in bytes, on a shared lane. A longer one is streamed on a dedicated lane.
pub(crate) const SHARED_VALUE_MAX: usize = 128 * 1024;

/// Bytes that memcached adds to key and value: item header, cas and line end (T-1).
const ITEM_OVERHEAD: u64 = 59;
/// Bytes of the client flags, which memcached stores only if they aren't 0.
const ITEM_FLAGS: u64 = 4;

impl Limits {
    /// Whether memcached would store an item with a key and a value of these lengths, in bytes.
    pub(crate) fn fits(self, key: usize, value: usize, flags: u32) -> bool {
        let flags = if flags == 0 { 0 } else { ITEM_FLAGS };
        let len = u64::try_from(key.saturating_add(value)).unwrap_or(u64::MAX);
        len.saturating_add(ITEM_OVERHEAD + flags) <= self.item_size_max
    }
}

/// Why an instance did not reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No lane is open, or it failed while the request was in flight (P-1).
    Unavailable,
    /// The request's deadline passed (P-2).
    TimedOut,
}

/// A reply of memcached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply<'a> {
    pub(crate) outcome: Outcome<'a>,
    /// The flags of the reply's line, among them our tag.
    pub(crate) tokens: &'a [u8],
}

impl<'a> From<Outcome<'a>> for Reply<'a> {
    fn from(outcome: Outcome<'a>) -> Self {
        Self { outcome, tokens: b"" }
    }
}

/// The result that a reply reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome<'a> {
    Value(ItemMeta, &'a [u8]),
    Done(ItemMeta),
    Miss,
    NotStored,
    Exists,
    TooLarge,
    OutOfMemory,
    /// No chunk was left for the rest of a large value.
    OutOfMemoryDuringRead,
    NonNumeric,
    Version(&'a [u8]),
    Failed(Fault),
}

/// The line that precedes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ValueHeader<'a> {
    pub(crate) item: ItemMeta,
    pub(crate) len: usize,
    pub(crate) tokens: &'a [u8],
}

/// Client flags and cas of an item; 0 if they weren't requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ItemMeta {
    pub(crate) flags: u32,
    pub(crate) cas: u64,
}

/// The kind of a request in flight: decides which replies are valid and how they are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommandKind {
    Get,
    Store(Mode),
    Delete,
    Arithmetic,
    Touch,
    Version,
    Invalidate,
    Meta { verb: Verb, value: ValueWanted },
}

/// Whether a meta request wants the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueWanted {
    No,
    Yes,
    /// Newer versions of memcached omit it if the item's cas is the one given.
    UnlessSame,
}

impl CommandKind {
    /// Whether the command is a get of any protocol.
    pub(crate) fn is_get(self) -> bool {
        matches!(self, Self::Get | Self::Meta { verb: Verb::Get, .. })
    }
}

impl<'a> Key<'a> {
    pub(crate) fn plain(bytes: &'a [u8]) -> Self {
        Self { bytes, form: KeyForm::Plain }
    }
}

impl Command<'_> {
    /// Whether it reads a value and sets the item's expiry, so that the item may be gone afterwards.
    pub(crate) fn may_expire_what_it_reads(&self) -> bool {
        match self {
            Self::Get { exptime } => exptime.is_some(),
            Self::Meta(meta) => meta.may_expire_what_it_reads(),
            _ => false,
        }
    }

    /// Whether it only reads, so that it may be sent a second time. An `mg` may still have flags that change the item.
    #[inline]
    pub(crate) fn may_repeat(&self) -> bool {
        matches!(self, Self::Get { exptime: None } | Self::Version | Self::Meta(Meta { verb: Verb::Get, .. }))
    }

    pub(crate) fn kind(&self) -> CommandKind {
        match self {
            Self::Get { .. } => CommandKind::Get,
            Self::Store(store) => CommandKind::Store(store.mode),
            Self::Delete { .. } => CommandKind::Delete,
            Self::Arithmetic { .. } => CommandKind::Arithmetic,
            Self::Touch { .. } => CommandKind::Touch,
            Self::Version => CommandKind::Version,
            Self::Invalidate => CommandKind::Invalidate,
            Self::Meta(meta) => CommandKind::Meta { verb: meta.verb, value: meta.value_wanted() },
        }
    }
}

/// A command whose reply carries no tag, so that it needs a dedicated lane (L-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UntaggedCommand<'a> {
    pub(crate) kind: UntaggedKind<'a>,
    pub(crate) format: ReplyFormat,
}

/// The command and its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UntaggedKind<'a> {
    /// General statistics, or one of [`STAT_GROUPS`].
    Stats { group: &'a [u8] },
    /// Now, or after `delay` seconds.
    FlushAll { delay: Option<i32> },
    /// `me`: memcached's metadata of an item.
    Inspect { key: &'a [u8], base64: bool },
}

/// The groups of statistics that clients may read. Others dump keys, or reset or change something.
pub(super) const STAT_GROUPS: [&[u8]; 5] = [b"", b"items", b"slabs", b"sizes", b"settings"];

/// Whether a key contains bytes that a line can't carry, and so travels base64-encoded.
pub(crate) fn needs_base64(key: &[u8]) -> bool {
    key.iter().any(|byte| *byte <= b' ' || *byte == 0x7f)
}
