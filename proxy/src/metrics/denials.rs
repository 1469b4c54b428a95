//! Counts denials: why logins and requests were refused. Kept in bounded memory until the usage reporter writes them to
//! the store. Recording waits for nothing but a short lock, and no secret, key or value is recorded.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use daemon::metrics::CounterBy;
use daemon::source::Source;
use prometheus_client::registry::Registry;
use store::{DenialCause, DenialRecord, Timestamp, TokenId, now};

use crate::login::outcome::LoginOutcome;
use crate::login::{Credential, Proof};
use crate::protocol::denial;
use crate::protocol::request::{Command, Mode, Request, UntaggedKind, Verb};
use crate::protocol::{Parsed, Protocol};
use crate::transport::Stream;

/// Tokens with denials to be written; denials of further tokens only count in the metric.
const TOKENS_MAX: usize = 1024;
/// Of these, tokens whose id has not been verified and may be made up.
const UNVERIFIED_MAX: usize = 256;
/// Unverified tokens per source: one source must not use up the space of others.
const UNVERIFIED_PER_SOURCE_MAX: usize = 8;
/// Pairs of source and detail kept per token and cause between two writes; further ones are added up in one entry.
const SOURCES_PER_CAUSE_MAX: usize = 4;

/// Denials by cause for `/metrics`, and by token for the store.
#[derive(Debug, Default)]
pub(crate) struct Denials {
    /// The metric.
    by_cause: CounterBy,
    pending: Mutex<Pending>,
}

/// The address and transport of a client that was denied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientInfo {
    pub(crate) source: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) tls: bool,
}

impl ClientInfo {
    /// A client that has sent no byte yet counts as text.
    pub(crate) fn new(source: IpAddr, protocol: Option<Protocol>, stream: &Stream) -> Self {
        Self { source, protocol: protocol.unwrap_or(Protocol::Text), tls: stream.is_tls() }
    }
}

/// The token that a denial is recorded for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject {
    /// An existing token.
    Token(TokenId),
    /// A username found in a malformed login; the token may not exist.
    Unverified(TokenId),
    /// No token: only the metric counts.
    None,
}

/// Denials to be written to the store.
#[derive(Debug, Default)]
struct Pending {
    tokens: HashMap<TokenId, Vec<Entry>>,
    /// Number of unverified tokens by source.
    unverified: HashMap<Source, usize>,
}

#[derive(Debug)]
struct Entry {
    cause: DenialCause,
    /// `None` in the entry that adds up the sources beyond [`SOURCES_PER_CAUSE_MAX`].
    source: Option<IpAddr>,
    /// The command, or the form of the login.
    detail: &'static str,
    /// Protocol of the last client.
    protocol: Protocol,
    /// Whether the last client used TLS.
    tls: bool,
    count: i64,
    first_at: Timestamp,
    last_at: Timestamp,
}

impl Denials {
    pub(super) fn register(proxy: &mut Registry) -> Self {
        let (name, help) = ("denials", "Denied logins and requests by cause");
        let causes = DenialCause::all().map(DenialCause::as_str);
        let by_cause = CounterBy::register(proxy, name, help, "cause", causes);
        Self { by_cause, pending: Mutex::default() }
    }

    /// Counts a denial and, if there is a token, records it for the token's owner. `detail` is the command or the form
    /// of the login.
    pub(crate) fn record(
        &self,
        subject: Subject,
        cause: DenialCause,
        client: ClientInfo,
        detail: &'static str,
    ) {
        self.by_cause.inc(cause.as_str());
        let mut pending = self.pending();
        let Some(entries) = pending.entries(subject, client.source) else { return };
        let ClientInfo { source, protocol, tls } = client;
        let at = now();
        let entry =
            Entry { cause, source: Some(source), detail, protocol, tls, count: 1, first_at: at, last_at: at };
        add(entries, entry);
    }

