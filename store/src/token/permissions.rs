//! What a token may do, on which keys, until when, and from where.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{Cidr, Scopes};
use crate::{StoreError, Timestamp};

/// Length of a key prefix in bytes; a key has at most 250.
const PREFIX_MAX: usize = 200;
/// Networks that a token may list.
const NETWORKS_MAX: usize = 32;

/// The permissions of one token.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Permissions {
    /// The kinds of operations it may use.
    pub scopes: Scopes,
    /// The prefix of all keys that it may use; `None` is any key.
    pub prefix: Option<KeyPrefix>,
    /// It is denied from this time on; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// The networks it may be used from; empty is any.
    pub allow_from: Vec<Cidr>,
    /// The client connections that it may have; `None` is half of its cache's.
    pub connections: Option<i64>,
}

/// The prefix of a token's keys: 1 to 200 bytes without spaces and control characters.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct KeyPrefix(String);

/// The text is not a key prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid key prefix: use 1 to {PREFIX_MAX} bytes without spaces and control characters")]
pub struct ParseKeyPrefixError;

/// There are more networks than a token may list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many networks: a token has at most {NETWORKS_MAX}")]
pub struct NetworkLimitError;

impl Permissions {
    /// All scopes and keys, from any network, without expiry.
    pub const ALL: Self = Self {
        scopes: Scopes::ALL,
        prefix: None,
        expires_at: None,
        allow_from: Vec::new(),
        connections: None,
    };
    /// No permissions, already expired: the fallback for rows that can't be parsed.
    const NONE: Self = Self {
        scopes: Scopes::NONE,
        prefix: None,
        expires_at: Some(Timestamp::EPOCH),
        allow_from: Vec::new(),
        connections: None,
    };

    /// Whether they are not expired at `now`. Expiry is exclusive.
    #[must_use]
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }

    /// Whether the token may be used from the address `source`.
    #[must_use]
    pub fn allows_from(&self, source: IpAddr) -> bool {
        self.allow_from.is_empty() || self.allow_from.iter().any(|net| net.contains(source))
    }

    /// Whether a request can be denied because of its scope or key.
    #[must_use]
    pub fn limits_requests(&self) -> bool {
        self.scopes != Scopes::ALL || self.prefix.is_some()
    }

    /// Checks the number of networks.
    ///
    /// # Errors
    /// [`NetworkLimitError`] if there are more than 32.
    pub fn networks(list: Vec<Cidr>) -> Result<Vec<Cidr>, NetworkLimitError> {
        if list.len() > NETWORKS_MAX { Err(NetworkLimitError) } else { Ok(list) }
    }
}

/// The text of the audit log.
impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "scopes {}", self.scopes)?;
        if let Some(prefix) = &self.prefix {
            write!(f, ", keys that begin with {}", prefix.0)?;
        }
        if let Some(end) = self.expires_at {
            write!(f, ", until {end}")?;
        }
        if !self.allow_from.is_empty() {
            let networks: Vec<String> = self.allow_from.iter().map(ToString::to_string).collect();
            write!(f, ", from {}", networks.join(" or "))?;
        }
        if let Some(connections) = self.connections {
            write!(f, ", at most {connections} connections")?;
        }
        Ok(())
    }
}

impl KeyPrefix {
    /// The prefix as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The prefix.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyPrefix {
    type Err = ParseKeyPrefixError;

    fn from_str(text: &str) -> Result<Self, ParseKeyPrefixError> {
        let fits = (1..=PREFIX_MAX).contains(&text.len());
        let in_keys = !text.chars().any(|c| c.is_control() || c.is_whitespace());
        if fits && in_keys { Ok(Self(text.to_owned())) } else { Err(ParseKeyPrefixError) }
    }
}

/// Permissions as stored in the columns.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct PermissionColumns {
    pub(crate) scopes: String,
    pub(crate) key_prefix: Option<String>,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) allow_from: Option<String>,
    #[sqlx(rename = "token_connections")]
    pub(crate) connections: Option<i64>,
}

impl From<&Permissions> for PermissionColumns {
    fn from(permissions: &Permissions) -> Self {
        let nets: Vec<String> = permissions.allow_from.iter().map(Cidr::to_string).collect();
        Self {
            scopes: permissions.scopes.to_string(),
            key_prefix: permissions.prefix.as_ref().map(|prefix| prefix.0.clone()),
            expires_at: permissions.expires_at,
            allow_from: (!nets.is_empty()).then(|| nets.join(",")),
            connections: permissions.connections,
        }
    }
}

impl PermissionColumns {
    pub(crate) fn read(self) -> Result<Permissions, StoreError> {
        let invalid = || StoreError::Corrupt("token's permissions");
        let allow_from = match &self.allow_from {
            None => Vec::new(),
            Some(list) => list.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|_| invalid())?,
        };
        Ok(Permissions {
            scopes: self.scopes.parse().map_err(|_| invalid())?,
            prefix: self.key_prefix.map(|text| text.parse()).transpose().map_err(|_| invalid())?,
            expires_at: self.expires_at,
            allow_from,
            connections: self.connections,
        })
    }

    /// For lists of rows, and for logins: a row that can't be parsed permits nothing.
    pub(crate) fn parse_or_none(self, token: &str) -> Permissions {
        self.read().unwrap_or_else(|error| {
            tracing::error!(token, %error, "invalid permissions: denying every use of the token");
            Permissions::NONE
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_prefix_is_validated() {
        for good in ["a", "app:", "ключ/", &"x".repeat(200)] {
            assert_eq!(good.parse::<KeyPrefix>().unwrap().as_str(), good);
        }
        for bad in ["", " ", "a b", "a\r\n", "a\0", "a\u{a0}b", &"x".repeat(201)] {
            assert_eq!(bad.parse::<KeyPrefix>(), Err(ParseKeyPrefixError), "{bad:?}");
        }
    }

    #[test]
    fn invalid_permissions_deny_everything() {
        let good = || PermissionColumns::from(&Permissions::ALL);
        assert_eq!(good().parse_or_none("x"), Permissions::ALL);
        for invalid in [
            PermissionColumns { scopes: "read,everything".into(), ..good() },
            PermissionColumns { key_prefix: Some(String::new()), ..good() },
            PermissionColumns { allow_from: Some("10.0.0.0/8,".into()), ..good() },
            PermissionColumns { allow_from: Some(String::new()), ..good() },
        ] {
            let permissions = invalid.parse_or_none("x");
            assert_eq!(permissions.scopes, Scopes::NONE);
            assert!(!permissions.is_valid_at(Timestamp::from_millis(1)));
        }
    }

    #[test]
    fn expiry_is_exclusive() {
        let permissions = Permissions { expires_at: Some(Timestamp::from_millis(1000)), ..Permissions::ALL };
        assert!(
            permissions.is_valid_at(Timestamp::from_millis(999))
                && !permissions.is_valid_at(Timestamp::from_millis(1000))
        );
        assert!(Permissions::ALL.is_valid_at(Timestamp::MAX));
    }
}
