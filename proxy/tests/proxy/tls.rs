//! TLS: every protocol over it, certificate reload, and clients that don't speak it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{Certificate, CertificateParams, CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use rustls::{ProtocolVersion, version};
use tempfile::TempDir;
use time::OffsetDateTime;

use testkit::{Memcached, TestProxy, binary, text};

const LONG: usize = 1_000_000;

pub(super) type Secured = StreamOwned<ClientConnection, TcpStream>;

/// Writes a new certificate and key to the files that the proxy reads.
fn certify(folder: &Path) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    write_pair(folder, &cert, &signing_key)
}

/// The same for a certificate that is valid between two times, in days from now.
fn certify_for(folder: &Path, begin: i64, end: i64) -> CertificateDer<'static> {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let in_days = |days: i64| OffsetDateTime::now_utc() + time::Duration::days(days);
    (params.not_before, params.not_after) = (in_days(begin), in_days(end));
    let key = KeyPair::generate().unwrap();
    write_pair(folder, &params.self_signed(&key).unwrap(), &key)
}

fn write_pair(folder: &Path, cert: &Certificate, signing_key: &KeyPair) -> CertificateDer<'static> {
    // The key first: until the certificate follows, the pair doesn't match and the old one stays in
    // use.
    fs::write(folder.join("server.key"), signing_key.serialize_pem()).unwrap();
    fs::write(folder.join("server.pem"), cert.pem()).unwrap();
    cert.der().clone()
}

pub(super) fn open() -> (TestProxy, CertificateDer<'static>) {
    open_with(|_| {})
}

pub(super) fn open_with(change: impl FnOnce(&mut proxy::Config)) -> (TestProxy, CertificateDer<'static>) {
    let folder = tempfile::tempdir().unwrap();
    let certificate = certify(folder.path());
    let mut config = config(&folder);
    change(&mut config);
    (TestProxy::start_in(folder, config), certificate)
}

/// A client that trusts a certificate.
pub(super) fn client_config(certificate: &CertificateDer<'static>) -> Arc<ClientConfig> {
    trusting(certificate, &[&version::TLS13])
}

fn config(folder: &TempDir) -> proxy::Config {
    let file = |name| Some(folder.path().join(name));
    proxy::Config {
        tls_certificate: file("server.pem"),
        tls_key: file("server.key"),
        ..proxy::Config::default()
    }
}

fn trusting(
    certificate: &CertificateDer<'static>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(versions).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

pub(super) fn connect(proxy: &TestProxy, config: &Arc<ClientConfig>) -> Secured {
    let name = "localhost".try_into().unwrap();
    let mut secured = StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), proxy.connect());
    secured.flush().unwrap();
    secured
}

pub(super) fn ask<S: Read + Write>(stream: &mut S, requests: &[u8], expected: &[u8]) {
    stream.write_all(requests).unwrap();
    stream.flush().unwrap();
    let mut reply = vec![0; expected.len()];
    stream.read_exact(&mut reply).unwrap();
    assert!(reply == expected, "{:?}", String::from_utf8_lossy(&reply[..reply.len().min(80)]));
}

