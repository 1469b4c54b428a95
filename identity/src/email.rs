//! E-mail addresses, which users sign in with.

use std::fmt;

use crate::InputError;

/// Bytes of a whole address (RFC 5321 4.5.3.1.3, less the angle brackets).
const ADDRESS_MAX: usize = 254;
/// Bytes before the `@` (RFC 5321 4.5.3.1.1).
const LOCAL_PART_MAX: usize = 64;
/// Bytes between two dots of the domain (RFC 1035 2.3.4).
const LABEL_MAX: usize = 63;

/// An e-mail address in lower case.
///
/// ```
/// let email = identity::Email::parse(" Ada@Example.org ").unwrap();
/// assert_eq!(email.as_str(), "ada@example.org");
/// assert!(identity::Email::parse("ada@localhost").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Email(String);

impl Email {
    /// Parses what HTML's `type=email` accepts, and also requires a dot in the domain.
    ///
    /// # Errors
    ///
    /// [`InputError`] if the text is empty, too long or not an address.
    pub fn parse(text: &str) -> Result<Self, InputError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InputError::new("The e-mail address is missing", "Enter your e-mail address"));
        }
        if text.len() > ADDRESS_MAX {
            return Err(InputError::new(
                "This e-mail address is too long",
                "Use an address of at most 254 characters",
            ));
        }
        let invalid = || InputError::new("This is not an e-mail address", "Write it like name@example.com");
        let (local, domain) = text.rsplit_once('@').ok_or_else(invalid)?;
        if is_local_part(local) && domain.contains('.') && domain.split('.').all(is_label) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(invalid())
        }
    }

    /// The address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_local_part(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&b);
    (1..=LOCAL_PART_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_MAX).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_lowercased() {
        for good in ["a@b.co", "First.Last+tag@Example.com", " a@b.co ", "x_y!#$%&'*/=?^`{|}~-@a-b.example"] {
            assert!(Email::parse(good).is_ok(), "{good}");
        }
        assert_eq!(Email::parse("A@B.Co").unwrap().as_str(), "a@b.co");
        let long_local = format!("{}@example.com", "a".repeat(65));
        let long_address = format!("a@{}com", "a.".repeat(130));
        let incomplete =
            ["", " ", "a", "@", "a@", "@b.co", "a@b", "a b@c.de", "a@b..co", "a@-b.co", "a@b-.co", "a@b.co."];
        let hostile = [
            "a@b@c.de",
            "a\0@b.co",
            "ä@b.co",
            "a@bücher.de",
            "\"><script>@b.co",
            "a@b.co\u{202e}",
            "a,b@c.de",
        ];
        let long = [long_local.as_str(), long_address.as_str()];
        for bad in incomplete.into_iter().chain(hostile).chain(long) {
            assert!(Email::parse(bad).is_err(), "{bad}");
        }
    }
}
