//! Code that connects to a cache, for each library: the files of `snippets/` with their placeholders replaced.

pub(crate) mod catalogue;
mod placeholders;

use self::catalogue::{Group, Library, STUNNEL, STUNNEL_CERTIFICATE};
use self::placeholders::fill;
use super::endpoint::{Credentials, Endpoint};

/// Where stunnel listens for a library that has no TLS.
const STUNNEL_PORT: u16 = 11210;

/// How to connect with one library.
pub(crate) struct Snippet {
    /// For element ids and addresses.
    pub(crate) id: &'static str,
    pub(crate) group: &'static Group,
    pub(crate) library: &'static Library,
    /// The best one comes first.
    pub(crate) variants: Vec<Variant>,
    /// What to do with the cache, if the other code is configuration.
    pub(crate) usage: Option<String>,
}

/// One way to connect.
pub(crate) struct Variant {
    pub(crate) way: Way,
    pub(crate) code: String,
    /// A configuration of stunnel, which must run first.
    pub(crate) stunnel: Option<String>,
}

/// How a connection is protected, and who says whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// TLS and a login.
    Tls,
    /// TLS, and a client certificate in place of a login.
    Certificate,
    /// A login, through stunnel on the same machine.
    Stunnel,
    /// stunnel on the same machine, which has a client certificate.
    StunnelCertificate,
    /// A login without TLS.
    Plain,
}

impl Way {
    /// For element ids.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Certificate => "certificate",
            Self::Stunnel => "stunnel",
            Self::StunnelCertificate => "stunnel-certificate",
            Self::Plain => "plain",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Tls => "With TLS",
            Self::Certificate => "With TLS and a client certificate",
            Self::Stunnel => "With TLS, through stunnel",
            Self::StunnelCertificate => "Through stunnel, with a client certificate",
            Self::Plain => "Without TLS",
        }
    }
}

impl Snippet {
    /// `None` if the library can't connect without TLS, and the service has none.
    pub(crate) fn new(
        (group, library): (&'static Group, &'static Library),
        endpoint: &Endpoint,
        credentials: &Credentials,
        has_tls: bool,
    ) -> Option<Self> {
        let with = |way, text: &str| Variant { way, code: fill(text, endpoint, credentials), stunnel: None };
        let mut variants = Vec::new();
        if has_tls {
            variants.extend(library.tls.map(|text| with(Way::Tls, text)));
            variants.extend(library.certificate.map(|text| with(Way::Certificate, text)));
            let through = |way, text: &str, stunnel: &str| Variant {
                way,
                code: fill(text, &Endpoint::local(STUNNEL_PORT), credentials),
                stunnel: Some(fill(stunnel, endpoint, credentials)),
            };
            let plain = library.plain.filter(|_| variants.is_empty());
            variants.extend(plain.map(|text| through(Way::Stunnel, text, STUNNEL)));
            let bare = library.without_login;
            variants.extend(bare.map(|text| through(Way::StunnelCertificate, text, STUNNEL_CERTIFICATE)));
        }
        variants.extend(library.plain.map(|text| with(Way::Plain, text)));
        let usage = library.usage.map(|text| fill(text, endpoint, credentials));
        (!variants.is_empty()).then_some(Self { id: &library.id, group, library, variants, usage })
    }

    /// One for each language and framework.
    pub(crate) fn of_each_group(endpoint: &Endpoint, credentials: &Credentials, has_tls: bool) -> Vec<Self> {
        let first = |group: &'static Group| {
            group.available(has_tls).find_map(|it| Self::new((group, it), endpoint, credentials, has_tls))
        };
        catalogue::groups().iter().filter_map(first).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all(endpoint: &str, has_tls: bool) -> Vec<Snippet> {
        let (endpoint, credentials) = (Endpoint::parse(endpoint).unwrap(), Credentials::placeholders());
        let libraries =
            catalogue::groups().iter().flat_map(|group| group.libraries.iter().map(move |it| (group, it)));
        libraries.filter_map(|it| Snippet::new(it, &endpoint, &credentials, has_tls)).collect()
    }

