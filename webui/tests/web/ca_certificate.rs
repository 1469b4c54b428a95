//! Download of the CA certificate: public, current, and never with a private key.

use std::fs;

use rcgen::{CertificateParams, KeyPair};

use crate::harness::Site;

fn certificate() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[tokio::test]
async fn the_ca_certificate_is_public() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let (first, key) = certificate();
    fs::write(&file, &first).unwrap();
    let named = file.clone();
    let site = Site::start_with(|config| config.ca_certificate = Some(named)).await;
    let response = site.visitor().get("/ca.pem").await;
    assert_eq!((response.status, &response.body), (200, &first));
    assert_eq!(response.header("content-type"), Some("application/x-pem-file"));
    assert_eq!(response.header("content-disposition"), Some("attachment; filename=\"memgate-ca.pem\""));

    let renewed = first + &certificate().0;
    fs::write(&file, &renewed).unwrap();
    assert_eq!(site.visitor().get("/ca.pem").await.body, renewed);

    let (certificate, large) = (certificate().0, renewed.repeat(100));
    for wrong in ["", "rubbish", &key, &(certificate + &key), &large] {
        fs::write(&file, wrong).unwrap();
        let response = site.visitor().get("/ca.pem").await;
        assert_eq!(response.status, 500, "{wrong}");
        assert!(!response.body.contains("-----BEGIN"));
    }
    fs::remove_file(&file).unwrap();
    assert_eq!(site.visitor().get("/ca.pem").await.status, 500);
}

#[tokio::test]
async fn the_cache_page_links_to_the_ca_certificate_and_snippets_use_it() {
    let site = Site::start_with(|config| config.ca_certificate = Some("ca.pem".into())).await;
    let (mut visitor, created) = site.sign_up_user("a@example.com").await;
    assert!(created.text("tls-python-bmemcached").unwrap().contains(created.text("token-password").unwrap()));
    let page = visitor.get("/caches/{cache}").await;
    assert!(page.text("tls").is_some());
    for id in ["shell-printf", "python-bmemcached", "ruby-dalli4"] {
        let page = visitor.get(&format!("/caches/{{cache}}/connect?with={id}")).await;
        assert!(page.body.contains("<a href=\"/ca.pem\" download=\"memgate-ca.pem\">"));
        let code = page.text(&format!("tls-{id}")).unwrap();
        assert!(code.contains("memgate-ca.pem") && code.contains("cache.example.com"), "{id}: {code}");
        let plain = page.text(&format!("plain-{id}")).unwrap();
        assert!(!plain.contains("memgate-ca.pem"), "{id}: {plain}");
    }
}

#[tokio::test]
async fn without_a_ca_certificate_no_page_mentions_tls() {
    let site = Site::start().await;
    let (mut visitor, page) = site.sign_up_user("a@example.com").await;
    assert!(page.text("tls").is_none() && page.text("tls-python-bmemcached").is_none());
    let response = visitor.get("/ca.pem").await;
    assert_eq!(response.status, 404);
    assert!(response.body.contains("data-status=\"404\""));
}
