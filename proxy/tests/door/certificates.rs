//! Client certificates: who shows one that was issued for a token, and holds its key, is in without a word.

use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, SignatureScheme, SupportedProtocolVersion, version,
};
use store::{Fingerprint, Scopes, Token, now};

use super::door::{Door, pair, sasl, set};
use super::memcached::Memcached;
use super::tls::{Secured, ask, connect, open, until};
use super::usage::metrics;
use super::{UNAVAILABLE, statuses};

const UNAUTHENTICATED: &[u8] = b"CLIENT_ERROR unauthenticated\r\n";
const HOUR: i64 = 3_600_000;
const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&version::TLS12], &[&version::TLS13]];

/// What a client shows: a chain, and a signature by a key that needn't be the chain's.
struct Papers {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Papers {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([]).unwrap().self_signed(&key).unwrap();
        Self { chain: vec![certificate.der().clone()], key }
    }

    /// Issued for a token, until then.
    fn issued(door: &Door, token: &Token, not_after: i64) -> Self {
        let papers = Self::new();
        papers.issue(door, token, not_after);
        papers
    }

    fn issue(&self, door: &Door, token: &Token, not_after: i64) {
        let id = token.id();
        let issued = door.store.add_certificate(&id, Fingerprint::of(&self.chain[0]), not_after);
        door.runtime.block_on(issued).unwrap();
    }

    fn config(
        &self,
        door: &CertificateDer<'static>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(door.clone()).unwrap();
        let provider = ring::default_provider();
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        let key = provider.key_provider.load_private_key(key.into()).unwrap();
        let shown = Shown(Arc::new(CertifiedKey::new(self.chain.clone(), key)));
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(versions).unwrap();
        Arc::new(builder.with_root_certificates(roots).with_client_cert_resolver(Arc::new(shown)))
    }
}

/// rustls' own would look whether certificate and key fit.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn ends_within_a_second(client: &mut Secured, asked: &[u8]) {
    let begun = Instant::now();
    // Asked or not, the connection ends; the goodbye may be missing.
    let _ = client.write_all(asked).and_then(|()| client.flush());
    let mut said = Vec::new();
    let ended = client.read_to_end(&mut said);
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() != ErrorKind::WouldBlock));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn who_shows_one_is_in() {
    let (door, ours) = open();
    let (token, other) = (door.sign_up("ann@example.com"), door.sign_up("bob@example.com"));
    let _memcached = Memcached::start(&door, &token, "10.214.7.120");
    let papers = Papers::issued(&door, &token, now() + HOUR);
    for versions in VERSIONS {
        let config = papers.config(&ours, versions);
        let mut text = connect(&door, &config);
        ask(&mut text, b"set a 0 0 1\r\n1\r\nget a\r\n", b"STORED\r\nVALUE a 0 1\r\n1\r\nEND\r\n");
        ask(&mut connect(&door, &config), b"mg a v\r\n", b"VA 1\r\n1\r\n");
        ask(&mut connect(&door, &config), b"mn\r\n", b"MN\r\n");
        // A login all the same, by any token of the user's: said to be stored, and not stored.
        let login = set("auth", &pair(&token));
        let mut client = connect(&door, &config);
        ask(&mut client, b"delete auth\r\n", b"NOT_FOUND\r\n");
        ask(&mut client, format!("{login}get auth\r\n").as_bytes(), b"STORED\r\nEND\r\n");
        ask(&mut connect(&door, &config), format!("{login}mn\r\n").as_bytes(), b"STORED\r\nMN\r\n");
        ask(&mut connect(&door, &config), b"get auth\r\n", b"END\r\n");

        // Binary clients needn't log in, and may; a bad login drops the good one.
        let get = sasl(0x00, "a", "");
        let plain = |user: &Token, secret: &Token| {
            sasl(0x21, "PLAIN", &format!("\0{}\0{}", user.id().username(), secret.secret().reveal()))
        };
        for (messages, expected) in [
            (vec![get.clone()], vec![0]),
            (vec![sasl(0x20, "", ""), get.clone()], vec![0, 0]),
            (vec![plain(&token, &token), get.clone()], vec![0, 0]),
            (vec![plain(&token, &other), get.clone()], vec![0x20, 0x20]),
            // As whom it logs in, that it is: with no memcached, in this case.
            (vec![plain(&other, &other), get.clone()], vec![0, 0x86]),
        ] {
            let mut client = connect(&door, &config);
            client.write_all(&[messages.concat(), sasl(0x07, "", "")].concat()).unwrap();
            client.flush().unwrap();
            let mut said = Vec::new();
            client.read_to_end(&mut said).unwrap();
            let mut got = statuses(&said);
            // Of the goodbye, if it came to that.
            got.truncate(expected.len());
            assert_eq!(got, expected);
        }
    }
}

#[test]
fn who_shows_another_is_a_stranger() {
    let (door, ours) = open();
    let token = door.sign_up("ann@example.com");
    let papers = Papers::new();
    for versions in VERSIONS {
        let config = papers.config(&ours, versions);
        let mut client = connect(&door, &config);
        ask(&mut client, b"get a\r\n", UNAUTHENTICATED);
        ask(&mut client, set("x", &pair(&token)).as_bytes(), b"STORED\r\n");
    }
    // It is told apart as soon as it has been issued.
    let config = papers.config(&ours, rustls::ALL_VERSIONS);
    papers.issue(&door, &token, now() + HOUR);
    until("it is in", || {
        let mut client = connect(&door, &config);
        client.write_all(b"get a\r\n").unwrap();
        let mut said = [0; UNAUTHENTICATED.len()];
        client.read_exact(&mut said).unwrap();
        said != UNAUTHENTICATED
    });
}

