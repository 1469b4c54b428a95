//! Causes of denials: a word for rows, metrics and JSON, and sentences for the token's owner.

use crate::{Scope, Scopes};

/// Why a login or a request was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenialCause {
    /// No token has that id. Only counted, because no user can be told.
    UnknownId,
    /// The secret's checksum is wrong for the id: mistyped, cut off, or another token's secret.
    Mistyped,
    /// The secret has a correct checksum but is not the token's.
    WrongSecret,
    /// The token has expired.
    Expired,
    /// The token is revoked.
    Revoked,
    /// The client certificate has expired or been revoked; its token may be active.
    CertificateEnded,
    /// The token's user or cache is suspended.
    Suspended,
    /// The client's address is in none of the token's networks.
    Source,
    /// The connection has no TLS, and its source requires it.
    Plaintext,
    /// The client began to log in with SCRAM and left before the end.
    ScramUnfinished,
    /// A connection that had logged in sent a credential that isn't one of its user's.
    ForeignCredential,
    /// The plan's connections are all in use.
    Limit,
    /// The token's share of the plan's connections is in use.
    TokenLimit,
    /// The cache's part of the proxy's connections is in use.
    ProxyLimit,
    /// The request exceeds the plan's rates.
    Rate,
    /// The cache's share of the proxy's buffers is in use: its oldest unfinished request was ended.
    Buffers,
    /// Half a request, or replies that nobody reads, and then silence.
    Stalled,
    /// The request needs this scope, which the token lacks.
    Scope(Scope),
    /// The key lacks the token's prefix, or the command concerns all keys.
    Prefix,
}

impl DenialCause {
    /// Every cause.
    pub fn all() -> impl Iterator<Item = Self> {
        let others = [
            Self::UnknownId,
            Self::Mistyped,
            Self::WrongSecret,
            Self::Expired,
            Self::Revoked,
            Self::CertificateEnded,
            Self::Suspended,
            Self::Source,
            Self::Plaintext,
            Self::ScramUnfinished,
            Self::ForeignCredential,
            Self::Limit,
            Self::TokenLimit,
            Self::ProxyLimit,
            Self::Rate,
            Self::Buffers,
            Self::Stalled,
            Self::Prefix,
        ];
        others.into_iter().chain(Scopes::ALL.each().map(Self::Scope))
    }

    /// Its name in rows, metric labels and JSON: `wrong_secret`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownId => "unknown_id",
            Self::Mistyped => "mistyped",
            Self::WrongSecret => "wrong_secret",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::CertificateEnded => "certificate_ended",
            Self::Suspended => "suspended",
            Self::Source => "source",
            Self::Plaintext => "plaintext",
            Self::ScramUnfinished => "scram_unfinished",
            Self::ForeignCredential => "foreign_credential",
            Self::Limit => "limit",
            Self::TokenLimit => "token_limit",
            Self::ProxyLimit => "proxy_limit",
            Self::Rate => "rate",
            Self::Buffers => "buffers",
            Self::Stalled => "stalled",
            Self::Scope(scope) => scope.denial_cause(),
            Self::Prefix => "prefix",
        }
    }

    /// The cause with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::all().find(|cause| cause.as_str() == text)
    }

    /// The problem, for the token's owner.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::UnknownId => "No token has that username.",
            Self::Mistyped => {
                "The username is right, but not the password: it is mistyped, cut off, or another token's."
            }
            Self::WrongSecret => "The username is right, but the password isn't.",
            Self::Expired => "The token has expired, or has been replaced by another.",
            Self::Revoked => "The token has been revoked.",
            Self::CertificateEnded => "The client certificate has been revoked, or has expired.",
            Self::Suspended => "The account or the cache is suspended.",
            Self::Source => "The token may not be used from that address.",
            Self::Plaintext => {
                "The connection came over the internet without TLS, so the password could be read on its way."
            }
            Self::ScramUnfinished => {
                "The application began to log in with SCRAM-SHA-256, and closed the connection before the end."
            }
            Self::ForeignCredential => {
                "A connection that had logged in sent a credential that isn't one of yours, or isn't valid."
            }
            Self::Limit => "All connections of the plan were in use.",
            Self::TokenLimit => "All connections that one token may have were in use.",
            Self::ProxyLimit => {
                "The service had few connections left, and the cache as many as it may have of them."
            }
            Self::Rate => "The application exceeded the plan's rate limit.",
            Self::Buffers => {
                "Unfinished requests and unread replies of the cache took up its buffers, so the oldest were ended."
            }
            Self::Stalled => {
                "The application sent half a request, or didn't read its replies, and then did nothing for too long."
            }
            Self::Scope(scope) => scope.denied(),
            Self::Prefix => {
                "The key doesn't start with the token's prefix, or the command concerns all keys."
            }
        }
    }

    /// How to fix it, for the token's owner.
    #[must_use]
    pub fn fix(self) -> &'static str {
        match self {
            Self::UnknownId => "Copy the username again.",
            Self::Mistyped | Self::WrongSecret => {
                "Give the application the username and password of the same token, or a new token."
            }
            Self::Expired | Self::Revoked => {
                "Give the application that still uses it a new token, or the one that has replaced it."
            }
            Self::CertificateEnded => {
                "Create another certificate on the token's page, and give it to the application."
            }
            Self::Suspended => {
                "Resume the cache in its settings. If the account is suspended, or the operator has suspended the \
                 cache, ask the operator of this service."
            }
            Self::Source => {
                "Connect from one of the token's networks, or create a token that allows this one."
            }
            Self::Plaintext => "Use TLS, and rotate this token.",
            Self::ScramUnfinished => {
                "Its library can't finish SCRAM (libmemcached before 1.1 can't): use a newer one, or ask the operator \
                 to set proxy.scram = false."
            }
            Self::ForeignCredential => {
                "Give each user connections of its own, and don't store memgate's tokens in a cache."
            }
            Self::Limit => "Close unused connections, or let the application open fewer at once.",
            Self::TokenLimit => {
                "Close unused connections, give each application a token of its own, or ask the operator to raise the \
                 token's limit."
            }
            Self::ProxyLimit => {
                "Close unused connections, or ask the operator for a service that allows more."
            }
            Self::Buffers | Self::Stalled => {
                "Let the application finish its requests, read all replies, and close connections that it gives up."
            }
            Self::Rate => "Send fewer requests or larger batches, or ask the operator for a larger plan.",
            Self::Scope(scope) => scope.fix(),
            Self::Prefix => {
                "Let the application put the prefix before its keys, or create a token with another."
            }
        }
    }
}

impl serde::Serialize for DenialCause {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