pub(super) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// docs/protocol.md names the curves.
#[test]
fn every_curve_but_p_521_is_negotiated() {
    let (proxy, _) = open();
    let address = proxy.config.listen.to_string();
    for (curve, works) in [("X25519", true), ("P-256", true), ("P-384", true), ("P-521", false)] {
        let mut client = std::process::Command::new("openssl");
        client.args(["s_client", "-brief", "-groups", curve, "-connect", &address]);
        let output = client.stdin(std::process::Stdio::null()).output().unwrap();
        assert_eq!(output.status.success(), works, "{curve}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

//
#[test]
fn client_that_updates_its_keys_may_be_idle() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = certify(folder.path());
    let config = proxy::Config { stall_seconds: 1, ..config(&folder) };
    let proxy = TestProxy::start_in(folder, config);
    let token = proxy.sign_up("ann@example.com");
    let config = trusting(&certificate, &[&version::TLS13]);
    let [mut idle, mut unfinished] = [(); 2].map(|()| {
        let mut client = connect(&proxy, &config);
        ask(&mut client, text::login(&token).as_bytes(), b"STORED\r\n");
        client.conn.refresh_traffic_keys().unwrap();
        client.flush().unwrap();
        client
    });
    // Ended after the time beyond which the other one would be, too.
    unfinished.write_all(b"set a 0 0 10\r\nx").unwrap();
    unfinished.flush().unwrap();
    let mut reply = String::new();
    unfinished.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "CLIENT_ERROR request timed out\r\n");
    ask(&mut idle, b"bogus\r\n", b"ERROR\r\n");
}

// R-20, S-14.
#[test]
fn every_protocol_and_value_size_works_over_tls() {
    let (proxy, certificate) = open();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.18");
    let value = vec![b'v'; LONG];
    let store = [format!("set long 0 0 {LONG}\r\n").as_bytes(), &value, b"\r\n"].concat();
    let found = [format!("VALUE long 0 {LONG}\r\n").as_bytes(), &value, b"\r\nEND\r\n"].concat();
    for (versions, expected) in
        [(&[&version::TLS12], ProtocolVersion::TLSv1_2), (&[&version::TLS13], ProtocolVersion::TLSv1_3)]
    {
        let config = trusting(&certificate, versions);
        let mut text = connect(&proxy, &config);
        ask(&mut text, text::login(&token).as_bytes(), b"STORED\r\n");
        assert_eq!(text.conn.protocol_version(), Some(expected));
        ask(
            &mut text,
            b"set a 0 0 1\r\n1\r\nget a\r\nmg a v\r\n",
            b"STORED\r\nVALUE a 0 1\r\n1\r\nEND\r\nVA 1\r\n1\r\n",
        );
        ask(&mut text, &store, b"STORED\r\n");
        ask(&mut text, b"get long\r\n", &found);
        let pipelined = b"get a\r\n".repeat(2_000);
        ask(&mut text, &pipelined, &b"VALUE a 0 1\r\n1\r\nEND\r\n".repeat(2_000));
        text.conn.send_close_notify();
        text.flush().unwrap();
        assert_eq!(text.read(&mut [0]).unwrap(), 0, "the proxy closes cleanly, too");

        let mut binary = connect(&proxy, &config);
        let message = binary::plain(&token);
        binary.write_all(&binary::request(0x21, "PLAIN", &message)).unwrap();
        let mut reply = [0; 24 + 13];
        binary.read_exact(&mut reply).unwrap();
        assert!(reply.ends_with(b"Authenticated"));
    }
}

#[test]
fn slow_reader_gets_every_byte_over_tls() {
    let (proxy, certificate) = open();
    let token = proxy.sign_up("bob@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.19");
    let mut client = connect(&proxy, &trusting(&certificate, rustls::ALL_VERSIONS));
    ask(&mut client, text::login(&token).as_bytes(), b"STORED\r\n");
    let value = vec![b'v'; 100_000];
    let store = [&b"set some 0 0 100000\r\n"[..], &value, b"\r\n"].concat();
    ask(&mut client, &store, b"STORED\r\n");
    // Far more than the socket buffers hold: the last requests wait until the first replies are read.
    client.write_all(&b"get some\r\n".repeat(200)).unwrap();
    client.write_all(b"get nothing\r\nquit\r\n").unwrap();
    let found = [&b"VALUE some 0 100000\r\n"[..], &value, b"\r\nEND\r\n"].concat();
    let mut reply = vec![0; found.len()];
    for _ in 0..200 {
        client.read_exact(&mut reply).unwrap();
        assert!(reply == found);
    }
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"END\r\n");
}

//
#[test]
fn tls_sessions_are_resumed() {
    let (proxy, certificate) = open();
    let token = proxy.sign_up("cid@example.com");
    for version in rustls::ALL_VERSIONS {
        let config = trusting(&certificate, &[version]);
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let mut client = connect(&proxy, &config);
            ask(&mut client, text::login(&token).as_bytes(), b"STORED\r\n");
            kinds.extend(client.conn.handshake_kind());
        }
        assert_eq!(
            kinds,
            [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed],
            "{version:?}"
        );
    }
}

