//! Client certificates: issued for a token, shown once, with a key made here or with none.

use rcgen::{CertificateParams, KeyPair};
use store::{Token, TokenId};

use crate::harness::{Answer, Site};

async fn newcomer(site: &Site) -> (crate::harness::Visitor, TokenId, String) {
    let (visitor, page) = site.newcomer("a@example.com").await;
    let id = Token::parse(page.text("token").unwrap()).unwrap().id();
    (visitor, id, format!("/tokens/{id}/certificate"))
}

fn fingerprints(page: &Answer) -> Vec<String> {
    let listed = page.body.split("data-certificate=\"").skip(1);
    listed.map(|rest| rest.split_once('"').unwrap().0.to_owned()).collect()
}

#[tokio::test]
async fn one_is_issued_and_shown_once() {
    let site = Site::start().await;
    let (mut visitor, id, address) = newcomer(&site).await;
    assert!(visitor.get("/cache").await.body.contains(&format!("href=\"{address}\"")));
    let page = visitor.get(&address).await;
    assert_eq!((page.status, fingerprints(&page).len()), (200, 0));
    assert_eq!(site.store.certificates_of(&id).await.unwrap(), [], "asking changes nothing");

    let made = visitor.post(&address, &[("request", " \r\n")]).await;
    assert_eq!(made.status, 200);
    assert_eq!(made.header("cache-control"), Some("no-store"));
    assert!(made.text("certificate").unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    let key = made.text("certificate-key").unwrap();
    assert!(KeyPair::from_pem(key).is_ok());
    let kept = site.store.certificates_of(&id).await.unwrap();
    assert_eq!(fingerprints(&made), [kept[0].fingerprint.clone()]);
    let later = visitor.get(&address).await;
    assert_eq!(fingerprints(&later).len(), 1);
    assert!(later.text("certificate").is_none() && later.text("certificate-key").is_none());
    let user = site.store.user_by_email("a@example.com").await.unwrap().unwrap();
    let noted = site.store.audit_after(0, 100).await.unwrap().pop().unwrap();
    assert_eq!((noted.action.as_str(), noted.actor), ("certificate.issue", format!("user {}", user.id)));

    site.store.revoke_token(&id).await.unwrap();
    assert_eq!(visitor.get(&address).await.status, 404);
    visitor.get("/cache").await;
    assert_eq!(visitor.post(&address, &[]).await.status, 404);
}

#[tokio::test]
async fn who_has_a_key_keeps_it() {
    let site = Site::start().await;
    let (mut visitor, id, address) = newcomer(&site).await;
    visitor.get(&address).await;
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let made = visitor.post(&address, &[("request", &request)]).await;
    assert_eq!(made.status, 200);
    assert!(made.text("certificate").is_some() && made.text("certificate-key").is_none());
    for typed in ["rubbish", "\"></textarea><script>alert(1)</script>", &request.replace('M', "N")] {
        let answer = visitor.post(&address, &[("request", typed)]).await;
        assert_eq!(answer.status, 422);
        assert!(answer.text("certificate-error").is_some() && answer.text("certificate").is_none());
        assert!(!answer.body.contains("<script>"));
        assert!(answer.body.contains("aria-invalid=\"true\" aria-describedby=\"certificate-error\""));
    }
    assert_eq!(visitor.post(&address, &[("request", &"x".repeat(20_000))]).await.status, 413);
    assert_eq!(site.store.certificates_of(&id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn there_is_a_most_of_them() {
    let site = Site::start_with(|config| config.limits.tokens_per_hour = 19).await;
    let (mut visitor, id, address) = newcomer(&site).await;
    visitor.get(&address).await;
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(visitor.post(&address, &[]).await.status);
    }
    assert_eq!(statuses[..16], [200; 16]);
    assert_eq!(statuses[16..], [409, 409, 409, 429]);
    assert_eq!(site.store.certificates_of(&id).await.unwrap().len(), 16);
}

#[tokio::test]
async fn its_snippet_trusts_what_the_endpoint_shows() {
    for (file, context) in [(Some("ca.pem"), "(cafile=&#34;memgate-ca.pem&#34;)"), (None, "()")] {
        let site = Site::start_with(|config| config.ca_certificate = file.map(Into::into)).await;
        let (mut visitor, _, address) = newcomer(&site).await;
        visitor.get(&address).await;
        let made = visitor.post(&address, &[]).await;
        let snippet = made.text("certificate-snippet").unwrap().replace('"', "&#34;");
        assert!(snippet.contains(&format!("ssl.create_default_context{context}\n")), "{snippet}");
        assert_eq!(made.body.contains("href=\"/ca.pem\""), file.is_some());
        let (first, _) = made.body.split_once("</h1>").unwrap();
        assert!(!first.contains("<h2") && made.body.matches("</h1>").count() == 1, "the title comes first");
    }
}
