//! Where clients connect, and what they log in with: values that need no quoting in any language.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use store::Token;

/// The proxy's address as users reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Without brackets.
    host: String,
    port: u16,
}

/// A username and its password. No `Debug`: that would print the password.
#[derive(Clone)]
pub(crate) struct Credentials {
    username: String,
    password: String,
}

impl Endpoint {
    /// Parses `host:port`. The host is a name, an IPv4 address or an IPv6 address in brackets; nothing else
    /// is accepted, so no language needs to quote it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().ok()?.to_string(),
            None => {
                let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
                let fits = !host.is_empty() && !host.starts_with('-') && host.bytes().all(allowed);
                fits.then(|| host.to_owned())?
            }
        };
        Some(Self { host, port })
    }

    /// A port of this machine.
    pub(crate) fn local(port: u16) -> Self {
        Self { host: "127.0.0.1".into(), port }
    }

    /// A name or an address, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether the host is an address, and not a name.
    pub(crate) fn is_address(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Credentials {
    pub(crate) fn of(token: &Token) -> Self {
        Self { username: token.id().username(), password: token.secret().reveal().to_owned() }
    }

    /// Stand-ins for credentials that aren't known.
    pub(crate) fn placeholders() -> Self {
        Self { username: "YOUR_USERNAME".into(), password: "YOUR_PASSWORD".into() }
    }

    pub(crate) fn username(&self) -> &str {
        &self.username
    }

    pub(crate) fn password(&self) -> &str {
        &self.password
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_parsed() {
        for (text, expected) in [
            ("127.0.0.1:11211", "127.0.0.1:11211"),
            ("cache.example.com:11212", "cache.example.com:11212"),
            ("[::1]:11211", "[::1]:11211"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), expected);
        }
        for bad in
            ["", "x", ":1", "x:", "x:0", "x:70000", "::1:11211", "a b:1", "a\"b:1", "a;b:1", "-x:1", "[x]:1"]
        {
            assert_eq!(Endpoint::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_text_login_is_49_bytes() {
        let credentials = Credentials::of(&Token::generate());
        assert_eq!(credentials.username.len() + 1 + credentials.password.len(), 49);
    }

    #[test]
    fn no_language_has_to_quote_credentials() {
        for credentials in [Credentials::of(&Token::generate()), Credentials::placeholders()] {
            for value in [credentials.username, credentials.password] {
                assert!(
                    value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'),
                    "{value}"
                );
            }
        }
    }
}
