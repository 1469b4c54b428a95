//! Permissions of tokens: parses them from options, formats them for lists.

use std::time::Duration;

use store::{Cidr, KeyPrefix, Permissions, Scopes, Timestamp, TokenRow};

use crate::output::{CliError, table, time};

/// The options that `create` and `update` share.
#[derive(Debug, clap::Args)]
pub(crate) struct PermissionArgs {
    #[arg(long, value_name = "SCOPES", value_parser = parse_scopes, help = scopes_help())]
    scope: Option<Scopes>,
    /// Allow only keys that begin with this prefix
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<KeyPrefix>,
    /// Lifetime from now on (12h, 30d, 8w), or never
    #[arg(long, value_name = "TIME", value_parser = parse_expiry)]
    expires: Option<Expiry>,
    /// Allow only this source network (may be repeated), or any
    #[arg(long, value_name = "CIDR", value_parser = parse_source)]
    allow_from: Vec<SourceArg>,
    /// Client connections that the token may have, or default: half of its plan's
    #[arg(long, value_name = "NUMBER", value_parser = parse_connections)]
    connections: Option<ConnectionsArg>,
}

#[derive(Debug, Clone, Copy)]
enum ConnectionsArg {
    Default,
    AtMost(i64),
}

#[derive(Debug, Clone, Copy)]
enum Expiry {
    Never,
    In(Duration),
}

#[derive(Debug, Clone, Copy)]
enum SourceArg {
    Any,
    Network(Cidr),
}

fn scopes_help() -> String {
    let names = Scopes::ALL.list(", ");
    format!("Allowed operations: a comma-separated list of {names} (incr and decr need read and write)")
}

fn parse_scopes(text: &str) -> Result<Scopes, String> {
    let scopes: Scopes = text.parse().map_err(|error: store::ParseScopesError| error.to_string())?;
    let none = || format!("a token needs at least one scope: use some of {}", Scopes::ALL.list(", "));
    if scopes == Scopes::NONE { Err(none()) } else { Ok(scopes) }
}

fn parse_expiry(text: &str) -> Result<Expiry, String> {
    match text {
        "never" => Ok(Expiry::Never),
        _ => match store::parse_duration(text) {
            Ok(span) if span.is_zero() => {
                Err("a token can't expire at once: write a time like 12h, 30d or 8w, or never".to_owned())
            }
            Ok(span) => Ok(Expiry::In(span)),
            Err(error) => Err(format!("{error}, or never")),
        },
    }
}

fn parse_connections(text: &str) -> Result<ConnectionsArg, String> {
    match text {
        "default" => Ok(ConnectionsArg::Default),
        _ => match text.parse() {
            Ok(number) if number > 0 => Ok(ConnectionsArg::AtMost(number)),
            _ => Err("write a number from 1 on, or default".to_owned()),
        },
    }
}

fn parse_source(text: &str) -> Result<SourceArg, String> {
    match text {
        "any" => Ok(SourceArg::Any),
        _ => text
            .parse()
            .map(SourceArg::Network)
            .map_err(|error: store::ParseCidrError| format!("{error}, or any")),
    }
}

impl PermissionArgs {
    /// Whether no option was given.
    pub(super) fn is_empty(&self) -> bool {
        let Self { scope, prefix, expires, allow_from, connections } = self;
        scope.is_none()
            && prefix.is_none()
            && expires.is_none()
            && allow_from.is_empty()
            && connections.is_none()
    }

    /// Applies the given options; the other permissions stay.
    pub(super) fn apply(self, permissions: &mut Permissions, now: Timestamp) {
        if !self.allow_from.is_empty() {
            permissions.allow_from = self.networks();
        }
        if let Some(scopes) = self.scope {
            permissions.scopes = scopes;
        }
        if let Some(prefix) = self.prefix {
            permissions.prefix = Some(prefix);
        }
        match self.connections {
            None => {}
            Some(ConnectionsArg::Default) => permissions.connections = None,
            Some(ConnectionsArg::AtMost(most)) => permissions.connections = Some(most),
        }
        match self.expires {
            None => {}
            Some(Expiry::Never) => permissions.expires_at = None,
            Some(Expiry::In(span)) => permissions.expires_at = Some(now.saturating_add(span)),
        }
    }

