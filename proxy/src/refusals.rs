//! Who was refused, and why: counted here, in little room, until the ledger writes it to the store. Only
//! refusals come this way; nothing waits here, and no secret, key or value is taken down.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use store::{Cause, Millis, Refusal, TokenId, now};

use crate::dialect::{Dialect, Parsed};
use crate::login::{Credential, Proof};
use crate::metrics::LoginOutcome;
use crate::policy;
use crate::request::{Ask, Command, Mode, Request, Verb};
use crate::stream::Stream;
use crate::throttle::network;

/// Tokens whose refusals wait to be written; those of others are only counted.
const TOKENS_MAX: usize = 1024;
/// Of these, such as may be made up: nobody has looked whether they are there.
const CLAIMED_MAX: usize = 256;
/// And of those, what comes from one source: it must not crowd out what others' owners should know.
const CLAIMED_BY_SOURCE: usize = 8;
/// Places and ways of one cause of a token's, between two writes. The others are added up.
const PLACES_MAX: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Refusals {
    pub(crate) counted: Family<Refused, Counter>,
    owed: Mutex<Owed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Refused {
    cause: &'static str,
}

/// Where somebody calls from, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whence {
    pub(crate) source: IpAddr,
    pub(crate) dialect: Dialect,
    pub(crate) tls: bool,
}

impl Whence {
    /// Who has said nothing yet is taken for text: binary clients that speak TLS can log in.
    pub(crate) fn new(source: IpAddr, dialect: Option<Dialect>, stream: &Stream) -> Self {
        Self { source, dialect: dialect.unwrap_or(Dialect::Text), tls: stream.is_tls() }
    }
}

/// Whose token was shown.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whose {
    /// A token that there is.
    Token(TokenId),
    /// What looked like a username, in something that is no credential.
    Claimed(TokenId),
    Nobody,
}

/// Not written yet.
#[derive(Debug, Default)]
struct Owed {
    tokens: HashMap<TokenId, Vec<Entry>>,
    /// How many each source has claimed.
    claimed: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Entry {
    cause: Cause,
    /// `None` for the many that there was no room for.
    source: Option<IpAddr>,
    hint: &'static str,
    dialect: Dialect,
    tls: bool,
    times: i64,
    first_at: Millis,
    last_at: Millis,
}

impl Refusals {
    /// Somebody was refused.
    pub(crate) fn note(&self, whose: Whose, cause: Cause, whence: Whence, hint: &'static str) {
        self.counted.get_or_create(&Refused { cause: cause.as_str() }).inc();
        let mut owed = self.owed();
        let Some(entries) = owed.of(whose, whence.source) else { return };
        let Whence { source, dialect, tls } = whence;
        let at = now();
        let entry =
            Entry { cause, source: Some(source), hint, dialect, tls, times: 1, first_at: at, last_at: at };
        add(entries, entry);
    }