// R-21, F-14.
#[test]
fn certificate_is_reloaded_and_a_broken_one_is_ignored() {
    let (proxy, first) = open();
    let token = proxy.sign_up("dan@example.com");
    let login = text::login(&token);
    let mut old = connect(&proxy, &trusting(&first, rustls::ALL_VERSIONS));
    ask(&mut old, login.as_bytes(), b"STORED\r\n");

    let shows = |certificate: &CertificateDer<'static>| {
        let mut client = connect(&proxy, &trusting(certificate, rustls::ALL_VERSIONS));
        client.write_all(b"version\r\n").is_ok()
    };
    fs::write(proxy.data_dir.path().join("server.pem"), "rubbish").unwrap();
    wait_until("a warning", || {
        proxy
            .http_get("/readyz")
            .contains("\r\n\r\nready: failed to reload the certificate, keeping the old one: ")
    });
    assert!(shows(&first));

    let second = certify(proxy.data_dir.path());
    wait_until("the new certificate", || proxy.http_get("/readyz").ends_with("\r\n\r\nready\n"));
    let mut client = connect(&proxy, &trusting(&second, rustls::ALL_VERSIONS));
    ask(&mut client, login.as_bytes(), b"STORED\r\n");
    // Existing connections stay open.
    ask(&mut old, b"quit\r\n", b"");
    assert_eq!(old.read(&mut [0]).unwrap(), 0);
}

// F-31, F-14.
#[test]
fn certificate_that_clients_would_refuse_is_not_taken_while_the_old_one_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let first = certify_for(folder.path(), -1, 100);
    let config = config(&folder);
    let proxy = TestProxy::start_in(folder, config);
    let shows = |certificate: &CertificateDer<'static>| {
        let mut client = connect(&proxy, &trusting(certificate, rustls::ALL_VERSIONS));
        client.write_all(b"version\r\n").is_ok()
    };
    let end = || {
        let metrics = proxy.metrics();
        let name = "memgate_proxy_tls_certificate_end_timestamp_seconds ";
        metrics.lines().find_map(|line| line.strip_prefix(name)?.parse::<i64>().ok()).unwrap_or_default()
    };
    let in_days = |days: i64| OffsetDateTime::now_utc().unix_timestamp() + days * 24 * 3600;
    wait_until("the end of the first", || (end() - in_days(100)).abs() < 600);
    let warns = |text: &str| proxy.http_get("/readyz").contains(text);
    for (begin, end, why) in [(-20, -10, "it expired on "), (10, 20, "it is not valid before ")] {
        certify_for(proxy.data_dir.path(), begin, end);
        wait_until(why, || {
            warns("ready: failed to reload the certificate, keeping the old one: ") && warns(why)
        });
        assert!(shows(&first), "{why}");
    }
    assert!((end() - in_days(100)).abs() < 600);

    let second = certify_for(proxy.data_dir.path(), -1, 10);
    wait_until("the warning of its end", || warns("server.pem: it ends in 9 days, on "));
    assert!(shows(&second) && !warns("failed to reload"));
    assert!((end() - in_days(10)).abs() < 600);

    // One that starts with an expired certificate has no better one, and says so.
    certify_for(proxy.data_dir.path(), -20, -10);
    let second_proxy = proxy.start_second();
    let status = || second_proxy.http_get("/status");
    wait_until("the problem", || status().contains("\"certificate_end\":\"clients refuse the certificate "));
    let third = certify_for(proxy.data_dir.path(), -1, 100);
    wait_until("the end of the problem", || status().contains("\"problems\":{}"));
    let mut client = connect(&second_proxy, &trusting(&third, rustls::ALL_VERSIONS));
    client.write_all(b"version\r\n").unwrap();
}

