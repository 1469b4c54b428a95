//! Client certificates: a client whose certificate was issued for a token is authenticated by the TLS
//! handshake.

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
use store::{DenialCause, Fingerprint, Scopes, Timestamp, Token, now};

use super::connection::UNAVAILABLE;
use super::tls::{Secured, ask, connect, open, wait_until};
use testkit::{Memcached, TestProxy, binary, text, token_key};

const UNAUTHENTICATED: &[u8] = b"CLIENT_ERROR unauthenticated\r\n";
const HOUR: Duration = Duration::from_hours(1);
const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&version::TLS12], &[&version::TLS13]];

/// What a client presents: a certificate chain, and a signature by a key that needn't be the chain's.
struct ClientIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl ClientIdentity {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([]).unwrap().self_signed(&key).unwrap();
        Self { chain: vec![certificate.der().clone()], key }
    }

    /// Creates an identity whose certificate is issued for `token` and valid until `not_after`.
    fn issued(proxy: &TestProxy, token: &Token, not_after: Timestamp) -> Self {
        let identity = Self::new();
        identity.issue(proxy, token, not_after);
        identity
    }

    fn issue(&self, proxy: &TestProxy, token: &Token, not_after: Timestamp) {
        let id = token.id();
        let issued = proxy.store.add_certificate(&id, Fingerprint::of(&self.chain[0]), not_after, "");
        proxy.runtime.block_on(issued).unwrap();
    }

    fn config(
        &self,
        proxy: &CertificateDer<'static>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(proxy.clone()).unwrap();
        let provider = ring::default_provider();
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        let key = provider.key_provider.load_private_key(key.into()).unwrap();
        let shown = Shown(Arc::new(CertifiedKey::new(self.chain.clone(), key)));
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(versions).unwrap();
        Arc::new(builder.with_root_certificates(roots).with_client_cert_resolver(Arc::new(shown)))
    }
}

/// rustls' own resolver would refuse a key that doesn't fit the certificate.
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

fn ends_within_a_second(client: &mut Secured, requests: &[u8]) {
    let started = Instant::now();
    // The proxy closes the connection whether or not a request comes; the close_notify may be missing.
    let _ = client.write_all(requests).and_then(|()| client.flush());
    let mut reply = Vec::new();
    let ended = client.read_to_end(&mut reply);
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() != ErrorKind::WouldBlock));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

// D-11, D-14, S-14.
#[test]
fn certificate_authenticates_its_client() {
    let (proxy, ours) = open();
    let (token, other) = (proxy.sign_up("ann@example.com"), proxy.sign_up("bob@example.com"));
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.120");
    let identity = ClientIdentity::issued(&proxy, &token, now().saturating_add(HOUR));
    for versions in VERSIONS {
        let config = identity.config(&ours, versions);
        let mut text = connect(&proxy, &config);
        ask(&mut text, b"set a 0 0 1\r\n1\r\nget a\r\n", b"STORED\r\nVALUE a 0 1\r\n1\r\nEND\r\n");
        ask(&mut connect(&proxy, &config), b"mg a v\r\n", b"VA 1\r\n1\r\n");
        ask(&mut connect(&proxy, &config), b"mn\r\n", b"MN\r\n");
        // The client may log in all the same, with any token of the same user: answered `STORED`,
        // not stored (D-11).
        let login = text::set("auth", &text::credential(&token));
        let mut client = connect(&proxy, &config);
        ask(&mut client, b"delete auth\r\n", b"NOT_FOUND\r\n");
        ask(&mut client, format!("{login}get auth\r\n").as_bytes(), b"STORED\r\nEND\r\n");
        ask(&mut connect(&proxy, &config), format!("{login}mn\r\n").as_bytes(), b"STORED\r\nMN\r\n");
        // Another user's is refused (D-14).
        let foreign = text::login(&other);
        let mut client = connect(&proxy, &config);
        ask(&mut client, foreign.as_bytes(), b"CLIENT_ERROR authentication failure\r\n");
        ends_within_a_second(&mut client, b"get auth\r\n");
        ask(&mut connect(&proxy, &config), b"get auth\r\n", b"END\r\n");

        // Binary clients may log in, too; a failed login cancels the certificate's.
        let get = binary::request(0x00, "a", "");
        let plain = |user: &Token, secret: &Token| {
            binary::request(
                0x21,
                "PLAIN",
                &format!("\0{}\0{}", user.id().username(), secret.secret().reveal()),
            )
        };
        for (messages, expected) in [
            (vec![get.clone()], vec![0]),
            (vec![binary::request(0x20, "", ""), get.clone()], vec![0, 0]),
            (vec![plain(&token, &token), get.clone()], vec![0, 0]),
            (vec![plain(&token, &other), get.clone()], vec![0x20, 0x20]),
            // The client is now the other user, who has no memcached here.
            (vec![plain(&other, &other), get.clone()], vec![0, 0x86]),
        ] {
            let mut client = connect(&proxy, &config);
            client.write_all(&[messages.concat(), binary::request(0x07, "", "")].concat()).unwrap();
            client.flush().unwrap();
            let mut reply = Vec::new();
            client.read_to_end(&mut reply).unwrap();
            let mut got = binary::statuses(&reply);
            // Without the reply to `quit`, if the connection lasted that long.
            got.truncate(expected.len());
            assert_eq!(got, expected);
        }
    }
}

