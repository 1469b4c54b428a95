//! `memgate token`: permissions, rotation and certificates.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{failure, migrated};

#[test]
fn token_is_restricted_updated_and_rotated() {
    let installation = migrated();
    installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let create = ["token", "create", "ada@example.org", "--name", "shop", "--scope", "write,read"];
    let limits =
        ["--prefix", "shop:", "--expires", "30d", "--allow-from", "10.0.0.0/8", "--allow-from", "::1"];
    let connections = ["--connections", "7"];
    let made = installation.json(&[&create[..], &limits, &connections].concat());
    let id = made["username"].as_str().unwrap();
    let shown = installation.json(&["token", "show", id]);
    assert_eq!((&shown["name"], &shown["email"]), (&"shop".into(), &"ada@example.org".into()));
    assert_eq!(shown["scopes"], serde_json::json!(["read", "write"]));
    assert_eq!(shown["prefix"], "shop:");
    assert_eq!(shown["allow_from"], serde_json::json!(["10.0.0.0/8", "::1/128"]));
    assert_eq!(shown["connections"], 7);
    let lifetime = shown["expires_at"].as_i64().unwrap() - shown["created_at"].as_i64().unwrap();
    assert!((lifetime - 30 * 86_400_000).abs() < 60_000, "{lifetime}");

    let narrowed = installation.json(&["token", "update", id, "--scope", "read"]);
    assert_eq!(narrowed["scopes"], serde_json::json!(["read"]));
    for key in ["prefix", "allow_from", "expires_at", "connections"] {
        assert_eq!(narrowed[key], shown[key], "other permissions stay");
    }
    let open = ["token", "update", id, "--no-prefix", "--allow-from", "any", "--expires", "never"];
    let open = installation.json(&[&open[..], &["--connections", "default"]].concat());
    assert!(open["connections"].is_null());
    assert!(open["prefix"].is_null() && open["expires_at"].is_null());
    assert_eq!(open["allow_from"], serde_json::json!([]));

    let rotated = installation.json(&["token", "rotate", id, "--grace", "2h"]);
    let successor = installation.json(&["token", "show", rotated["token"].as_str().unwrap()]);
    assert_eq!((&successor["scopes"], &successor["name"]), (&narrowed["scopes"], &shown["name"]));
    assert!(successor["expires_at"].is_null());
    assert_eq!(rotated["replaces"]["successor"], successor["id"]);
    let old = installation.json(&["token", "show", id]);
    assert!(old["expires_at"].as_i64() > shown["created_at"].as_i64());
    let (error, fix) = failure(&installation, &["token", "rotate", id], 1);
    assert!(error.contains("already has a successor"), "{error}");
    assert!(fix.contains(successor["id"].as_str().unwrap()), "{fix}");
    let rotate = ["token", "rotate", successor["id"].as_str().unwrap(), "--grace", "0s"];
    installation.json(&rotate);
    let (error, fix) = failure(&installation, &["token", "update", rotate[2], "--expires", "never"], 1);
    assert!(
        error.contains("is no longer active (replaced, expired") && fix.contains("token create"),
        "{error}: {fix}"
    );

    let list = installation.run(&["token", "list", "ada@example.org"]);
    let list = String::from_utf8(list.stdout).unwrap();
    for words in ["SCOPES", "read,write,flush,stats", "replaced, expires in ", "replaced, expired "] {
        assert!(list.contains(words), "{words} is not in {list}");
    }
}

