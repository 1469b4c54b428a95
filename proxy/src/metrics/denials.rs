//! Who was refused, and why: counted here, in little room, until the usage_reporter writes it to the store. Only
//! denials come this way; nothing waits here, and no secret, key or value is taken down.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use store::{DenialCause, DenialRecord, Millis, TokenId, now};

use crate::login::outcome::LoginOutcome;
use crate::login::{Credential, Proof};
use crate::protocol::denial;
use crate::protocol::request::{Command, Mode, Request, UntaggedKind, Verb};
use crate::protocol::{Parsed, Protocol};
use crate::transport::Stream;
use crate::transport::address::network;

/// Tokens whose denials wait to be written; those of others are only counted.
const TOKENS_MAX: usize = 1024;
/// Of these, such as may be made up: nobody has looked whether they are there.
const CLAIMED_MAX: usize = 256;
/// And of those, what comes from one source: it must not crowd out what others' owners should know.
const CLAIMED_BY_SOURCE: usize = 8;
/// Places and ways of one cause of a token's, between two writes. The others are added up.
const PLACES_MAX: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Denials {
    pub(crate) counted: Family<Refused, Counter>,
    owed: Mutex<Owed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Refused {
    cause: &'static str,
}

/// Where somebody calls from, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientInfo {
    pub(crate) source: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) tls: bool,
}

impl ClientInfo {
    /// Who has said nothing yet is taken for text: binary clients that speak TLS can log in.
    pub(crate) fn new(source: IpAddr, protocol: Option<Protocol>, stream: &Stream) -> Self {
        Self { source, protocol: protocol.unwrap_or(Protocol::Text), tls: stream.is_tls() }
    }
}

/// Subject token was shown.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject {
    /// A token that there is.
    Token(TokenId),
    /// What looked like a username, in something that is no credential.
    Unverified(TokenId),
    None,
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
    cause: DenialCause,
    /// `None` for the many that there was no room for.
    source: Option<IpAddr>,
    hint: &'static str,
    protocol: Protocol,
    tls: bool,
    times: i64,
    first_at: Millis,
    last_at: Millis,
}

impl Denials {
    /// Somebody was refused.
    pub(crate) fn note(&self, subject: Subject, cause: DenialCause, client: ClientInfo, hint: &'static str) {
        self.counted.get_or_create(&Refused { cause: cause.as_str() }).inc();
        let mut owed = self.owed();
        let Some(entries) = owed.of(subject, client.source) else { return };
        let ClientInfo { source, protocol, tls } = client;
        let at = now();
        let entry =
            Entry { cause, source: Some(source), hint, protocol, tls, times: 1, first_at: at, last_at: at };
        add(entries, entry);
    }

    /// All that hasn't been written, to be written now.
    pub(crate) fn take(&self) -> Vec<DenialRecord> {
        let owed = std::mem::take(&mut *self.owed());
        let all =
            owed.tokens.into_iter().flat_map(|(id, entries)| entries.into_iter().map(move |it| (id, it)));
        all.map(|(id, entry)| entry.into_denial(id)).collect()
    }

    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Owed {
    /// Where the denials of a token are noted, if they are.
    fn of(&mut self, subject: Subject, source: IpAddr) -> Option<&mut Vec<Entry>> {
        let (id, checked) = match subject {
            Subject::Token(id) => (id, true),
            Subject::Unverified(id) => (id, false),
            Subject::None => return None,
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
            (known.protocol, known.tls) = (entry.protocol, entry.tls);
        }
        None => entries.push(entry),
    }
}

impl Entry {
    fn into_denial(self, token: TokenId) -> DenialRecord {
        let protocol = match self.protocol {
            Protocol::Text => "text",
            Protocol::Binary => "binary",
        };
        DenialRecord {
            token_id: token.to_string(),
            cause: self.cause,
            source: self.source.map(|source| source.to_string()),
            hint: self.hint.to_owned(),
            protocol: protocol.to_owned(),
            tls: self.tls,
            times: self.times,
            first_at: self.first_at,
            last_at: self.last_at,
        }
    }
}

impl LoginOutcome {
    /// Why a login was refused, if it is something that its token's owner can set right.
    pub(crate) fn cause(self) -> Option<DenialCause> {
        Some(match self {
            Self::Malformed => DenialCause::Mistyped,
            Self::Unknown => DenialCause::UnknownId,
            Self::WrongSecret => DenialCause::WrongSecret,
            Self::Revoked => DenialCause::Revoked,
            Self::Expired => DenialCause::Expired,
            Self::SourceDenied => DenialCause::Source,
            Self::Suspended => DenialCause::Suspended,
            Self::ConnectionLimit => DenialCause::Limit,
            Self::Plaintext => DenialCause::Plaintext,
            Self::Success
            | Self::Unavailable
            | Self::Overloaded
            | Self::MissingProxyHeader
            | Self::TimedOut => {
                return None;
            }
        })
    }
}

impl denial::Denial {
    pub(crate) fn cause(self) -> DenialCause {
        match self {
            Self::NeedsRead => DenialCause::ScopeRead,
            Self::NeedsWrite => DenialCause::ScopeWrite,
            Self::NeedsFlush => DenialCause::ScopeFlush,
            Self::NeedsStats => DenialCause::ScopeStats,
            Self::OutsidePrefix => DenialCause::Prefix,
            Self::OverRate => DenialCause::Rate,
        }
    }
}

/// The form of a login without a word.
pub(crate) const CERTIFICATE: &str = "client certificate";

/// In which form somebody has tried to log in.
pub(crate) fn form(protocol: Protocol, credential: Option<&Credential>) -> &'static str {
    match (protocol, credential.map(|credential| &credential.proof)) {
        (Protocol::Text, _) => "text login",
        (Protocol::Binary, Some(Proof::Secret(_))) => "SASL PLAIN",
        (Protocol::Binary, Some(Proof::Scram(_) | Proof::Failed)) => "SASL SCRAM-SHA-256",
        (Protocol::Binary, None) => "SASL",
    }
}