//
#[test]
fn unknown_certificate_authenticates_nobody() {
    let (proxy, ours) = open();
    let token = proxy.sign_up("ann@example.com");
    let identity = ClientIdentity::new();
    for versions in VERSIONS {
        let config = identity.config(&ours, versions);
        let mut client = connect(&proxy, &config);
        ask(&mut client, b"get a\r\n", UNAUTHENTICATED);
        ask(&mut client, text::login(&token).as_bytes(), b"STORED\r\n");
    }
    // A certificate counts as soon as it is issued.
    let config = identity.config(&ours, rustls::ALL_VERSIONS);
    identity.issue(&proxy, &token, now().saturating_add(HOUR));
    wait_until("the certificate is accepted", || {
        let mut client = connect(&proxy, &config);
        client.write_all(b"get a\r\n").unwrap();
        let mut reply = [0; UNAUTHENTICATED.len()];
        client.read_exact(&mut reply).unwrap();
        reply != UNAUTHENTICATED
    });
}

//
#[test]
fn certificate_without_its_key_is_rejected() {
    let (proxy, ours) = open();
    let token = proxy.sign_up("ann@example.com");
    let good = ClientIdentity::issued(&proxy, &token, now().saturating_add(HOUR));
    let stolen = ClientIdentity { key: KeyPair::generate().unwrap(), chain: good.chain.clone() };
    // A chain this long would be kept in memory as long as the connection.
    let long = ClientIdentity { chain: vec![good.chain[0].clone(); 100], key: good.key };
    for identity in [stolen, long] {
        for versions in VERSIONS {
            let mut client = {
                let config = identity.config(&ours, versions);
                let name = "localhost".try_into().unwrap();
                let connection = rustls::ClientConnection::new(config, name).unwrap();
                rustls::StreamOwned::new(connection, proxy.connect())
            };
            let mut reply = Vec::new();
            let end = client.write_all(b"get a\r\n").and_then(|()| client.read_to_end(&mut reply));
            let error = end.unwrap_err();
            assert!(
                error.to_string().contains("alert")
                    // It ended before the client had read the alert, or sent all.
                    || matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
                "{error}"
            );
            assert!(reply.is_empty());
        }
    }
}

//
#[test]
fn revoked_token_revokes_its_certificates() {
    let (proxy, ours) = open();
    let token = proxy.sign_up("ann@example.com");
    for (round, versions) in VERSIONS.into_iter().enumerate() {
        let token = {
            let new = store::NewToken::generate(&token_key(proxy.data_dir.path()), "spare");
            let cache = proxy.runtime.block_on(proxy.store.token(&token.id())).unwrap().unwrap().cache_id;
            proxy.runtime.block_on(proxy.store.create_token(&cache, &new)).unwrap();
            new.token
        };
        let config =
            ClientIdentity::issued(&proxy, &token, now().saturating_add(HOUR)).config(&ours, versions);
        let mut busy = connect(&proxy, &config);
        ask(&mut busy, b"get a\r\n", UNAVAILABLE.as_bytes());
        let mut resumed = connect(&proxy, &config);
        ask(&mut resumed, b"get a\r\n", UNAVAILABLE.as_bytes());
        assert_eq!(resumed.conn.handshake_kind(), Some(HandshakeKind::Resumed));
        let mut silent = connect(&proxy, &config);
        // With TLS 1.3 the client is done before the proxy has seen its certificate.
        wait_until("all three are authenticated", || {
            let successes = 3 * (round + 1);
            proxy
                .metrics()
                .contains(&format!("memgate_proxy_logins_total{{outcome=\"success\"}} {successes}\n"))
        });

        proxy.runtime.block_on(proxy.store.revoke_token(&token.id())).unwrap();
        for client in [&mut busy, &mut resumed, &mut silent] {
            ends_within_a_second(client, b"");
        }
        let mut again = connect(&proxy, &config);
        ask(&mut again, b"get a\r\n", UNAUTHENTICATED);
        assert_eq!(again.conn.handshake_kind(), Some(HandshakeKind::Resumed));
    }
}

