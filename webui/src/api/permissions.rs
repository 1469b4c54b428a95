//! A token's permissions, as the API shows and takes them.

use std::time::Duration;

use identity::{InputError, permissions_text};
use serde::{Deserialize, Serialize};
use store::{Cidr, Permissions, Scope, Scopes, Timestamp};
use utoipa::ToSchema;

use super::body::present;
use super::problem::FieldError;
use super::value::{DateTime, parse_time};

/// The longest lifetime: a hundred years, as everywhere else.
const LIFETIME_MAX: Duration = Duration::from_hours(100 * 365 * 24);

/// What a token may do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Permissions)]
pub(super) struct PermissionView {
    /// Kinds of operations: some of `read`, `write`, `flush` and `stats`.
    scopes: Vec<&'static str>,
    /// The beginning of all keys that it may use; `null` is any key.
    key_prefix: Option<String>,
    /// When it ends; `null` is never.
    expires_at: Option<DateTime>,
    /// Networks that it may be used from; empty is any.
    allow_from: Vec<String>,
    /// Connections that it may have; `null` is half of its cache's.
    connections_max: Option<i64>,
}

/// What a token is to be allowed. What is missing isn't restricted for a new token, and stays as it is for another one.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewPermissions)]
pub(super) struct PermissionFields {
    /// Kinds of operations, at least one.
    #[serde(default)]
    #[schema(min_items = 1)]
    scopes: Option<Vec<TokenScope>>,
    /// The beginning of all keys that it may use: 1 to 200 bytes without spaces and control characters; `null` is any key.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 200)]
    key_prefix: Option<Option<String>>,
    /// When it ends (RFC 3339); `null` is never.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Option<String>>,
    /// Networks that it may be used from, at most 32, like `10.0.0.0/8`; empty is any.
    #[serde(default)]
    #[schema(max_items = 32)]
    allow_from: Option<Vec<String>>,
}

/// A kind of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", try_from = "String")]
pub(super) enum TokenScope {
    Read,
    Write,
    Flush,
    Stats,
}

impl TryFrom<String> for TokenScope {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let all = [Self::Read, Self::Write, Self::Flush, Self::Stats];
        let found = all.into_iter().find(|scope| Scope::from(*scope).name() == name);
        found.ok_or_else(|| format!("unknown scope, expected {}", Scopes::ALL.list(" or ")))
    }
}

impl From<TokenScope> for Scope {
    fn from(scope: TokenScope) -> Self {
        match scope {
            TokenScope::Read => Self::Read,
            TokenScope::Write => Self::Write,
            TokenScope::Flush => Self::Flush,
            TokenScope::Stats => Self::Stats,
        }
    }
}

impl PermissionView {
    pub(super) fn new(permissions: &Permissions) -> Self {
        Self {
            scopes: permissions.scopes.names().collect(),
            key_prefix: permissions.prefix.as_ref().map(|prefix| prefix.as_str().to_owned()),
            expires_at: permissions.expires_at.map(DateTime),
            allow_from: permissions.allow_from.iter().map(Cidr::to_string).collect(),
            connections_max: permissions.connections,
        }
    }
}

impl PermissionFields {
    /// Applies the fields that were sent. Returns what is wrong with the others.
    pub(super) fn apply(&self, permissions: &mut Permissions, now: Timestamp) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut wrong = |field: &str, error: InputError| errors.push(FieldError::new(field, error));
        if let Some(scopes) = &self.scopes {
            let scopes = scopes.iter().map(|scope| Scope::from(*scope)).collect::<Scopes>();
            match permissions_text::require_scope(scopes) {
                Ok(scopes) => permissions.scopes = scopes,
                Err(error) => wrong("permissions.scopes", error),
            }
        }
        if let Some(prefix) = &self.key_prefix {
            match permissions_text::parse_key_prefix(prefix.as_deref().unwrap_or_default()) {
                Ok(prefix) => permissions.prefix = prefix,
                Err(error) => wrong("permissions.key_prefix", error),
            }
        }
        match self.expires_at.as_ref().map(|text| text.as_deref().map(|text| expiry(text, now)).transpose()) {
            None => {}
            Some(Ok(expires_at)) => permissions.expires_at = expires_at,
            Some(Err(error)) => wrong("permissions.expires_at", error),
        }
        if let Some(networks) = &self.allow_from {
            match networks_of(networks) {
                Ok(networks) => permissions.allow_from = networks,
                Err((at, error)) => wrong(&at, error),
            }
        }
        errors
    }
}

fn expiry(text: &str, now: Timestamp) -> Result<Timestamp, InputError> {
    let at = parse_time(text)
        .ok_or_else(|| InputError::new("This isn't a time", "Write it like 2027-01-31T12:00:00Z"))?;
    if at <= now {
        return Err(InputError::new("A token can't expire at once", "Name a time in the future"));
    }
    if at > now.saturating_add(LIFETIME_MAX) {
        return Err(InputError::new("This is too far away", "Name a time within a hundred years, or null"));
    }
    Ok(at)
}

/// The networks, or the field and what is wrong with it.
fn networks_of(texts: &[String]) -> Result<Vec<Cidr>, (String, InputError)> {
    let mut networks = Vec::new();
    for (nth, text) in texts.iter().enumerate() {
        let at = || format!("permissions.allow_from[{nth}]");
        let parsed = permissions_text::parse_networks(text).map_err(|error| (at(), error))?;
        let [network] = parsed[..] else {
            return Err((at(), InputError::new("This isn't one network", "Write one like 10.0.0.0/8")));
        };
        networks.push(network);
    }
    permissions_text::check_networks(networks).map_err(|error| ("permissions.allow_from".to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_has_its_name() {
        for scope in Scopes::ALL.each() {
            let parsed: TokenScope = serde_json::from_str(&format!("\"{}\"", scope.name())).unwrap();
            assert_eq!(Scope::from(parsed), scope);
        }
    }

    #[test]
    fn fields_that_are_missing_change_nothing() {
        let before = Permissions { scopes: Scopes::READ, prefix: "app:".parse().ok(), ..Permissions::ALL };
        let mut after = before.clone();
        assert!(PermissionFields::default().apply(&mut after, Timestamp::EPOCH).is_empty());
        assert_eq!(after, before);
        let lift: PermissionFields =
            serde_json::from_str(r#"{"key_prefix":null,"expires_at":null}"#).unwrap();
        assert!(lift.apply(&mut after, Timestamp::EPOCH).is_empty());
        assert_eq!(after, Permissions { scopes: Scopes::READ, ..Permissions::ALL });
    }

    #[test]
    fn every_wrong_field_is_named() {
        let json = r#"{"scopes":[],"key_prefix":"a b","expires_at":"1970-01-01T00:00:00Z","allow_from":["::1","10.0.0.0/8,::1"]}"#;
        let fields: PermissionFields = serde_json::from_str(json).unwrap();
        let errors = fields.apply(&mut Permissions::ALL.clone(), Timestamp::from_millis(1));
        let errors = serde_json::to_string(&errors).unwrap();
        for field in [
            "permissions.scopes",
            "permissions.key_prefix",
            "permissions.expires_at",
            "permissions.allow_from[1]",
        ] {
            assert!(errors.contains(&format!("\"{field}\"")), "{field}: {errors}");
        }
    }
}
