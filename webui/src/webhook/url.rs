//! The URL of a webhook. It is read as browsers read it, so that every spelling of an address is the address.

use std::net::IpAddr;

use url::{Host, Url};

use super::address::Destinations;

/// Characters of a URL.
const LEN_MAX: usize = 500;

/// A URL that notifications may be sent to. What its name leads to is checked at each attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WebhookUrl {
    url: Url,
    /// Without the brackets of an IPv6 address.
    host: String,
}

/// Why a text is no URL of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
    #[error("This isn’t a URL. Write it like https://example.org/memgate.")]
    Shape,
    #[error("The URL is longer than 500 characters. Use a shorter one.")]
    TooLong,
    #[error("The URL must begin with https://, so that nobody reads what is sent.")]
    NotHttps,
    #[error("The URL has a user or a password. Leave them out: each request is signed.")]
    HasUser,
    #[error(
        "The URL’s address isn’t public. Use one that the internet can reach, or ask the operator to allow it."
    )]
    NotPublic,
}

impl WebhookUrl {
    /// Parses a URL. One without TLS may lead only where the operator allows private receivers.
    pub(crate) fn parse(text: &str, destinations: &Destinations) -> Result<Self, UrlError> {
        let text = text.trim();
        if text.len() > LEN_MAX {
            return Err(UrlError::TooLong);
        }
        let mut url = Url::parse(text).map_err(|_| UrlError::Shape)?;
        if !(url.scheme() == "https" || (url.scheme() == "http" && destinations.has_private())) {
            return Err(UrlError::NotHttps);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlError::HasUser);
        }
        url.set_fragment(None);
        if url.as_str().len() > LEN_MAX {
            return Err(UrlError::TooLong);
        }
        let (host, literal) = match url.host() {
            Some(Host::Domain(name)) => (name.trim_end_matches('.').to_owned(), None),
            Some(Host::Ipv4(address)) => (address.to_string(), Some(IpAddr::V4(address))),
            Some(Host::Ipv6(address)) => (address.to_string(), Some(IpAddr::V6(address))),
            None => return Err(UrlError::Shape),
        };
        if host.is_empty() || url.port() == Some(0) {
            return Err(UrlError::Shape);
        }
        if let Some(address) = literal {
            let is_admitted = if url.scheme() == "https" {
                destinations.admits_literal(address)
            } else {
                destinations.allows_private(address)
            };
            if !is_admitted {
                return Err(UrlError::NotPublic);
            }
        }
        Ok(Self { url, host })
    }

    /// The whole URL.
    pub(crate) fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// Its name or address.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(443)
    }

    pub(super) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// What a request's `Host` says.
    pub(super) fn authority(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Path and query.
    pub(super) fn target(&self) -> String {
        let query = self.url.query().map_or_else(String::new, |query| format!("?{query}"));
        format!("{}{query}", self.url.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<WebhookUrl, UrlError> {
        WebhookUrl::parse(text, &Destinations::default())
    }

    // W-28.
    #[test]
    fn every_spelling_of_a_private_address_is_refused() {
        for host in [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "0",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "017700000001",
            "0177.0.0.1",
            "0x7f.0x0.0x0.0x1",
            "127.0.0.1.",
            "%31%32%37.0.0.1",
            "１２７.0.0.1",
            "①②⑦.⓪.⓪.①",
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "[::1]",
            "[::]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:a9fe:a9fe]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "10.213.7.99",
            "192.168.0.1",
            "100.100.100.200",
            "255.255.255.255",
        ] {
            for port in ["", ":443", ":8443"] {
                let url = format!("https://{host}{port}/x");
                assert_eq!(parse(&url), Err(UrlError::NotPublic), "{url}");
            }
        }
    }

    // W-28.
    #[test]
    fn urls_are_https_without_a_user() {
        let url = parse(" HTTPS://Hooks.Example.org:8443/a/../b?x=1#part ").unwrap();
        assert_eq!(url.as_str(), "https://hooks.example.org:8443/b?x=1");
        assert_eq!(
            (url.host(), url.port(), url.authority().as_str()),
            ("hooks.example.org", 8443, "hooks.example.org:8443")
        );
        assert_eq!(url.target(), "/b?x=1");
        let url = parse("https://[2606:4700:4700::1111]").unwrap();
        assert_eq!(
            (url.host(), url.authority().as_str(), url.target().as_str()),
            ("2606:4700:4700::1111", "[2606:4700:4700::1111]", "/")
        );
        assert_eq!(parse("https://bücher.example/").unwrap().host(), "xn--bcher-kva.example");
        for (text, error) in [
            ("", UrlError::Shape),
            ("hooks.example.org", UrlError::Shape),
            ("//hooks.example.org/", UrlError::Shape),
            ("https://", UrlError::Shape),
            ("https://a b/", UrlError::Shape),
            ("https://example.org:0/", UrlError::Shape),
            ("https://example.org:65536/", UrlError::Shape),
            ("http://example.org/", UrlError::NotHttps),
            ("ftp://example.org/", UrlError::NotHttps),
            ("file:///etc/passwd", UrlError::NotHttps),
            ("gopher://example.org/", UrlError::NotHttps),
            ("javascript:alert(1)", UrlError::NotHttps),
            ("https://user@example.org/", UrlError::HasUser),
            ("https://user:password@example.org/", UrlError::HasUser),
            ("https://:password@example.org/", UrlError::HasUser),
            ("https://example.org@127.0.0.1/", UrlError::HasUser),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        assert_eq!(parse(&format!("https://example.org/{}", "x".repeat(481))), Err(UrlError::TooLong));
        // What a request would be split by is encoded or dropped.
        let url = parse("https://example.org/a\r\nX: y\t?b c").unwrap();
        assert_eq!(url.target(), "/aX:%20y?b%20c");
    }

    // W-28.
    #[test]
    fn plain_text_goes_to_networks_that_are_allowed() {
        let private = Destinations::new(vec!["10.0.0.0/8".parse().unwrap()]);
        assert!(WebhookUrl::parse("http://10.1.2.3:8080/", &private).is_ok());
        assert!(
            WebhookUrl::parse("http://hooks.internal/", &private).is_ok(),
            "its address is checked later"
        );
        assert_eq!(WebhookUrl::parse("http://8.8.8.8/", &private), Err(UrlError::NotPublic));
        assert_eq!(WebhookUrl::parse("https://192.168.0.1/", &private), Err(UrlError::NotPublic));
        assert!(WebhookUrl::parse("https://8.8.8.8/", &private).is_ok());
    }
}