//
#[test]
fn revoked_certificate_ends_its_connections_and_no_others() {
    let (proxy, ours) = open();
    let token = proxy.sign_up("ann@example.com");
    for versions in VERSIONS {
        let new = || ClientIdentity::issued(&proxy, &token, now().saturating_add(HOUR));
        let (lost, kept) = (new(), new());
        let [lost_config, kept_config] = [&lost, &kept].map(|identity| identity.config(&ours, versions));
        let [mut busy, mut resumed] = [(); 2].map(|()| {
            let mut client = connect(&proxy, &lost_config);
            ask(&mut client, b"get a\r\n", UNAVAILABLE.as_bytes());
            client
        });
        let mut other = connect(&proxy, &kept_config);
        ask(&mut other, b"get a\r\n", UNAVAILABLE.as_bytes());
        let (id, fingerprint) = (token.id(), Fingerprint::of(&lost.chain[0]));
        proxy.runtime.block_on(proxy.store.revoke_certificate(&id, fingerprint)).unwrap();
        for client in [&mut busy, &mut resumed] {
            ends_within_a_second(client, b"");
        }
        let mut again = connect(&proxy, &lost_config);
        ask(&mut again, b"get a\r\n", UNAUTHENTICATED);
        let denials = proxy.wait_for_denials(&token, 1);
        assert!(denials.iter().all(|it| it.cause == DenialCause::CertificateEnded), "{denials:?}");
        // Its owner may still log in with the token's secret.
        ask(&mut again, text::login(&token).as_bytes(), b"STORED\r\n");
        ask(&mut other, b"get a\r\n", UNAVAILABLE.as_bytes());
        ask(&mut connect(&proxy, &kept_config), b"get a\r\n", UNAVAILABLE.as_bytes());
    }
}

#[test]
fn certificate_has_the_permissions_of_its_token() {
    let (proxy, ours) = open();
    let config = |identity: &ClientIdentity| identity.config(&ours, rustls::ALL_VERSIONS);
    let (over, elsewhere) = (proxy.sign_up("ann@example.com"), proxy.sign_up("bob@example.com"));
    let narrow = |token: &Token, change: fn(&mut store::Permissions)| {
        proxy.runtime.block_on(proxy.store.update_permissions(&token.id(), change)).unwrap();
    };
    // The expiry in the store counts, not the one in the certificate.
    let expired = ClientIdentity::issued(&proxy, &over, now());
    ask(&mut connect(&proxy, &config(&expired)), b"get a\r\n", UNAUTHENTICATED);
    let identity = ClientIdentity::issued(&proxy, &elsewhere, now().saturating_add(HOUR));
    let mut client = connect(&proxy, &config(&identity));
    ask(&mut client, b"get a\r\n", UNAVAILABLE.as_bytes());
    narrow(&elsewhere, |permissions| permissions.scopes = Scopes::READ);
    let refused = b"CLIENT_ERROR access denied: needs write scope\r\n";
    wait_until("writes are refused", || {
        client.write_all(b"delete a\r\n").unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(b"\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            reply.extend(byte);
        }
        reply == refused
    });
    // When a certificate expires, its connections close.
    let brief = ClientIdentity::issued(&proxy, &elsewhere, now().saturating_add(Duration::from_millis(1500)));
    let mut short_lived = connect(&proxy, &config(&brief));
    ask(&mut short_lived, b"get a\r\n", UNAVAILABLE.as_bytes());
    let ended = short_lived.read_to_end(&mut Vec::new());
    assert!(!ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "it outlives its certificate");
    narrow(&elsewhere, |permissions| permissions.allow_from = vec!["192.0.2.0/24".parse().unwrap()]);
    ends_within_a_second(&mut client, b"");
    ask(&mut connect(&proxy, &config(&identity)), b"get a\r\n", UNAUTHENTICATED);
}

#[test]
fn idle_client_with_certificate_stays_connected_and_counts() {
    let (proxy, ours) = open();
    // Half of them for one token.
    proxy.update_plan(|plan| plan.connections = 3);
    let token = proxy.sign_up("ann@example.com");
    let config = ClientIdentity::issued(&proxy, &token, now().saturating_add(HOUR))
        .config(&ours, rustls::ALL_VERSIONS);
    let mut first = connect(&proxy, &config);
    // The proxy authenticates the client as soon as the client has finished its handshake.
    wait_until("the first login counts", || {
        proxy.metrics().contains("memgate_proxy_logins_total{outcome=\"success\"} 1\n")
    });
    let mut second = connect(&proxy, &config);
    ask(&mut second, b"get a\r\n", UNAVAILABLE.as_bytes());
    for (requests, expected) in [
        (b"get a\r\n".to_vec(), b"SERVER_ERROR too many connections\r\n".to_vec()),
        (
            binary::request(0x0a, "", ""),
            [&b"\x81\x0a\0\0\0\0\0\x86\0\0\0\x11"[..], &[0; 12], b"Temporary failure"].concat(),
        ),
    ] {
        let mut third = connect(&proxy, &config);
        ask(&mut third, &requests, &expected);
        assert_eq!(third.read(&mut [0]).unwrap(), 0);
    }
    // Longer than the time limit for unauthenticated connections.
    first.sock.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
    let error = first.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    ask(&mut first, b"get a\r\n", UNAVAILABLE.as_bytes());
}
