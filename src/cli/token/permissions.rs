//! What a token may do, as it is written on the command line and read in a list.

use store::{Cidr, KeyPrefix, Millis, Permissions, Scopes, TokenRow};

use crate::output::CliError;
use crate::output::table;

/// The options that `create` and `update` have in common.
#[derive(Debug, clap::Args)]
pub(crate) struct PermissionArgs {
    /// What it may do: some of read, write, flush, stats, with commas between them
    #[arg(long, value_name = "SCOPES", value_parser = scopes)]
    scope: Option<Scopes>,
    /// Only keys that begin with this
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<KeyPrefix>,
    /// How long it is good from now on, like 12h, 30d or 8w; or never
    #[arg(long, value_name = "TIME", value_parser = end)]
    expires: Option<End>,
    /// Only from this network (may be repeated); or any
    #[arg(long, value_name = "CIDR", value_parser = origin)]
    allow_from: Vec<Origin>,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Never,
    In(Millis),
}

#[derive(Debug, Clone, Copy)]
enum Origin {
    Anywhere,
    Net(Cidr),
}

fn scopes(text: &str) -> Result<Scopes, String> {
    let scopes: Scopes = text.parse().map_err(|error: store::ParseScopesError| error.to_string())?;
    let none = || "a token must be good for something: take some of read, write, flush, stats".to_owned();
    if scopes == Scopes::NONE { Err(none()) } else { Ok(scopes) }
}

fn end(text: &str) -> Result<End, String> {
    match text {
        "never" => Ok(End::Never),
        _ => match store::span(text) {
            Ok(0) => Err("it would end at once: write a time like 12h, 30d or 8w, or never".to_owned()),
            Ok(span) => Ok(End::In(span)),
            Err(error) => Err(format!("{error}, or never")),
        },
    }
}

fn origin(text: &str) -> Result<Origin, String> {
    match text {
        "any" => Ok(Origin::Anywhere),
        _ => text.parse().map(Origin::Net).map_err(|error: store::ParseCidrError| format!("{error}, or any")),
    }
}

impl PermissionArgs {
    /// Whether nothing was said.
    pub(super) fn is_empty(&self) -> bool {
        self.scope.is_none() && self.prefix.is_none() && self.expires.is_none() && self.allow_from.is_empty()
    }

    /// Changes what was said, and leaves the rest as it is.
    pub(super) fn change(self, permissions: &mut Permissions, now: Millis) {
        if !self.allow_from.is_empty() {
            permissions.allow_from = self.nets();
        }
        if let Some(scopes) = self.scope {
            permissions.scopes = scopes;
        }
        if let Some(prefix) = self.prefix {
            permissions.prefix = Some(prefix);
        }
        match self.expires {
            None => {}
            Some(End::Never) => permissions.expires_at = None,
            Some(End::In(span)) => permissions.expires_at = Some(now.saturating_add(span)),
        }
    }

    /// What can be wrong with all of the options together.
    pub(super) fn check(&self) -> Result<(), CliError> {
        let nets = self.nets();
        if !nets.is_empty() && nets.len() < self.allow_from.len() {
            return Err(CliError::usage(
                "--allow-from any stands beside networks",
                "name the networks, or write any alone",
            ));
        }
        Permissions::networks(nets).map(drop).map_err(|error| CliError::from_error(&error))
    }

    fn nets(&self) -> Vec<Cidr> {
        let nets = self.allow_from.iter().filter_map(|origin| match origin {
            Origin::Anywhere => None,
            Origin::Net(net) => Some(*net),
        });
        nets.collect()
    }
}

/// Whether it is good, and until when.
pub(super) fn state(token: &TokenRow, now: Millis) -> String {
    match (token.revoked_at, token.permissions.expires_at) {
        (Some(at), _) => format!("revoked {}", table::ago(at)),
        (None, Some(at)) if !token.permissions.is_current(now) => format!("expired {}", table::ago(at)),
        (None, Some(at)) => format!("ends {}", table::ahead(at)),
        (None, None) => "good".to_owned(),
    }
}

/// The lines about its permissions.
pub(super) fn pairs(permissions: &Permissions) -> [(&'static str, String); 3] {
    let nets: Vec<String> = permissions.allow_from.iter().map(Cidr::to_string).collect();
    let from = if nets.is_empty() { "anywhere".to_owned() } else { nets.join(", ") };
    [("scopes", permissions.scopes.to_string()), ("keys", keys(permissions)), ("from", from)]
}

/// The keys that it may use.
pub(super) fn keys(permissions: &Permissions) -> String {
    permissions.prefix.as_ref().map_or("all".to_owned(), |prefix| format!("{}...", prefix.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_told_with_the_way_to_fix_it() {
        for (error, words) in [
            (scopes("read,admin").err(), "take some of read, write, flush, stats"),
            (scopes(" , ").err(), "take some of"),
            (end("0s").err(), "12h"),
            (end("tomorrow").err(), "write it like 90s"),
            (origin("10.0.0.1/8").err(), "write 10.0.0.0/8, or 10.0.0.1"),
            (origin("here").err(), "write it like 10.0.0.0/8"),
        ] {
            let error = error.unwrap();
            assert!(error.contains(words), "{error}");
        }
        let mixed = [Origin::Anywhere, Origin::Net("::1".parse().unwrap())];
        let args = PermissionArgs { scope: None, prefix: None, expires: None, allow_from: mixed.into() };
        assert!(args.check().is_err());
    }
}