    /// Removes and returns all pending denials.
    pub(crate) fn take(&self) -> Vec<DenialRecord> {
        let pending = std::mem::take(&mut *self.pending());
        let entries =
            pending.tokens.into_iter().flat_map(|(id, entries)| entries.into_iter().map(move |it| (id, it)));
        entries.map(|(id, entry)| entry.into_record(id)).collect()
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    /// Returns the entries of the subject's token; `None` without a token or beyond a limit.
    fn entries(&mut self, subject: Subject, source: IpAddr) -> Option<&mut Vec<Entry>> {
        let (id, is_verified) = match subject {
            Subject::Token(id) => (id, true),
            Subject::Unverified(id) => (id, false),
            Subject::None => return None,
        };
        if !self.tokens.contains_key(&id) {
            let has_room = self.tokens.len() < TOKENS_MAX && (is_verified || self.admit_unverified(source));
            if !has_room {
                return None;
            }
        }
        Some(self.tokens.entry(id).or_default())
    }

    /// Counts one more unverified token of a source, unless a limit is reached. Returns whether it was counted.
    fn admit_unverified(&mut self, source: IpAddr) -> bool {
        if self.unverified.values().sum::<usize>() >= UNVERIFIED_MAX {
            return false;
        }
        let of_source = self.unverified.entry(Source::of(source)).or_default();
        let has_room = *of_source < UNVERIFIED_PER_SOURCE_MAX;
        *of_source += usize::from(has_room);
        has_room
    }
}

/// Adds `entry` to the entry of the same cause, source and detail. Beyond [`SOURCES_PER_CAUSE_MAX`], adds it to the entry
/// without a source.
fn add(entries: &mut Vec<Entry>, mut entry: Entry) {
    let sources = entries.iter().filter(|it| it.cause == entry.cause && it.source.is_some()).count();
    let is_same =
        |it: &Entry, new: &Entry| (it.cause, it.source, it.detail) == (new.cause, new.source, new.detail);
    if sources >= SOURCES_PER_CAUSE_MAX && !entries.iter().any(|it| is_same(it, &entry)) {
        entry.source = None;
        entry.detail = "";
    }
    match entries.iter_mut().find(|it| is_same(it, &entry)) {
        Some(known) => {
            known.count = known.count.saturating_add(entry.count);
            known.last_at = entry.last_at;
            (known.protocol, known.tls) = (entry.protocol, entry.tls);
        }
        None => entries.push(entry),
    }
}

impl Entry {
    fn into_record(self, token: TokenId) -> DenialRecord {
        let protocol = match self.protocol {
            Protocol::Text => "text",
            Protocol::Binary => "binary",
        };
        DenialRecord {
            token_id: token.to_string(),
            cause: self.cause,
            source: self.source.map(|source| source.to_string()),
            detail: self.detail.to_owned(),
            protocol: protocol.to_owned(),
            tls: self.tls,
            count: self.count,
            first_at: self.first_at,
            last_at: self.last_at,
        }
    }
}

impl LoginOutcome {
    /// The cause of the denial; `None` for a success, and for failures that the token's owner can't fix.
    pub(crate) fn cause(self) -> Option<DenialCause> {
        Some(match self {
            Self::Malformed => DenialCause::Mistyped,
            Self::Unknown => DenialCause::UnknownId,
            Self::WrongSecret => DenialCause::WrongSecret,
            Self::Revoked => DenialCause::Revoked,
            Self::Expired => DenialCause::Expired,
            Self::CertificateEnded => DenialCause::CertificateEnded,
            Self::SourceDenied => DenialCause::Source,
            Self::Suspended => DenialCause::Suspended,
            Self::ConnectionLimit => DenialCause::Limit,
            Self::TokenConnectionLimit => DenialCause::TokenLimit,
            Self::ProxyLimit => DenialCause::ProxyLimit,
            Self::Plaintext => DenialCause::Plaintext,
            Self::ScramUnfinished => DenialCause::ScramUnfinished,
            Self::Success
            | Self::Unavailable
            | Self::Overloaded
            | Self::Evicted
            // Recorded for the connection's own token.
            | Self::OtherUser
            | Self::MissingProxyHeader
            | Self::TimedOut => {
                return None;
            }
        })
    }
}

impl denial::Ending {
    /// The cause that is recorded for this ending.
    pub(crate) fn cause(self) -> DenialCause {
        match self {
            Self::OverBudget => DenialCause::Buffers,
            Self::Stalled => DenialCause::Stalled,
            Self::ProxyLimit => DenialCause::ProxyLimit,
        }
    }
}

impl denial::Denial {
    /// The cause that is recorded for this denial.
    pub(crate) fn cause(self) -> DenialCause {
        match self {
            Self::NeedsScope(scope) => DenialCause::Scope(scope),
            Self::OutsidePrefix => DenialCause::Prefix,
            Self::OverRate => DenialCause::Rate,
        }
    }
}

/// The form of a login by the TLS handshake alone.
pub(crate) const CERTIFICATE_LOGIN: &str = "client certificate";

/// Names the form of a login.
pub(crate) fn login_form(protocol: Protocol, credential: Option<&Credential>) -> &'static str {
    match (protocol, credential.map(|credential| &credential.proof)) {
        (Protocol::Text, _) => "text login",
        (Protocol::Binary, Some(Proof::Secret(_))) => "SASL PLAIN",
        (Protocol::Binary, Some(Proof::Scram(_) | Proof::Failed)) => "SASL SCRAM-SHA-256",
        (Protocol::Binary, None) => "SASL",
    }
}

