//! What people type, parsed: a value of these types has been checked. The errors say what to change.

/// As long as an address may be (RFC 5321 4.5.3.1.3, less the angle brackets).
const MOST_EMAIL: usize = 254;
/// RFC 5321 4.5.3.1.1.
const MOST_LOCAL_PART: usize = 64;
const MOST_LABEL: usize = 63;
const LEAST_PASSWORD: usize = 10;
const MOST_PASSWORD: usize = 256;
const MOST_NAME: usize = 60;

/// An e-mail address in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Email(String);

/// A password that is long enough. `Debug` says nothing.
pub(crate) struct Password(String);

/// What a token's owner calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenName(String);

impl Email {
    /// The shape that HTML's `type=email` asks for, with a dot in the domain.
    pub(crate) fn parse(typed: &str) -> Result<Self, &'static str> {
        let typed = typed.trim();
        if typed.is_empty() {
            return Err("Write your e-mail address.");
        }
        let wrong = "This is not an e-mail address. Write it like name@example.com.";
        if typed.len() > MOST_EMAIL {
            return Err("An e-mail address has at most 254 characters. Write a shorter one.");
        }
        let (local, domain) = typed.rsplit_once('@').ok_or(wrong)?;
        let in_local = |b: u8| b.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&b);
        let local_fits = (1..=MOST_LOCAL_PART).contains(&local.len()) && local.bytes().all(in_local);
        let domain_fits = domain.contains('.') && domain.split('.').all(is_label);
        if local_fits && domain_fits { Ok(Self(typed.to_ascii_lowercase())) } else { Err(wrong) }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label(label: &str) -> bool {
    (1..=MOST_LABEL).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

impl Password {
    /// 10 to 256 characters of any kind.
    pub(crate) fn parse(typed: String) -> Result<Self, &'static str> {
        match typed.chars().count() {
            0 => Err("Choose a password of at least 10 characters."),
            n if n < LEAST_PASSWORD => Err("This password is too short. Use at least 10 characters."),
            n if n > MOST_PASSWORD => Err("This password is too long. Use at most 256 characters."),
            _ => Ok(Self(typed)),
        }
    }

    pub(crate) fn into_inner(self) -> String {
        self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

impl TokenName {
    /// 1 to 60 characters, none of them a control character.
    pub(crate) fn parse(typed: &str) -> Result<Self, &'static str> {
        let typed = typed.trim();
        if !typed.chars().any(is_visible) {
            return Err("Give the token a name, such as the application that will use it.");
        }
        if typed.chars().count() > MOST_NAME {
            return Err("This name is too long. Use at most 60 characters.");
        }
        if typed.chars().any(char::is_control) {
            return Err("This name has a control character in it. Use letters, digits and signs.");
        }
        Ok(Self(typed.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Not white space, and none of the marks that only steer direction or join letters.
fn is_visible(c: char) -> bool {
    let steers = matches!(c, '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}');
    !c.is_whitespace() && !c.is_control() && !steers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["a@b.co", "First.Last+tag@Example.com", " a@b.co ", "x_y!#$%&'*/=?^`{|}~-@a-b.example"] {
            assert!(Email::parse(good).is_ok(), "{good}");
        }
        assert_eq!(Email::parse("A@B.Co").unwrap().as_str(), "a@b.co");
        let long = format!("{}@example.com", "a".repeat(65));
        let longer = format!("a@{}com", "a.".repeat(130));
        let bads =
            ["", " ", "a", "@", "a@", "@b.co", "a@b", "a b@c.de", "a@b..co", "a@-b.co", "a@b-.co", "a@b.co."];
        let odd = [
            "a@b@c.de",
            "a\0@b.co",
            "ä@b.co",
            "a@bücher.de",
            "\"><script>@b.co",
            "a@b.co\u{202e}",
            "a,b@c.de",
        ];
        for bad in bads.into_iter().chain(odd).chain([long.as_str(), longer.as_str()]) {
            assert!(Email::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn passwords() {
        for (length, good) in [(0, false), (9, false), (10, true), (256, true), (257, false)] {
            assert_eq!(Password::parse("x".repeat(length)).is_ok(), good, "{length}");
            assert_eq!(Password::parse("🦀".repeat(length)).is_ok(), good, "{length} crabs");
        }
        assert!(Password::parse("          ".into()).is_ok(), "any character is one");
        assert_eq!(format!("{:?}", Password::parse("correct horse".into()).unwrap()), "Password");
    }

    #[test]
    fn names() {
        for good in ["web", " web ", "\"><script>alert(1)</script>", "שלום", "🦀", "a\u{202e}b"] {
            assert!(TokenName::parse(good).is_ok(), "{good}");
        }
        let (most, more) = ("é".repeat(60), "é".repeat(61));
        assert!(TokenName::parse(&most).is_ok());
        for bad in ["", "   ", "\u{200b}\u{202e}", "a\nb", "a\0b", &more] {
            assert!(TokenName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
