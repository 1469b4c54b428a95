//! The form for a token's permissions, and their summary in lists.

use std::collections::HashMap;

use identity::{InputError, permissions_text};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use store::{Cidr, KeyPrefix, Permissions, Scopes, Timestamp};

use crate::view::date::minute_of;

/// Fields of the form as they were sent. A default form is one that wasn't filled in: it grants everything.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PermissionForm {
    /// Present if the form had the check boxes of the scopes, ticked or not.
    has_scopes: Option<String>,
    /// Scopes whose check box was ticked. The box has the name of its scope.
    #[serde(flatten, deserialize_with = "deserialize_ticked")]
    ticked: Scopes,
    pub(crate) prefix: String,
    /// Lifetime from now; [`KEEP`]; or empty for no expiry.
    expires: String,
    /// Networks with white space or commas between them.
    pub(crate) allow_from: String,
}

/// Choices for the expiry: the value that is sent, and its label.
pub(crate) const LIFETIMES: [(&str, &str); 6] = [
    ("", "never"),
    ("1d", "in a day"),
    ("7d", "in a week"),
    ("30d", "in 30 days"),
    ("90d", "in 90 days"),
    ("365d", "in a year"),
];

/// Value of the choice that leaves the expiry as it is.
const KEEP: &str = "keep";

/// Choices for the expiry of an existing token.
pub(crate) fn lifetimes(expires_at: Option<Timestamp>) -> Vec<(&'static str, String)> {
    let unchanged = expires_at
        .map_or_else(|| "never (unchanged)".to_owned(), |at| format!("{} (unchanged)", minute_of(at)));
    let others = LIFETIMES.into_iter().filter(|(value, _)| expires_at.is_some() || !value.is_empty());
    let others = others.map(|(value, label)| (value, label.to_owned()));
    [(KEEP, unchanged)].into_iter().chain(others).collect()
}

impl PermissionForm {
    /// The form filled in with a token's permissions: sent unchanged, it changes nothing.
    pub(crate) fn from_permissions(permissions: &Permissions) -> Self {
        let networks: Vec<String> = permissions.allow_from.iter().map(Cidr::to_string).collect();
        Self {
            has_scopes: Some("1".to_owned()),
            ticked: permissions.scopes,
            prefix: permissions.prefix.as_ref().map_or_else(String::new, |prefix| prefix.as_str().to_owned()),
            expires: KEEP.to_owned(),
            allow_from: networks.join(" "),
        }
    }

    /// Whether the whole form was sent. An edit requires it, so that missing fields never lift a restriction.
    pub(crate) fn is_complete(&self) -> bool {
        self.has_scopes.is_some()
    }

    /// The change that an edit makes to the token's permissions at the time of writing.
    ///
    /// # Errors
    ///
    /// [`InputError`] about the first invalid field.
    pub(crate) fn change(&self, now: Timestamp) -> Result<impl FnOnce(&mut Permissions) + use<>, InputError> {
        let keeps_expiry = self.expires == KEEP;
        let expires = if keeps_expiry { String::new() } else { self.expires.clone() };
        let chosen = Self { expires, ..self.clone() }.parse(now)?;
        Ok(move |permissions: &mut Permissions| {
            let expires_at = if keeps_expiry { permissions.expires_at } else { chosen.expires_at };
            // The form has no field for the connections.
            *permissions = Permissions { expires_at, connections: permissions.connections, ..chosen };
        })
    }

    /// The permissions of a new token.
    ///
    /// # Errors
    ///
    /// [`InputError`] about the first invalid field.
    pub(crate) fn parse(&self, now: Timestamp) -> Result<Permissions, InputError> {
        let (prefix, expires_at) = (self.prefix()?, self.expires_at(now)?);
        let allow_from = permissions_text::parse_networks(&self.allow_from);
        Ok(Permissions {
            scopes: self.scopes()?,
            prefix,
            expires_at,
            allow_from: allow_from?,
            connections: None,
        })
    }

    /// What is wrong with a field's value.
    pub(crate) fn error(&self, field: &str) -> Option<String> {
        let error = match field {
            "prefix" => self.prefix().err(),
            "expires" if self.expires == KEEP => None,
            "expires" => self.expires_at(Timestamp::EPOCH).err(),
            "allow_from" => permissions_text::parse_networks(&self.allow_from).err(),
            _ => self.scopes().err(),
        };
        error.map(|error| error.to_string())
    }

    /// Whether a field is the first one with an invalid value.
    pub(crate) fn has_first_error(&self, field: &str) -> bool {
        let fields = ["scopes", "prefix", "expires", "allow_from"];
        fields.into_iter().find(|it| self.error(it).is_some()) == Some(field)
    }

    /// The check boxes of the scopes: name, label, and whether the box is ticked. All are ticked in a form that wasn't
    /// sent yet.
    pub(crate) fn scope_boxes(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
        let is_new = self.has_scopes.is_none() && self.ticked == Scopes::NONE;
        let ticked = if is_new { Scopes::ALL } else { self.ticked };
        Scopes::ALL.each().map(move |scope| (scope.name(), scope.label(), ticked.contains(scope.into())))
    }

    /// Whether `value` is the chosen expiry.
    pub(crate) fn has_lifetime(&self, value: &str) -> bool {
        self.expires == value
    }

