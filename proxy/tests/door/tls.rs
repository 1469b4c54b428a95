//! TLS at the door: every protocol through it, what it is made with and made again, and who doesn't speak it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use rustls::{ProtocolVersion, version};
use tempfile::TempDir;

use super::door::{Door, pair, sasl, set};
use super::memcached::Memcached;

const LONG: usize = 1_000_000;

pub(super) type Secured = StreamOwned<ClientConnection, TcpStream>;

/// Writes a fresh certificate to where the door reads it from.
fn certify(folder: &Path) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    // The key first: between the two the pair doesn't fit, and the old one stays in use.
    fs::write(folder.join("server.key"), signing_key.serialize_pem()).unwrap();
    fs::write(folder.join("server.pem"), cert.pem()).unwrap();
    cert.der().clone()
}

pub(super) fn open() -> (Door, CertificateDer<'static>) {
    let folder = tempfile::tempdir().unwrap();
    let certificate = certify(folder.path());
    let config = config(&folder);
    (Door::open_in(folder, config), certificate)
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

pub(super) fn connect(door: &Door, config: &Arc<ClientConfig>) -> Secured {
    let name = "localhost".try_into().unwrap();
    let mut secured = StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), door.call());
    secured.flush().unwrap();
    secured
}

pub(super) fn ask<S: Read + Write>(stream: &mut S, asked: &[u8], expected: &[u8]) {
    stream.write_all(asked).unwrap();
    stream.flush().unwrap();
    let mut said = vec![0; expected.len()];
    stream.read_exact(&mut said).unwrap();
    assert!(said == expected, "{:?}", String::from_utf8_lossy(&said[..said.len().min(80)]));
}

fn ready(door: &Door) -> String {
    let mut stream = TcpStream::connect(door.config.health).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

pub(super) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn every_dialect_and_size_goes_through_it() {
    let (door, certificate) = open();
    let token = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &token, "10.214.7.18");
    let value = vec![b'v'; LONG];
    let store = [format!("set long 0 0 {LONG}\r\n").as_bytes(), &value, b"\r\n"].concat();
    let found = [format!("VALUE long 0 {LONG}\r\n").as_bytes(), &value, b"\r\nEND\r\n"].concat();
    for (versions, expected) in
        [(&[&version::TLS12], ProtocolVersion::TLSv1_2), (&[&version::TLS13], ProtocolVersion::TLSv1_3)]
    {
        let config = trusting(&certificate, versions);
        let mut text = connect(&door, &config);
        ask(&mut text, set("x", &pair(&token)).as_bytes(), b"STORED\r\n");
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
        assert_eq!(text.read(&mut [0]).unwrap(), 0, "the door says goodbye, too");

        let mut binary = connect(&door, &config);
        let message = format!("\0{}\0{}", token.id().username(), token.secret().reveal());
        binary.write_all(&sasl(0x21, "PLAIN", &message)).unwrap();
        let mut said = [0; 24 + 13];
        binary.read_exact(&mut said).unwrap();
        assert!(said.ends_with(b"Authenticated"));
    }
}

#[test]
fn who_takes_its_time_to_read_gets_all_of_it() {
    let (door, certificate) = open();
    let token = door.sign_up("bob@example.com");
    let _memcached = Memcached::start(&door, &token, "10.214.7.19");
    let mut client = connect(&door, &trusting(&certificate, rustls::ALL_VERSIONS));
    ask(&mut client, set("x", &pair(&token)).as_bytes(), b"STORED\r\n");
    let value = vec![b'v'; 100_000];
    let store = [&b"set some 0 0 100000\r\n"[..], &value, b"\r\n"].concat();
    ask(&mut client, &store, b"STORED\r\n");
    // Far more than both sockets hold: what is asked last waits until the first has been read.
    client.write_all(&b"get some\r\n".repeat(200)).unwrap();
    client.write_all(b"get nothing\r\nquit\r\n").unwrap();
    let found = [&b"VALUE some 0 100000\r\n"[..], &value, b"\r\nEND\r\n"].concat();
    let mut said = vec![0; found.len()];
    for _ in 0..200 {
        client.read_exact(&mut said).unwrap();
        assert!(said == found);
    }
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"END\r\n");
}

#[test]
fn who_comes_back_resumes() {
    let (door, certificate) = open();
    let token = door.sign_up("cid@example.com");
    for version in rustls::ALL_VERSIONS {
        let config = trusting(&certificate, &[version]);
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let mut client = connect(&door, &config);
            ask(&mut client, set("x", &pair(&token)).as_bytes(), b"STORED\r\n");
            kinds.extend(client.conn.handshake_kind());
        }
        assert_eq!(
            kinds,
            [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed],
            "{version:?}"
        );
    }
}

#[test]
fn a_new_certificate_is_taken_and_a_broken_one_is_not() {
    let (door, first) = open();
    let token = door.sign_up("dan@example.com");
    let login = set("x", &pair(&token));
    let mut old = connect(&door, &trusting(&first, rustls::ALL_VERSIONS));
    ask(&mut old, login.as_bytes(), b"STORED\r\n");

    let shows = |certificate: &CertificateDer<'static>| {
        let mut client = connect(&door, &trusting(certificate, rustls::ALL_VERSIONS));
        client.write_all(b"version\r\n").is_ok()
    };
    fs::write(door.folder.path().join("server.pem"), "rubbish").unwrap();
    until("a warning", || ready(&door).contains("\r\n\r\nready: the old certificate stays in use: "));
    assert!(shows(&first));

    let second = certify(door.folder.path());
    until("the new certificate", || ready(&door).ends_with("\r\n\r\nready\n"));
    let mut client = connect(&door, &trusting(&second, rustls::ALL_VERSIONS));
    ask(&mut client, login.as_bytes(), b"STORED\r\n");
    // Who was there before is still there.
    ask(&mut old, b"quit\r\n", b"");
    assert_eq!(old.read(&mut [0]).unwrap(), 0);
}

#[test]
fn what_is_no_handshake_ends_the_connection() {
    let (door, certificate) = open();
    for bytes in [&b"\x16\x03\x01\x00\x05hello"[..], b"\x16\x16\x16\x16\x16\x16\x16\x16", b"\x16get a\r\n"] {
        let said = door.converse(bytes);
        // An alert at most: nothing of ours in the clear.
        assert!(said.is_empty() || said[0] == 0x15, "{said:?}");
    }
    // A handshake inside TLS is just a bad first line.
    let mut client = connect(&door, &trusting(&certificate, rustls::ALL_VERSIONS));
    ask(&mut client, b"\x16\x03\x01 x\r\n", b"CLIENT_ERROR unauthenticated\r\n");
    let plain = Door::open();
    assert_eq!(plain.converse(b"\x16\x03\x01\x00\x05hello"), b"");
}
