//! Code snippets that connect to the endpoint, in five languages.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

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
    pub(crate) username: String,
    pub(crate) password: String,
}

/// Snippet for one language.
pub(crate) struct Snippet {
    /// For element ids.
    pub(crate) id: &'static str,
    pub(crate) language: &'static str,
    pub(crate) library: &'static str,
    /// Shell command that installs the library; empty if there is nothing to install.
    pub(crate) install: &'static str,
    pub(crate) code: String,
    pub(crate) tls: Tls,
}

/// The snippet over TLS, with the CA certificate in `memgate-ca.pem`.
pub(crate) enum Tls {
    Code(String),
    /// The library can't speak TLS: what to do instead.
    None(&'static str),
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
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Credentials {
    /// Stand-ins for credentials that aren't known.
    pub(crate) fn placeholders() -> Self {
        Self { username: "YOUR_USERNAME".into(), password: "YOUR_PASSWORD".into() }
    }
}

/// One snippet per language. The shell comes first: it needs nothing installed.
pub(crate) fn all(endpoint: &Endpoint, credentials: &Credentials) -> [Snippet; 5] {
    [
        shell(endpoint, credentials),
        python(endpoint, credentials),
        php(endpoint, credentials),
        ruby(endpoint, credentials),
        go(endpoint, credentials),
    ]
}

/// Text login: the value's 49 bytes are a username (15), a space and a password (33).
fn shell(endpoint: &Endpoint, Credentials { username, password }: &Credentials) -> Snippet {
    let Endpoint { host, port } = endpoint;
    let piped_to = |pipe: &str| {
        format!(
            r"printf 'set auth 0 0 49\r\n%s %s\r\nset hello 0 60 5\r\nworld\r\nget hello\r\nquit\r\n' \
  '{username}' '{password}' | {pipe}"
        )
    };
    // Without these options openssl reports a bad certificate, but goes on.
    let name = if host.parse::<IpAddr>().is_ok() { "ip" } else { "hostname" };
    let tls = Tls::Code(piped_to(&format!(
        "openssl s_client -quiet -connect {endpoint} \\\n  -CAfile memgate-ca.pem -verify_return_error -verify_{name} {host}"
    )));
    let code = piped_to(&format!("nc {host} {port}"));
    Snippet { id: "shell", language: "Shell", library: "printf and nc", install: "", code, tls }
}

fn python(endpoint: &Endpoint, Credentials { username, password }: &Credentials) -> Snippet {
    let usage = r#"cache.set("hello", "world", time=60)
print(cache.get("hello"))"#;
    let code = format!(
        r#"import bmemcached

cache = bmemcached.Client("{endpoint}", "{username}", "{password}")
{usage}"#
    );
    let tls = format!(
        r#"import ssl
import bmemcached

tls = ssl.create_default_context(cafile="memgate-ca.pem")
cache = bmemcached.Client("{endpoint}", "{username}", "{password}", tls_context=tls)
{usage}"#
    );
    let (library, install) = ("python-binary-memcached", "pip install python-binary-memcached");
    Snippet { id: "python", language: "Python", library, install, code, tls: Tls::Code(tls) }
}

fn php(Endpoint { host, port }: &Endpoint, Credentials { username, password }: &Credentials) -> Snippet {
    let code = format!(
        r#"<?php
$cache = new Memcached();
$cache->setOption(Memcached::OPT_BINARY_PROTOCOL, true);
$cache->setSaslAuthData("{username}", "{password}");
$cache->addServer("{host}", {port});

$cache->set("hello", "world", 60);
echo $cache->get("hello"), PHP_EOL;"#
    );
    let install = "sudo apt install php-memcached";
    let tls =
        Tls::None("The memcached extension doesn't speak TLS. Run stunnel on the same machine instead.");
    Snippet { id: "php", language: "PHP", library: "memcached extension", install, code, tls }
}

/// Dalli 4: version 5 has no SASL.
fn ruby(endpoint: &Endpoint, Credentials { username, password }: &Credentials) -> Snippet {
    let client = format!(
        r#"cache = Dalli::Client.new("{endpoint}", protocol: :binary,
                          username: "{username}", password: "{password}""#
    );
    let usage = r#"cache.set("hello", "world", 60)
puts cache.get("hello")"#;
    let code = format!("require \"dalli\"\n\n{client})\n{usage}");
    let tls = format!(
        r#"require "dalli"
require "openssl"

tls = OpenSSL::SSL::SSLContext.new
tls.set_params(ca_file: "memgate-ca.pem")
{client}, ssl_context: tls)
{usage}"#
    );
    let install = "gem install dalli -v '~> 4.3'";
    Snippet { id: "ruby", language: "Ruby", library: "dalli 4", install, code, tls: Tls::Code(tls) }
}

fn go(endpoint: &Endpoint, Credentials { username, password }: &Credentials) -> Snippet {
    let code = format!(
        r#"package main

import (
	"fmt"
	"log"

	"github.com/memcachier/mc/v3"
)

func main() {{
	cache := mc.NewMC("{endpoint}", "{username}", "{password}")
	defer cache.Quit()

	if _, err := cache.Set("hello", "world", 0, 60, 0); err != nil {{
		log.Fatal(err)
	}}
	value, _, _, err := cache.Get("hello")
	if err != nil {{
		log.Fatal(err)
	}}
	fmt.Println(value)
}}"#
    );
    let install = "go get github.com/memcachier/mc/v3";
    let tls = Tls::None("memcachier/mc doesn't speak TLS. Run stunnel on the same machine instead.");
    Snippet { id: "go", language: "Go", library: "memcachier/mc", install, code, tls }
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
    fn every_snippet_names_host_port_and_credentials() {
        let endpoint = Endpoint::parse("[::1]:11999").unwrap();
        let credentials = Credentials { username: "mg_abc".into(), password: "s3cret".into() };
        for snippet in all(&endpoint, &credentials) {
            for expected in ["::1", "11999", "mg_abc", "s3cret"] {
                assert!(snippet.code.contains(expected), "{} has no {expected}", snippet.id);
                if let Tls::Code(code) = &snippet.tls {
                    assert!(code.contains(expected), "{} with TLS has no {expected}", snippet.id);
                }
            }
        }
    }

    #[test]
    fn a_text_login_is_49_bytes() {
        let token = store::Token::generate();
        assert_eq!(token.id().username().len() + 1 + token.secret().reveal().len(), 49);
    }
}