#[test]
fn a_certificate_without_its_key_is_worth_nothing() {
    let (door, ours) = open();
    let token = door.sign_up("ann@example.com");
    let good = Papers::issued(&door, &token, now() + HOUR);
    let stolen = Papers { key: KeyPair::generate().unwrap(), chain: good.chain.clone() };
    // More than anybody needs would be kept as long as the connection lives.
    let long = Papers { chain: vec![good.chain[0].clone(); 100], key: good.key };
    for papers in [stolen, long] {
        for versions in VERSIONS {
            let mut client = {
                let config = papers.config(&ours, versions);
                let name = "localhost".try_into().unwrap();
                let connection = rustls::ClientConnection::new(config, name).unwrap();
                rustls::StreamOwned::new(connection, door.call())
            };
            let mut said = Vec::new();
            let end = client.write_all(b"get a\r\n").and_then(|()| client.read_to_end(&mut said));
            let error = end.unwrap_err();
            assert!(
                error.to_string().contains("alert") || error.kind() == ErrorKind::ConnectionReset,
                "{error}"
            );
            assert!(said.is_empty());
        }
    }
}

#[test]
fn a_token_that_is_revoked_takes_its_certificates_along() {
    let (door, ours) = open();
    let token = door.sign_up("ann@example.com");
    for versions in VERSIONS {
        let token = {
            let new = store::NewToken::generate(&super::token_key(door.folder.path()), "spare");
            let owner = door.runtime.block_on(door.store.token(&token.id())).unwrap().unwrap().user_id;
            door.runtime.block_on(door.store.create_token(&owner, &new)).unwrap();
            new.token
        };
        let config = Papers::issued(&door, &token, now() + HOUR).config(&ours, versions);
        let mut busy = connect(&door, &config);
        ask(&mut busy, b"get a\r\n", UNAVAILABLE.as_bytes());
        let mut resumed = connect(&door, &config);
        ask(&mut resumed, b"get a\r\n", UNAVAILABLE.as_bytes());
        assert_eq!(resumed.conn.handshake_kind(), Some(HandshakeKind::Resumed));
        let mut silent = connect(&door, &config);

        door.runtime.block_on(door.store.revoke_token(&token.id())).unwrap();
        for client in [&mut busy, &mut resumed, &mut silent] {
            ends_within_a_second(client, b"");
        }
        let mut again = connect(&door, &config);
        ask(&mut again, b"get a\r\n", UNAUTHENTICATED);
        assert_eq!(again.conn.handshake_kind(), Some(HandshakeKind::Resumed));
    }
}

#[test]
fn a_certificate_opens_no_more_than_its_token() {
    let (door, ours) = open();
    let config = |papers: &Papers| papers.config(&ours, rustls::ALL_VERSIONS);
    let (over, elsewhere) = (door.sign_up("ann@example.com"), door.sign_up("bob@example.com"));
    let narrow = |token: &Token, change: fn(&mut store::Permissions)| {
        door.runtime.block_on(door.store.update_permissions(&token.id(), change)).unwrap();
    };
    // Its own end is in the store, whatever is written in it.
    let expired = Papers::issued(&door, &over, now());
    ask(&mut connect(&door, &config(&expired)), b"get a\r\n", UNAUTHENTICATED);
    let papers = Papers::issued(&door, &elsewhere, now() + HOUR);
    let mut client = connect(&door, &config(&papers));
    ask(&mut client, b"get a\r\n", UNAVAILABLE.as_bytes());
    narrow(&elsewhere, |permissions| permissions.scopes = Scopes::READ);
    let refused = b"CLIENT_ERROR access denied: needs write scope\r\n";
    until("writes are refused", || {
        client.write_all(b"delete a\r\n").unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            said.extend(byte);
        }
        said == refused
    });
    // A certificate's own end ends what it has opened.
    let brief = Papers::issued(&door, &elsewhere, now() + 1500);
    let mut guest = connect(&door, &config(&brief));
    ask(&mut guest, b"get a\r\n", UNAVAILABLE.as_bytes());
    let ended = guest.read_to_end(&mut Vec::new());
    assert!(!ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "it outlives its certificate");
    narrow(&elsewhere, |permissions| permissions.allow_from = vec!["192.0.2.0/24".parse().unwrap()]);
    ends_within_a_second(&mut client, b"");
    ask(&mut connect(&door, &config(&papers)), b"get a\r\n", UNAUTHENTICATED);
}

#[test]
fn who_is_known_may_be_silent_and_counts() {
    let (door, ours) = open();
    door.update_plan(|plan| plan.connections = 2);
    let token = door.sign_up("ann@example.com");
    let config = Papers::issued(&door, &token, now() + HOUR).config(&ours, rustls::ALL_VERSIONS);
    let mut first = connect(&door, &config);
    // It is known as soon as its client thinks that it is.
    until("it has its place", || {
        metrics(&door).contains("memgate_proxy_logins_total{outcome=\"success\"} 1\n")
    });
    let mut second = connect(&door, &config);
    ask(&mut second, b"get a\r\n", UNAVAILABLE.as_bytes());
    for (asked, expected) in [
        (b"get a\r\n".to_vec(), b"SERVER_ERROR too many connections\r\n".to_vec()),
        (
            sasl(0x0a, "", ""),
            [&b"\x81\x0a\0\0\0\0\0\x86\0\0\0\x11"[..], &[0; 12], b"Temporary failure"].concat(),
        ),
    ] {
        let mut third = connect(&door, &config);
        ask(&mut third, &asked, &expected);
        assert_eq!(third.read(&mut [0]).unwrap(), 0);
    }
    // Longer than a stranger may take to log in.
    first.sock.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
    let error = first.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    ask(&mut first, b"get a\r\n", UNAVAILABLE.as_bytes());
}
