//! What a token may do, on which keys, until when, and from where.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{Cidr, Scopes};
use crate::{Millis, StoreError};

/// The longest key prefix, in bytes: room is left for a key behind it.
const PREFIX_MAX: usize = 200;
/// Networks that one token may be used from.
const NETWORKS_MAX: usize = 32;

/// The permissions of one token.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Permissions {
    /// What it may do.
    pub scopes: Scopes,
    /// Only keys that begin with it.
    pub prefix: Option<KeyPrefix>,
    /// From then on it lets nobody in.
    pub expires_at: Option<Millis>,
    /// Only from these networks; from anywhere if there is none.
    pub allow_from: Vec<Cidr>,
}

/// What a token's keys begin with: 1 to 200 bytes, no spaces, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct KeyPrefix(String);

/// A prefix that no key can have, or that leaves no room for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key can't begin so: take 1 to {PREFIX_MAX} bytes without spaces and control characters")]
pub struct ParseKeyPrefixError;

/// More networks than a token may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these are too many networks: a token has at most {NETWORKS_MAX}")]
pub struct NetworkLimitError;

impl Permissions {
    /// Everything, from anywhere, for ever.
    pub const ALL: Self =
        Self { scopes: Scopes::ALL, prefix: None, expires_at: None, allow_from: Vec::new() };
    /// Nothing, and not even that: what is taken for permissions that can't be read.
    const NONE: Self =
        Self { scopes: Scopes::NONE, prefix: None, expires_at: Some(0), allow_from: Vec::new() };

    /// Whether it may still be used at that time.
    #[must_use]
    pub fn is_valid_at(&self, now: Millis) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }

    /// Whether it may be used from there.
    #[must_use]
    pub fn allows_from(&self, source: IpAddr) -> bool {
        self.allow_from.is_empty() || self.allow_from.iter().any(|net| net.contains(source))
    }

    /// Whether any request may be refused.
    #[must_use]
    pub fn limits_requests(&self) -> bool {
        self.scopes != Scopes::ALL || self.prefix.is_some()
    }

    /// The networks, if they aren't too many.
    pub fn networks(list: Vec<Cidr>) -> Result<Vec<Cidr>, NetworkLimitError> {
        if list.len() > NETWORKS_MAX { Err(NetworkLimitError) } else { Ok(list) }
    }
}

/// As the audit log has it.
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
        Ok(())
    }
}

impl KeyPrefix {
    /// Its bytes: keys are compared as they are stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// As it was written.
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

/// Permissions as the columns hold them.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct PermissionColumns {
    pub(crate) scopes: String,
    pub(crate) key_prefix: Option<String>,
    pub(crate) expires_at: Option<Millis>,
    pub(crate) allow_from: Option<String>,
}

impl From<&Permissions> for PermissionColumns {
    fn from(permissions: &Permissions) -> Self {
        let nets: Vec<String> = permissions.allow_from.iter().map(Cidr::to_string).collect();
        Self {
            scopes: permissions.scopes.to_string(),
            key_prefix: permissions.prefix.as_ref().map(|prefix| prefix.0.clone()),
            expires_at: permissions.expires_at,
            allow_from: (!nets.is_empty()).then(|| nets.join(",")),
        }
    }
}

impl PermissionColumns {
    pub(crate) fn read(self) -> Result<Permissions, StoreError> {
        let garbage = || StoreError::Corrupt("token's permissions");
        let allow_from = match &self.allow_from {
            None => Vec::new(),
            Some(list) => list.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|_| garbage())?,
        };
        Ok(Permissions {
            scopes: self.scopes.parse().map_err(|_| garbage())?,
            prefix: self.key_prefix.map(|text| text.parse()).transpose().map_err(|_| garbage())?,
            expires_at: self.expires_at,
            allow_from,
        })
    }

    /// For lists of rows, and for logins: a row that can't be parsed permits nothing.
    pub(crate) fn parse_or_none(self, token: &str) -> Permissions {
        self.read().unwrap_or_else(|error| {
            tracing::error!(token, %error, "the token lets nobody in");
            Permissions::NONE
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_the_beginning_of_a_key() {
        for good in ["a", "app:", "ключ/", &"x".repeat(200)] {
            assert_eq!(good.parse::<KeyPrefix>().unwrap().as_str(), good);
        }
        for bad in ["", " ", "a b", "a\r\n", "a\0", "a\u{a0}b", &"x".repeat(201)] {
            assert_eq!(bad.parse::<KeyPrefix>(), Err(ParseKeyPrefixError), "{bad:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_power_at_all() {
        let good = || PermissionColumns::from(&Permissions::ALL);
        assert_eq!(good().parse_or_none("x"), Permissions::ALL);
        for garbage in [
            PermissionColumns { scopes: "read,everything".into(), ..good() },
            PermissionColumns { key_prefix: Some(String::new()), ..good() },
            PermissionColumns { allow_from: Some("10.0.0.0/8,".into()), ..good() },
            PermissionColumns { allow_from: Some(String::new()), ..good() },
        ] {
            let permissions = garbage.parse_or_none("x");
            assert_eq!(permissions.scopes, Scopes::NONE);
            assert!(!permissions.is_valid_at(1));
        }
    }

    #[test]
    fn the_end_is_not_part_of_the_time() {
        let permissions = Permissions { expires_at: Some(1000), ..Permissions::ALL };
        assert!(permissions.is_valid_at(999) && !permissions.is_valid_at(1000));
        assert!(Permissions::ALL.is_valid_at(Millis::MAX));
    }
}