    fn prefix(&self) -> Result<Option<KeyPrefix>, InputError> {
        permissions_text::parse_key_prefix(&self.prefix)
    }

    fn expires_at(&self, now: Timestamp) -> Result<Option<Timestamp>, InputError> {
        match self.expires.trim() {
            "" => Ok(None),
            text => permissions_text::parse_lifetime(text)
                .map(|lifetime| Some(now.saturating_add(lifetime)))
                .map_err(|_| InputError::new("This isn't an expiry", "Choose one from the list")),
        }
    }

    fn scopes(&self) -> Result<Scopes, InputError> {
        match (self.ticked, &self.has_scopes) {
            (Scopes::NONE, None) => Ok(Scopes::ALL),
            (scopes, _) => permissions_text::require_scope(scopes),
        }
    }
}

/// Reads which scopes' boxes were ticked from all fields of the form: browsers send only ticked boxes.
fn deserialize_ticked<'de, D: Deserializer<'de>>(fields: D) -> Result<Scopes, D::Error> {
    let sent = HashMap::<String, IgnoredAny>::deserialize(fields)?;
    Ok(Scopes::ALL.each().filter(|scope| sent.contains_key(scope.name())).collect())
}

/// What a token's permissions restrict, one phrase each; empty if it has all permissions.
pub(crate) fn summary(permissions: &Permissions) -> Vec<String> {
    let mut phrases = Vec::new();
    if permissions.scopes != Scopes::ALL {
        phrases.push(format!("only {}", permissions.scopes.list(", ")));
    }
    phrases.extend(permissions.prefix.as_ref().map(|prefix| format!("keys {}…", prefix.as_str())));
    if !permissions.allow_from.is_empty() {
        let networks: Vec<String> = permissions.allow_from.iter().map(Cidr::to_string).collect();
        phrases.push(format!("from {}", networks.join(", ")));
    }
    phrases.extend(permissions.connections.map(|most| format!("at most {most} connections")));
    phrases.extend(permissions.expires_at.map(|at| format!("expires {}", minute_of(at))));
    phrases
}

#[cfg(test)]
mod tests {
    use serde::de::value::MapDeserializer;

    use super::*;

    fn ticked_boxes(form: &PermissionForm) -> Vec<&'static str> {
        form.scope_boxes().filter(|(_, _, ticked)| *ticked).map(|(name, _, _)| name).collect()
    }

    #[test]
    fn a_default_form_grants_everything() {
        assert_eq!(PermissionForm::default().parse(Timestamp::EPOCH), Ok(Permissions::ALL));
        assert!(ticked_boxes(&PermissionForm::default()).into_iter().eq(Scopes::ALL.names()));
        assert!(summary(&Permissions::ALL).is_empty());
    }

    #[test]
    fn every_scope_has_its_own_box() {
        for scope in Scopes::ALL.each() {
            let permissions = Permissions { scopes: scope.into(), ..Permissions::ALL };
            let form = PermissionForm::from_permissions(&permissions);
            assert_eq!(form.scopes(), Ok(permissions.scopes));
            assert_eq!(ticked_boxes(&form), [scope.name()]);
            let sent = [("prefix", ""), ("unknown", "on"), (scope.name(), "on")].into_iter();
            let sent = MapDeserializer::<_, serde::de::value::Error>::new(sent);
            let form = PermissionForm::deserialize(sent).unwrap();
            assert_eq!(form.scopes(), Ok(permissions.scopes));
        }
    }

    #[test]
    fn chosen_permissions_are_granted() {
        let form = PermissionForm {
            has_scopes: Some("1".to_owned()),
            ticked: Scopes::READ,
            prefix: " app: ".into(),
            expires: "1d".into(),
            allow_from: "10.0.0.0/8,\r\n ::1".into(),
        };
        let permissions = form.parse(Timestamp::from_millis(1000)).unwrap();
        assert_eq!(permissions.scopes, Scopes::READ);
        assert_eq!(permissions.expires_at, Some(Timestamp::from_millis(86_401_000)));
        assert_eq!(
            summary(&permissions),
            ["only read", "keys app:…", "from 10.0.0.0/8, ::1/128", "expires 2 Jan 1970, 00:00 UTC"]
        );
        assert_eq!(ticked_boxes(&form), ["read"]);
        for invalid in [
            PermissionForm { ticked: Scopes::NONE, ..form.clone() },
            PermissionForm { prefix: "a b".into(), ..form.clone() },
            PermissionForm { expires: "0s".into(), ..form.clone() },
            PermissionForm { expires: "soon".into(), ..form.clone() },
        ] {
            assert!(invalid.parse(Timestamp::EPOCH).is_err(), "{invalid:?}");
        }
        let mut edited = Permissions { expires_at: Some(Timestamp::from_millis(5)), ..Permissions::ALL };
        PermissionForm::from_permissions(&permissions).change(Timestamp::EPOCH).unwrap()(&mut edited);
        assert_eq!(
            edited,
            Permissions { expires_at: Some(Timestamp::from_millis(5)), ..permissions },
            "the expiry is kept"
        );
        let invalid = PermissionForm { allow_from: "10.0.0.1/8".into(), ..form };
        assert_eq!(
            invalid.parse(Timestamp::EPOCH).unwrap_err().to_string(),
            "10.0.0.1/8 has bits set after the prefix length. Write 10.0.0.0/8, or 10.0.0.1 for that one address."
        );
    }
}
