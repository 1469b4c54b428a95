//! The authority and what it may sign, checked with OpenSSL and Python.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::*;

fn settings(endpoint: &str) -> Settings {
    let mut settings = Settings::default();
    settings.webui.endpoint = endpoint.into();
    settings
}

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

/// Signs a server certificate for `name` with the authority's key, as a thief of the key would.
fn forge(dir: &Path, name: &str) -> PathBuf {
    let ca_key = KeyPair::from_pem(&read(dir, CA_KEY)).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read(dir, CA), ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, SERVER_DAYS);
    let file = dir.join("forged.pem");
    fs::write(&file, params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(dir.join("forged.key"), key.serialize_pem()).unwrap();
    file
}

fn openssl_verify(ca: &Path, certificate: &Path, options: &[&str]) -> Output {
    let mut command = Command::new("openssl");
    command.arg("verify").args(["-x509_strict", "-purpose", "sslserver", "-CAfile"]).arg(ca);
    command.args(options).arg(certificate).output().unwrap()
}

#[test]
fn authority_is_kept_and_server_certificate_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings("cache.example.org:11211");
    issue_server_certificate(dir.path(), &settings, None).unwrap();
    let (ca, server) = (read(dir.path(), CA), read(dir.path(), SERVER));
    issue_server_certificate(dir.path(), &settings, None).unwrap();
    assert_eq!(read(dir.path(), CA), ca);
    assert_ne!(read(dir.path(), SERVER), server);
    assert!(subject_names(&settings).contains(&"cache.example.org".to_owned()));
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, FILES.len());
}

// V-13.
#[test]
fn authority_vouches_for_its_own_names_only() {
    let dir = tempfile::tempdir().unwrap();
    issue_server_certificate(dir.path(), &settings("cache.example.org:11211"), None).unwrap();
    let ca = dir.path().join(CA);
    for name in
        [["-verify_hostname", "cache.example.org"], ["-verify_hostname", "localhost"], ["-verify_ip", "::1"]]
    {
        let verified = openssl_verify(&ca, &dir.path().join(SERVER), &name);
        assert!(verified.status.success(), "{name:?}: {verified:?}");
    }
    assert!(openssl_verify(&ca, &forge(dir.path(), "cache.example.org"), &[]).status.success());
    for other in ["bank.example", "example.org", "notcache.example.org", "198.51.100.7", "2001:db8::1"] {
        let verified = openssl_verify(&ca, &forge(dir.path(), other), &[]);
        let error = String::from_utf8_lossy(&verified.stderr).into_owned();
        assert!(
            !verified.status.success() && error.contains("permitted subtree violation"),
            "{other}: {error}"
        );
    }
    // Of two purposes it has one: no client certificate, no code.
    let mut client = Command::new("openssl");
    client.args(["verify", "-purpose", "sslclient", "-CAfile"]).arg(&ca).arg(dir.path().join(SERVER));
    assert!(!client.output().unwrap().status.success());
}

/// Performs a handshake in memory: the arguments are authority, certificate, key and the name to verify.
const HANDSHAKE: &str = "
import ssl, sys
ca, certificate, key, name = sys.argv[1:]
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain(certificate, key)
client = ssl.create_default_context(cafile=ca)
a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
sides = [client.wrap_bio(a, b, server_hostname=name), server.wrap_bio(b, a, server_side=True)]
for _ in range(10):
    for side in sides:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass
print(sides[0].version())
";

fn python_accepts(dir: &Path, [certificate, key]: [&str; 2], name: &str) -> bool {
    let files = [CA, certificate, key].map(|file| dir.join(file));
    let run = Command::new("python3").args(["-c", HANDSHAKE]).args(files).arg(name).output().unwrap();
    let error = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success() || error.contains("CERTIFICATE_VERIFY_FAILED"), "{error}");
    run.status.success()
}

fn rustls_accepts(dir: &Path, certificate: &str, name: &str) -> Result<(), rustls::Error> {
    let read = |file| CertificateDer::from_pem_file(dir.join(file)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(read(CA)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(&read(certificate), &[], &name, &[], UnixTime::now()).map(|_| ())
}

// V-13.
#[test]
fn clients_refuse_forged_names() {
    let dir = tempfile::tempdir().unwrap();
    issue_server_certificate(dir.path(), &settings("cache.example.org:11211"), None).unwrap();
    for name in ["cache.example.org", "localhost", "127.0.0.1"] {
        assert!(python_accepts(dir.path(), [SERVER, SERVER_KEY], name), "{name}");
        assert_eq!(rustls_accepts(dir.path(), SERVER, name), Ok(()), "{name}");
    }
    for name in ["bank.example", "198.51.100.7"] {
        forge(dir.path(), name);
        assert!(!python_accepts(dir.path(), ["forged.pem", "forged.key"], name), "{name}");
        let error = rustls_accepts(dir.path(), "forged.pem", name).unwrap_err().to_string();
        assert!(error.contains("NameConstraintViolation"), "{name}: {error}");
    }
}

// V-13.
#[test]
fn new_endpoint_gets_a_new_certificate_of_the_same_authority() {
    let dir = tempfile::tempdir().unwrap();
    issue_server_certificate(dir.path(), &settings("127.0.0.1:11211"), None).unwrap();
    let (first, key) = (read(dir.path(), CA), read(dir.path(), CA_KEY));
    issue_server_certificate(dir.path(), &settings("cache.example.org:11211"), None).unwrap();
    assert_ne!(read(dir.path(), CA), first);
    assert_eq!(read(dir.path(), CA_KEY), key);
    for name in ["cache.example.org", "127.0.0.1"] {
        assert!(python_accepts(dir.path(), [SERVER, SERVER_KEY], name), "{name}");
    }
}

// V-13.
#[test]
fn authority_of_an_earlier_version_gets_constraints_and_stays_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings("cache.example.org:11211");
    let key = KeyPair::generate().unwrap();
    let mut params = authority_params(&key, &PermittedNames::new(Vec::new()));
    (params.name_constraints, params.extended_key_usages) = (None, Vec::new());
    let earlier = dir.path().join("earlier.pem");
    fs::write(&earlier, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::copy(&earlier, dir.path().join(CA)).unwrap();
    private_file::replace(&dir.path().join(CA_KEY), Access::PRIVATE, key.serialize_pem().as_bytes()).unwrap();
    issue_server_certificate(dir.path(), &settings, None).unwrap();
    assert_ne!(read(dir.path(), CA), fs::read_to_string(&earlier).unwrap());
    for ca in [earlier, dir.path().join(CA)] {
        let verified =
            openssl_verify(&ca, &dir.path().join(SERVER), &["-verify_hostname", "cache.example.org"]);
        assert!(verified.status.success(), "{verified:?}");
    }
}