/// Which command it was.
pub(crate) fn command(parsed: &Parsed<'_>) -> &'static str {
    match parsed {
        Parsed::Request(request) | Parsed::Stream { request, .. } => verb(request),
        Parsed::Keys(keys) if keys.exptime.is_some() => "gat",
        Parsed::Keys(_) => "get",
        Parsed::UntaggedCommand(alone) => match alone.kind {
            UntaggedKind::Stats { .. } => "stats",
            UntaggedKind::FlushAll { .. } => "flush_all",
            UntaggedKind::Inspect { .. } => "me",
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
        Command::Invalidate => "set",
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

    fn client(last: u8) -> ClientInfo {
        ClientInfo { source: [192, 0, 2, last].into(), protocol: Protocol::Text, tls: false }
    }

    #[test]
    fn a_flood_costs_counts_and_little_room() {
        let denials = Denials::default();
        let token = Token::generate().id();
        for n in 0..1000_u16 {
            let [_, last] = n.to_be_bytes();
            denials.note(Subject::Token(token), DenialCause::WrongSecret, client(last), "text login");
            denials.note(
                Subject::Unverified(Token::generate().id()),
                DenialCause::Mistyped,
                client(last),
                "SASL",
            );
            denials.note(Subject::None, DenialCause::UnknownId, client(last), "SASL");
        }
        denials.note(Subject::Token(token), DenialCause::Expired, client(9), "text login");
        let written = denials.take();
        let (own, claimed): (Vec<_>, Vec<_>) =
            written.into_iter().partition(|it| it.token_id == token.to_string());
        assert_eq!(claimed.len(), CLAIMED_MAX);
        let of = |cause| own.iter().filter(|it| it.cause == cause).collect::<Vec<_>>();
        assert_eq!(of(DenialCause::WrongSecret).len(), PLACES_MAX + 1);
        assert_eq!(of(DenialCause::WrongSecret).iter().map(|it| it.times).sum::<i64>(), 1000);
        assert_eq!(of(DenialCause::WrongSecret).iter().filter(|it| it.source.is_none()).count(), 1);
        assert_eq!(of(DenialCause::Expired).len(), 1);
        assert!(denials.take().is_empty());
        let unknown = denials.counted.get_or_create(&Refused { cause: "unknown_id" }).get();
        assert_eq!(unknown, 1000);
    }

    #[test]
    fn one_source_crowds_out_no_other() {
        let denials = Denials::default();
        for last in [1; 1000].into_iter().chain([2]) {
            denials.note(
                Subject::Unverified(Token::generate().id()),
                DenialCause::Mistyped,
                client(last),
                "SASL",
            );
        }
        assert_eq!(denials.take().len(), CLAIMED_BY_SOURCE + 1);
    }
}