    #[test]
    fn every_placeholder_is_replaced() {
        for snippet in all("cache.example.com:11999", true) {
            for Variant { way, code, stunnel } in &snippet.variants {
                let place = format!("{} {way:?}", snippet.id);
                let expected: &[&str] = match way {
                    Way::Tls => {
                        &["cache.example.com", "11999", "memgate-ca.pem", "YOUR_USERNAME", "YOUR_PASSWORD"]
                    }
                    Way::Certificate => {
                        &["cache.example.com", "11999", "memgate-ca.pem", "client.pem", "client.key"]
                    }
                    Way::Stunnel => &["127.0.0.1", "11210", "YOUR_USERNAME", "YOUR_PASSWORD"],
                    Way::StunnelCertificate => &["127.0.0.1", "11210"],
                    Way::Plain => &["cache.example.com", "11999", "YOUR_USERNAME", "YOUR_PASSWORD"],
                };
                for part in expected {
                    assert!(code.contains(part), "{place}: no {part} in {code}");
                }
                for text in [Some(code), stunnel.as_ref(), snippet.usage.as_ref()].into_iter().flatten() {
                    let capitals = |part: &str| {
                        !part.is_empty() && part.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
                    };
                    assert!(!text.split('@').skip(1).any(capitals), "{place}: {text}");
                }
                let parts: &[&str] = match way {
                    Way::Stunnel => &["cache.example.com:11999", "memgate-ca.pem"],
                    Way::StunnelCertificate => &[
                        "cache.example.com:11999",
                        "memgate-ca.pem",
                        "cert = client.pem",
                        "key = client.key",
                    ],
                    _ => &[],
                };
                let stunnel = stunnel.as_deref().unwrap_or_default();
                assert!(parts.iter().all(|part| stunnel.contains(part)), "{place}: {stunnel}");
                assert_eq!(stunnel.is_empty(), parts.is_empty(), "{place}");
            }
            let mentions_hello = snippet.usage.as_ref().unwrap_or(&snippet.variants[0].code);
            assert!(mentions_hello.contains("hello") && mentions_hello.contains("world"), "{}", snippet.id);
        }
    }

    #[test]
    fn addresses_of_version_6_are_in_brackets_before_a_port_only() {
        for snippet in all("[2001:db8::7]:11999", true) {
            for Variant { code, stunnel, way } in &snippet.variants {
                let code = stunnel.as_ref().unwrap_or(code);
                let bare = code.replace("[2001:db8::7]:11999", "");
                assert!(
                    !bare.contains("7:11999") && !bare.contains("[2001"),
                    "{} {way:?}: {code}",
                    snippet.id
                );
                assert!(code.contains("2001:db8::7"), "{} {way:?}: {code}", snippet.id);
            }
        }
    }

    #[test]
    fn the_name_or_the_address_of_the_endpoint_is_checked() {
        for (endpoint, shell, stunnel) in [
            ("cache.example.com:1", "-verify_hostname cache.example.com", "checkHost = cache.example.com"),
            ("192.0.2.7:1", "-verify_ip 192.0.2.7", "checkIP = 192.0.2.7"),
            ("[::1]:1", "-verify_ip ::1", "checkIP = ::1"),
        ] {
            let snippets = all(endpoint, true);
            let variant = |id: &str| &snippets.iter().find(|it| it.id == id).unwrap().variants[0];
            assert!(variant("shell-printf").code.contains(shell), "{endpoint}");
            assert!(variant("php-memcached").stunnel.as_ref().unwrap().contains(stunnel), "{endpoint}");
        }
    }

    #[test]
    fn tls_comes_first_and_nothing_needs_it_where_there_is_none() {
        for snippet in all("127.0.0.1:1", true) {
            assert_ne!(snippet.variants[0].way, Way::Plain, "{}", snippet.id);
        }
        let plain = all("127.0.0.1:1", false);
        assert!(plain.iter().all(|it| it.variants.iter().all(|it| it.way == Way::Plain)));
        let ids: BTreeSet<_> = plain.iter().map(|it| it.id).collect();
        assert!(ids.contains("php-memcached") && !ids.contains("ruby-dalli5"), "{ids:?}");
        assert!(!ids.contains("node-memcached"), "{ids:?}");
    }

    #[test]
    fn each_group_has_one_on_the_page_of_a_new_token() {
        let (endpoint, credentials) = (Endpoint::local(1), Credentials::placeholders());
        for has_tls in [true, false] {
            let snippets = Snippet::of_each_group(&endpoint, &credentials, has_tls);
            assert_eq!(snippets.len(), catalogue::groups().len());
        }
    }
}