//
#[test]
fn invalid_handshake_closes_the_connection() {
    let (proxy, certificate) = open();
    for bytes in [&b"\x16\x03\x01\x00\x05hello"[..], b"\x16\x16\x16\x16\x16\x16\x16\x16", b"\x16get a\r\n"] {
        let reply = proxy.exchange(bytes);
        // At most a TLS alert: nothing in plaintext.
        assert!(reply.is_empty() || reply[0] == 0x15, "{reply:?}");
    }
    // A handshake inside TLS is a malformed command.
    let mut client = connect(&proxy, &trusting(&certificate, rustls::ALL_VERSIONS));
    ask(&mut client, b"\x16\x03\x01 x\r\n", b"CLIENT_ERROR unauthenticated\r\n");
    let plain = TestProxy::start();
    assert_eq!(plain.exchange(b"\x16\x03\x01\x00\x05hello"), b"");
}

fn buffered(proxy: &TestProxy) -> usize {
    let metrics = proxy.metrics();
    let bytes = metrics.lines().find_map(|line| line.strip_prefix("memgate_proxy_buffered_bytes "));
    bytes.unwrap().parse().unwrap()
}

// R-33, P-13.
#[test]
fn parts_of_records_count_and_end() {
    const CLIENTS: usize = 40;
    const RECORD: usize = 16_000;
    let folder = tempfile::tempdir().unwrap();
    let certificate = certify(folder.path());
    let settings = proxy::Config { stall_seconds: 3, ..config(&folder) };
    let proxy = TestProxy::start_in(folder, settings);
    let token = proxy.sign_up("ann@example.com");
    let config = trusting(&certificate, &[&version::TLS13]);
    let clients: Vec<Secured> = (0..CLIENTS)
        .map(|_| {
            let mut client = connect(&proxy, &config);
            ask(&mut client, text::login(&token).as_bytes(), b"STORED\r\n");
            client.conn.writer().write_all(&vec![b'x'; RECORD]).unwrap();
            let mut record = Vec::new();
            client.conn.write_tls(&mut record).unwrap();
            client.sock.write_all(&record[..record.len() - 1]).unwrap();
            client
        })
        .collect();
    wait_until("parts of records aren't counted", || buffered(&proxy) >= CLIENTS * RECORD);
    wait_until("they don't end", || buffered(&proxy) == 0);
    drop(clients);
    assert_eq!(proxy.wait_for_denials(&token, 1)[0].cause.as_str(), "stalled");
}

//
#[test]
fn messages_of_tls_itself_are_bounded() {
    use rustls::crypto::cipher::{OutboundChunks, OutboundPlainMessage};
    use rustls::{ConnectionTrafficSecrets, ContentType};

    let (proxy, certificate) = open();
    let token = proxy.sign_up("ann@example.com");
    let mut config = ClientConfig::clone(&trusting(&certificate, &[&version::TLS13]));
    config.enable_secret_extraction = true;
    let mut client = connect(&proxy, &Arc::new(config));
    ask(&mut client, text::login(&token).as_bytes(), b"STORED\r\n");
    let StreamOwned { conn, mut sock } = client;
    let suite = conn.negotiated_cipher_suite().unwrap().tls13().unwrap();
    let (sequence, secrets) = conn.dangerous_extract_secrets().unwrap().tx;
    let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
    | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
    | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
    else {
        panic!("another cipher");
    };
    let mut encrypter = suite.aead_alg.encrypter(key, iv);
    // One message of 65,000 bytes, in several records.
    let message = [&[4, 0, 253, 232][..], &[0; 65_000]].concat();
    for (sequence, part) in (sequence..).zip(message[..60_000].chunks(15_000)) {
        let payload = OutboundChunks::Single(part);
        let record =
            OutboundPlainMessage { typ: ContentType::Handshake, version: ProtocolVersion::TLSv1_2, payload };
        // The proxy may have closed.
        let _ = sock.write_all(&encrypter.encrypt(record, sequence).unwrap().encode());
    }
    // A reset, because what has come later isn't read.
    let closed = sock.read_to_end(&mut Vec::new());
    let is_reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
    assert!(closed.as_ref().map_or_else(is_reset, |_| true), "{closed:?}");
}