/// Names the command of a denied request; empty if it isn't a command that can be denied.
pub(crate) fn command(parsed: &Parsed<'_>) -> &'static str {
    match parsed {
        Parsed::Request(request) | Parsed::Stream { request, .. } => verb(request),
        Parsed::Keys(keys) if keys.exptime.is_some() => "gat",
        Parsed::Keys(_) => "get",
        Parsed::UntaggedCommand(untagged) => match untagged.kind {
            UntaggedKind::Stats { .. } => "stats",
            UntaggedKind::FlushAll { .. } => "flush_all",
            UntaggedKind::Inspect { .. } => "me",
        },
        _ => "",
    }
}

/// Names the command of a denied request by its classic or meta name.
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
    fn memory_stays_bounded_in_a_flood_of_denials() {
        let denials = Denials::default();
        let token = Token::generate().id();
        for n in 0..1000_u16 {
            let [_, last] = n.to_be_bytes();
            denials.record(Subject::Token(token), DenialCause::WrongSecret, client(last), "text login");
            denials.record(
                Subject::Unverified(Token::generate().id()),
                DenialCause::Mistyped,
                client(last),
                "SASL",
            );
            denials.record(Subject::None, DenialCause::UnknownId, client(last), "SASL");
        }
        denials.record(Subject::Token(token), DenialCause::Expired, client(9), "text login");
        let written = denials.take();
        let (verified, unverified): (Vec<_>, Vec<_>) =
            written.into_iter().partition(|it| it.token_id == token.to_string());
        assert_eq!(unverified.len(), UNVERIFIED_MAX);
        let of = |cause| verified.iter().filter(|it| it.cause == cause).collect::<Vec<_>>();
        assert_eq!(of(DenialCause::WrongSecret).len(), SOURCES_PER_CAUSE_MAX + 1);
        assert_eq!(of(DenialCause::WrongSecret).iter().map(|it| it.count).sum::<i64>(), 1000);
        assert_eq!(of(DenialCause::WrongSecret).iter().filter(|it| it.source.is_none()).count(), 1);
        assert_eq!(of(DenialCause::Expired).len(), 1);
        assert!(denials.take().is_empty());
        assert_eq!(denials.by_cause.get("unknown_id"), 1000);
    }

    #[test]
    fn one_source_does_not_use_up_the_space_of_others() {
        let denials = Denials::default();
        for last in [1; 1000].into_iter().chain([2]) {
            denials.record(
                Subject::Unverified(Token::generate().id()),
                DenialCause::Mistyped,
                client(last),
                "SASL",
            );
        }
        assert_eq!(denials.take().len(), UNVERIFIED_PER_SOURCE_MAX + 1);
    }
}