    /// Checks the options together.
    ///
    /// # Errors
    /// If `any` is combined with networks, or there are too many networks.
    pub(super) fn check(&self) -> Result<(), CliError> {
        let networks = self.networks();
        if !networks.is_empty() && networks.len() < self.allow_from.len() {
            return Err(CliError::usage(
                "--allow-from any is combined with networks",
                "name only the networks, or only any",
            ));
        }
        Permissions::networks(networks).map(drop).map_err(|error| CliError::from_error(&error))
    }

    fn networks(&self) -> Vec<Cidr> {
        let networks = self.allow_from.iter().filter_map(|origin| match origin {
            SourceArg::Any => None,
            SourceArg::Network(net) => Some(*net),
        });
        networks.collect()
    }
}

/// The state of a token for lists: `active`, `expires in 3 h`, `expired 2 h ago`, `revoked 2 h ago`; one that was rotated
/// is `replaced`, too.
pub(super) fn state(token: &TokenRow, now: Timestamp) -> String {
    describe_state(token, now, table::time_since, table::time_until)
}

/// The same with the moment: `expires 2026-11-29 12:05 UTC (in 3 h)`.
pub(super) fn state_with_moment(token: &TokenRow, now: Timestamp) -> String {
    describe_state(token, now, time::past, time::future)
}

fn describe_state(
    token: &TokenRow,
    now: Timestamp,
    past: fn(Timestamp) -> String,
    future: fn(Timestamp) -> String,
) -> String {
    let state = match (token.revoked_at, token.permissions.expires_at) {
        (Some(at), _) => format!("revoked {}", past(at)),
        (None, Some(at)) if !token.permissions.is_valid_at(now) => format!("expired {}", past(at)),
        (None, Some(at)) => format!("expires {}", future(at)),
        (None, None) => "active".to_owned(),
    };
    // Both have the same name.
    if token.successor.is_some() { format!("replaced, {state}") } else { state }
}

/// The permissions as names and values.
pub(super) fn pairs(permissions: &Permissions) -> [(&'static str, String); 4] {
    let networks: Vec<String> = permissions.allow_from.iter().map(Cidr::to_string).collect();
    let sources = if networks.is_empty() { "any source".to_owned() } else { networks.join(", ") };
    let connections = match permissions.connections {
        Some(most) => format!("at most {most}"),
        None => "at most half of the plan's".to_owned(),
    };
    [
        ("scopes", permissions.scopes.to_string()),
        ("keys", keys(permissions)),
        ("sources", sources),
        ("connections", connections),
    ]
}

/// The allowed keys: `all`, or the prefix followed by `...`.
pub(super) fn keys(permissions: &Permissions) -> String {
    permissions.prefix.as_ref().map_or("all".to_owned(), |prefix| format!("{}...", prefix.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_options_name_the_fix() {
        for (error, words) in [
            (parse_scopes("read,admin").err(), "use read, write, flush or stats"),
            (parse_scopes(" , ").err(), "use some of"),
            (parse_expiry("0s").err(), "12h"),
            (parse_expiry("tomorrow").err(), "write it like 90s"),
            (parse_source("10.0.0.1/8").err(), "write 10.0.0.0/8, or 10.0.0.1"),
            (parse_connections("0").err(), "write a number from 1 on, or default"),
            (parse_source("here").err(), "write it like 10.0.0.0/8"),
        ] {
            let error = error.unwrap();
            assert!(error.contains(words), "{error}");
        }
        let mixed = [SourceArg::Any, SourceArg::Network("::1".parse().unwrap())];
        let args = PermissionArgs {
            scope: None,
            prefix: None,
            expires: None,
            allow_from: mixed.into(),
            connections: None,
        };
        assert!(args.check().is_err());
    }
}