    /// All that hasn't been written, to be written now.
    pub(crate) fn take(&self) -> Vec<Refusal> {
        let owed = std::mem::take(&mut *self.owed());
        let all =
            owed.tokens.into_iter().flat_map(|(id, entries)| entries.into_iter().map(move |it| (id, it)));
        all.map(|(id, entry)| entry.into_refusal(id)).collect()
    }

    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Owed {
    /// Where the refusals of a token are noted, if they are.
    fn of(&mut self, whose: Whose, source: IpAddr) -> Option<&mut Vec<Entry>> {
        let (id, checked) = match whose {
            Whose::Token(id) => (id, true),
            Whose::Claimed(id) => (id, false),
            Whose::Nobody => return None,
        };
        let is_noted = self.tokens.contains_key(&id);
        if !is_noted && (self.tokens.len() >= TOKENS_MAX || !(checked || self.claim(source))) {
            return None;
        }
        Some(self.tokens.entry(id).or_default())
    }

    /// Whether there is room for one more that a source has claimed.
    fn claim(&mut self, source: IpAddr) -> bool {
        if self.claimed.values().sum::<usize>() >= CLAIMED_MAX {
            return false;
        }
        let claimed = self.claimed.entry(network(source)).or_default();
        let has_room = *claimed < CLAIMED_BY_SOURCE;
        *claimed += usize::from(has_room);
        has_room
    }
}

/// Counts `entry` with those like it, or with the many if there are too many places.
fn add(entries: &mut Vec<Entry>, mut entry: Entry) {
    let places = entries.iter().filter(|it| it.cause == entry.cause && it.source.is_some()).count();
    let is_like =
        |it: &Entry, new: &Entry| (it.cause, it.source, it.hint) == (new.cause, new.source, new.hint);
    if places >= PLACES_MAX && !entries.iter().any(|it| is_like(it, &entry)) {
        entry.source = None;
        entry.hint = "";
    }
    match entries.iter_mut().find(|it| is_like(it, &entry)) {
        Some(known) => {
            known.times = known.times.saturating_add(entry.times);
            known.last_at = entry.last_at;
            (known.dialect, known.tls) = (entry.dialect, entry.tls);
        }
        None => entries.push(entry),
    }
}

impl Entry {
    fn into_refusal(self, token: TokenId) -> Refusal {
        let dialect = match self.dialect {
            Dialect::Text => "text",
            Dialect::Binary => "binary",
        };
        Refusal {
            token_id: token.to_string(),
            cause: self.cause,
            source: self.source.map(|source| source.to_string()),
            hint: self.hint.to_owned(),
            dialect: dialect.to_owned(),
            tls: self.tls,
            times: self.times,
            first_at: self.first_at,
            last_at: self.last_at,
        }
    }
}

impl LoginOutcome {
    /// Why a login was refused, if it is something that its token's owner can set right.
    pub(crate) fn cause(self) -> Option<Cause> {
        Some(match self {
            Self::Malformed => Cause::Mistyped,
            Self::Unknown => Cause::UnknownId,
            Self::Wrong => Cause::WrongSecret,
            Self::Revoked => Cause::Revoked,
            Self::Expired => Cause::Expired,
            Self::Elsewhere => Cause::Source,
            Self::Suspended => Cause::Suspended,
            Self::Full => Cause::Limit,
            Self::Plaintext => Cause::Plaintext,
            Self::Welcome | Self::Unavailable | Self::Crowded | Self::Unforwarded | Self::TimedOut => {
                return None;
            }
        })
    }
}

impl policy::Refusal {
    pub(crate) fn cause(self) -> Cause {
        match self {
            Self::NeedsRead => Cause::ScopeRead,
            Self::NeedsWrite => Cause::ScopeWrite,
            Self::NeedsFlush => Cause::ScopeFlush,
            Self::NeedsStats => Cause::ScopeStats,
            Self::OutsidePrefix => Cause::Prefix,
            Self::OverRate => Cause::Rate,
        }
    }
}

/// The form of a login without a word.
pub(crate) const CERTIFICATE: &str = "client certificate";

/// In which form somebody has tried to log in.
pub(crate) fn form(dialect: Dialect, credential: Option<&Credential>) -> &'static str {
    match (dialect, credential.map(|credential| &credential.proof)) {
        (Dialect::Text, _) => "text login",
        (Dialect::Binary, Some(Proof::Secret(_))) => "SASL PLAIN",
        (Dialect::Binary, Some(Proof::Scram(_) | Proof::Failed)) => "SASL SCRAM-SHA-256",
        (Dialect::Binary, None) => "SASL",
    }
}

/// Which command it was.
pub(crate) fn command(parsed: &Parsed<'_>) -> &'static str {
    match parsed {
        Parsed::Request(request) | Parsed::Stream { request, .. } => verb(request),
        Parsed::Keys(keys) if keys.exptime.is_some() => "gat",
        Parsed::Keys(_) => "get",
        Parsed::Alone(alone) => match alone.ask {
            Ask::Stats { .. } => "stats",
            Ask::FlushAll { .. } => "flush_all",
            Ask::Inspect { .. } => "me",
        },
        _ => "",
    }
}

pub(crate) fn verb(request: &Request<'_>) -> &'static str {
    match &request.command {
        Command::Get { exptime: Some(_) } => "gat",
        Command::Get { exptime: None } => "get",
        Command::Store(store) => match store.mode {
            Mode::Set if store.cas.is_some() => "cas",
            Mode::Set => "set",
            Mode::Add => "add",
            Mode::Replace => "replace",
            Mode::Append => "append",
            Mode::Prepend => "prepend",
        },
        Command::Forget => "set",
        Command::Delete { .. } => "delete",
        Command::Arithmetic { decrement: false, .. } => "incr",
        Command::Arithmetic { decrement: true, .. } => "decr",
        Command::Touch { .. } => "touch",
        Command::Version => "version",
        Command::Meta(meta) => match meta.verb {
            Verb::Get => "mg",
            Verb::Set => "ms",
            Verb::Delete => "md",
            Verb::Arithmetic => "ma",
        },
    }
}

#[cfg(test)]
mod tests {
    use store::Token;

    use super::*;

    fn whence(last: u8) -> Whence {
        Whence { source: [192, 0, 2, last].into(), dialect: Dialect::Text, tls: false }
    }

    #[test]
    fn a_flood_costs_counts_and_little_room() {
        let refusals = Refusals::default();
        let token = Token::generate().id();
        for n in 0..1000_u16 {
            let [_, last] = n.to_be_bytes();
            refusals.note(Whose::Token(token), Cause::WrongSecret, whence(last), "text login");
            refusals.note(Whose::Claimed(Token::generate().id()), Cause::Mistyped, whence(last), "SASL");
            refusals.note(Whose::Nobody, Cause::UnknownId, whence(last), "SASL");
        }
        refusals.note(Whose::Token(token), Cause::Expired, whence(9), "text login");
        let written = refusals.take();
        let (own, claimed): (Vec<_>, Vec<_>) =
            written.into_iter().partition(|it| it.token_id == token.to_string());
        assert_eq!(claimed.len(), CLAIMED_MAX);
        let of = |cause| own.iter().filter(|it| it.cause == cause).collect::<Vec<_>>();
        assert_eq!(of(Cause::WrongSecret).len(), PLACES_MAX + 1);
        assert_eq!(of(Cause::WrongSecret).iter().map(|it| it.times).sum::<i64>(), 1000);
        assert_eq!(of(Cause::WrongSecret).iter().filter(|it| it.source.is_none()).count(), 1);
        assert_eq!(of(Cause::Expired).len(), 1);
        assert!(refusals.take().is_empty());
        let unknown = refusals.counted.get_or_create(&Refused { cause: "unknown_id" }).get();
        assert_eq!(unknown, 1000);
    }

    #[test]
    fn one_source_crowds_out_no_other() {
        let refusals = Refusals::default();
        for last in [1; 1000].into_iter().chain([2]) {
            refusals.note(Whose::Claimed(Token::generate().id()), Cause::Mistyped, whence(last), "SASL");
        }
        assert_eq!(refusals.take().len(), CLAIMED_BY_SOURCE + 1);
    }
}