#[test]
fn token_has_certificates() {
    let installation = migrated();
    installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let create = ["token", "create", "ada@example.org", "--expires", "30d"];
    let made = installation.json(&[&create[..], &["--certificate"]].concat());
    let id = made["username"].as_str().unwrap();
    assert!(made["certificate"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    let key = made["certificate_key"].as_str().unwrap();
    assert!(rcgen::KeyPair::from_pem(key).is_ok());
    let shown = installation.json(&["token", "show", id]);
    assert_eq!(shown["certificates"][0]["fingerprint"], made["fingerprint"]);
    assert_eq!(
        shown["certificates"][0]["not_after"], shown["expires_at"],
        "the certificate expires with its token"
    );
    let without = installation.json(&["token", "create", "ada@example.org"]);
    assert!(without["certificate"].is_null() && without["fingerprint"].is_null());

    let dir = installation.dir().join("shop");
    let out = ["--certificate-out", dir.to_str().unwrap()];
    let written = installation.json(&[&["token", "certify", id], &out[..]].concat());
    assert!(written["certificate"].is_null() && written["certificate_key"].is_null());
    let file = |key: &str| std::path::PathBuf::from(written[key].as_str().unwrap());
    assert!(rcgen::KeyPair::from_pem(&fs::read_to_string(file("key_file")).unwrap()).is_ok());
    assert_eq!(fs::metadata(file("key_file")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(file("certificate_file")).unwrap().contains("BEGIN CERTIFICATE"));
    let (error, fix) = failure(&installation, &[&["token", "certify", id], &out[..]].concat(), 1);
    assert!(error.contains("File exists") && fix.contains("another directory"), "{error}: {fix}");

    let request = installation.dir().join("shop.csr");
    let own = rcgen::KeyPair::generate().unwrap();
    let text = rcgen::CertificateParams::default().serialize_request(&own).unwrap().pem().unwrap();
    fs::write(&request, text).unwrap();
    let certify = ["token", "certify", id, "--csr", request.to_str().unwrap()];
    let signed = installation.json(&certify);
    assert!(signed["certificate"].is_string() && signed["certificate_key"].is_null());
    fs::write(&request, key).unwrap();
    let (error, fix) = failure(&installation, &certify, 1);
    assert!(error.contains("invalid certificate request") && fix.contains("PEM"), "{error}: {fix}");
    assert!(!error.contains("PRIVATE"), "{error}");

    while installation.json(&["token", "show", id])["certificates"].as_array().unwrap().len() < 16 {
        installation.json(&["token", "certify", id]);
    }
    let (error, _) = failure(&installation, &["token", "certify", id], 1);
    assert!(error.contains("limit of certificates"), "{error}");
    let words = String::from_utf8(installation.run(&["token", "show", id]).stdout).unwrap();
    assert!(
        words.contains(made["fingerprint"].as_str().unwrap())
            && words.contains("(expires 20")
            && words.contains(" UTC (in "),
        "{words}"
    );
    // One alone makes room for another.
    let fingerprint = made["fingerprint"].as_str().unwrap();
    let revoke = ["token", "revoke", id, "--certificate"];
    for (start, status, told) in [("6", 2, "too short"), ("zzzzzz", 1, "no valid certificate")] {
        let (error, _) = failure(&installation, &[&revoke[..], &[start]].concat(), status);
        assert!(error.contains(told), "{error}");
    }
    let revoked = installation.json(&[&revoke[..], &[&fingerprint[..12].to_uppercase()]].concat());
    assert_eq!(revoked["fingerprint"], fingerprint);
    failure(&installation, &[&revoke[..], &[fingerprint]].concat(), 1);
    let shown = installation.json(&["token", "show", id]);
    assert!(shown["revoked_at"].is_null());
    installation.json(&["token", "certify", id]);
    installation.json(&["token", "revoke", id]);
    let (error, _) = failure(&installation, &["token", "certify", id], 1);
    assert!(error.contains("is no longer active"), "{error}");
    let kept = fs::read(installation.data().join("db/memgate.db-wal")).unwrap_or_default();
    assert!(!kept.windows(11).any(|window| window == b"PRIVATE KEY"));
}

/// The token expires while the certificate request is read: it is created, and the certificate is not saved.
#[test]
fn token_is_shown_even_if_its_certificate_fails() {
    let installation = migrated();
    installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let pipe = installation.dir().join("request.csr");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let create = ["token", "create", "ada@example.org", "--expires", "1s", "--json", "--csr"];
    let mut command = installation.memgate(&create);
    let command = command.arg(&pipe).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Opens when the command reads; by then the token's expiry is fixed.
    let mut pipe = fs::File::options().write(true).open(&pipe).unwrap();
    let opened = Instant::now();
    while opened.elapsed() < Duration::from_millis(1100) {
        std::thread::sleep(Duration::from_millis(20));
    }
    pipe.write_all(request.as_bytes()).unwrap();
    drop(pipe);
    let output = command.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("is no longer active"), "{stderr}");
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let shown = installation.json(&["token", "show", made["token"].as_str().unwrap()]);
    assert_eq!(shown["certificates"], serde_json::json!([]));
    assert!(made["fingerprint"].is_null() && made["certificate"].is_null());
}
