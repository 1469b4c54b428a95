//! Permissions of a token as people write them, in a form or on the command line.

use std::time::Duration;

use store::{Cidr, KeyPrefix, Permissions, Scopes};

use crate::InputError;

/// Scopes of a token, from their names with commas between them.
///
/// # Errors
///
/// [`InputError`] for an unknown scope, or if there is none.
pub fn parse_scopes(text: &str) -> Result<Scopes, InputError> {
    require_scope(
        text.parse().map_err(|error: store::ParseScopesError| InputError::from_parse_error(&error))?,
    )
}

/// Rejects an empty set: a token without scopes could do nothing.
///
/// # Errors
///
/// [`InputError`] if there is no scope.
pub fn require_scope(scopes: Scopes) -> Result<Scopes, InputError> {
    if scopes == Scopes::NONE {
        return Err(InputError::new(
            "A token needs at least one scope",
            format!("Choose from {}", Scopes::ALL.list(" and ")),
        ));
    }
    Ok(scopes)
}

/// Lifetime of a token, like `12h`, `30d` or `8w`.
///
/// # Errors
///
/// [`InputError`] if the text isn't a duration, or is zero.
///
/// ```
/// assert_eq!(identity::permissions_text::parse_lifetime("1d"), Ok(std::time::Duration::from_hours(24)));
/// assert!(identity::permissions_text::parse_lifetime("0s").is_err());
/// ```
pub fn parse_lifetime(text: &str) -> Result<Duration, InputError> {
    match store::parse_duration(text) {
        Ok(lifetime) if lifetime.is_zero() => {
            Err(InputError::new("A token can't expire at once", "Write a time like 12h, 30d or 8w"))
        }
        Ok(lifetime) => Ok(lifetime),
        Err(error) => Err(InputError::from_parse_error(&error)),
    }
}

/// Prefix that a token's keys must begin with; `None` if the text is empty.
///
/// # Errors
///
/// [`InputError`] if no key can begin with it.
pub fn parse_key_prefix(text: &str) -> Result<Option<KeyPrefix>, InputError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        InputError::new("No key begins like this", "Use 1 to 200 bytes without spaces and control characters")
    })
}

/// Networks with white space or commas between them.
///
/// # Errors
///
/// [`InputError`] if one of them isn't a network, or if there are more than 32.
pub fn parse_networks(text: &str) -> Result<Vec<Cidr>, InputError> {
    let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
    let networks = words.map(str::parse).collect::<Result<Vec<Cidr>, store::ParseCidrError>>();
    check_networks(networks.map_err(|error| InputError::from_parse_error(&error))?)
}

/// Limits the number of networks.
///
/// # Errors
///
/// [`InputError`] if there are more than 32.
pub fn check_networks(networks: Vec<Cidr>) -> Result<Vec<Cidr>, InputError> {
    Permissions::networks(networks)
        .map_err(|_| InputError::new("There are too many networks", "Name at most 32"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_fix() {
        for (error, fix) in [
            (parse_scopes("read,admin").err(), "read, write, flush or stats"),
            (parse_scopes(" , ").err(), "Choose from"),
            (parse_lifetime("0s").err(), "12h"),
            (parse_lifetime("tomorrow").err(), "Write it like 90s"),
            (parse_networks("10.0.0.1/8").err(), "Write 10.0.0.0/8, or 10.0.0.1"),
            (parse_networks("here").err(), "Write it like 10.0.0.0/8"),
            (parse_key_prefix("a b").err(), "without spaces"),
        ] {
            let error = error.unwrap();
            assert!(error.fix.contains(fix), "{error}");
        }
    }

    #[test]
    fn networks_are_separated_by_spaces_or_commas() {
        assert_eq!(parse_networks("10.0.0.0/8,\r\n ::1").unwrap().len(), 2);
        assert_eq!(parse_networks(" , ").unwrap(), []);
        let many: Vec<String> = (0..33).map(|i| format!("10.0.0.{i}")).collect();
        assert!(parse_networks(&many.join(" ")).is_err());
    }
}
