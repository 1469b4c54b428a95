//! Client certificates: issued for a token with a new or an existing key, and shown once.

use rcgen::{CertificateParams, KeyPair};
use store::{Token, TokenId};

use crate::harness::{Response, Site};

async fn sign_up_user(site: &Site) -> (crate::harness::Visitor, TokenId, String) {
    let (visitor, page) = site.sign_up_user("a@example.com").await;
    let id = Token::parse(page.text("token").unwrap()).unwrap().id();
    (visitor, id, format!("/tokens/{id}/certificates"))
}

fn fingerprints(page: &Response) -> Vec<String> {
    let listed = page.body.split("data-certificate=\"").skip(1);
    listed.map(|rest| rest.split_once('"').unwrap().0.to_owned()).collect()
}

#[tokio::test]
async fn a_certificate_is_shown_once() {
    let site = Site::start().await;
    let (mut visitor, id, address) = sign_up_user(&site).await;
    assert!(visitor.get("/caches/{cache}/tokens").await.body.contains(&format!("href=\"{address}\"")));
    let page = visitor.get(&address).await;
    assert_eq!((page.status, fingerprints(&page).len()), (200, 0));
    assert_eq!(site.store.certificates_of(&id).await.unwrap(), [], "asking changes nothing");

    let created = visitor.post(&address, &[("request", " \r\n")]).await;
    assert_eq!(created.status, 200);
    assert_eq!(created.header("cache-control"), Some("no-store"));
    assert!(created.text("certificate").unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    let key = created.text("certificate-key").unwrap();
    assert!(KeyPair::from_pem(key).is_ok());
    let kept = site.store.certificates_of(&id).await.unwrap();
    assert_eq!(fingerprints(&created), [kept[0].fingerprint.clone()]);
    let later = visitor.get(&address).await;
    assert_eq!(fingerprints(&later).len(), 1);
    assert!(later.text("certificate").is_none() && later.text("certificate-key").is_none());
    let user = site.store.user_by_email("a@example.com").await.unwrap().unwrap();
    let noted = site.store.audit_after(0, 100).await.unwrap().pop().unwrap();
    assert_eq!((noted.action.as_str(), noted.actor), ("certificate.issue", format!("user {}", user.id)));

    site.store.revoke_token(&id).await.unwrap();
    assert_eq!(visitor.get(&address).await.status, 404);
    visitor.get("/caches/{cache}/tokens").await;
    assert_eq!(visitor.post(&address, &[]).await.status, 404);
}

#[tokio::test]
async fn existing_key_is_kept() {
    let site = Site::start().await;
    let (mut visitor, id, address) = sign_up_user(&site).await;
    visitor.get(&address).await;
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let created = visitor.post(&address, &[("request", &request)]).await;
    assert_eq!(created.status, 200);
    assert!(created.text("certificate").is_some() && created.text("certificate-key").is_none());
    for input in ["rubbish", "\"></textarea><script>alert(1)</script>", &request.replace('M', "N")] {
        let response = visitor.post(&address, &[("request", input)]).await;
        assert_eq!(response.status, 422);
        assert!(response.text("certificate-error").is_some() && response.text("certificate").is_none());
        assert!(!response.body.contains("<script>"));
        assert!(response.body.contains("aria-invalid=\"true\" aria-describedby=\"certificate-error\""));
    }
    assert_eq!(visitor.post(&address, &[("request", &"x".repeat(20_000))]).await.status, 413);
    assert_eq!(site.store.certificates_of(&id).await.unwrap().len(), 1);
}

// W-11.
#[tokio::test]
async fn certificates_have_names_and_are_revoked_alone() {
    let site = Site::start().await;
    let (mut visitor, id, address) = sign_up_user(&site).await;
    visitor.get(&address).await;
    let hostile = "\"><script>alert(1)</script>";
    for name in ["web-1", hostile] {
        assert_eq!(visitor.post(&address, &[("name", name)]).await.status, 200);
    }
    let page = visitor.get(&address).await;
    assert!(page.body.contains("<bdi class=\"name\">web-1</bdi>") && !page.body.contains("<script>alert"));
    for bad in ["\u{200b}", "a\u{7}b", &"x".repeat(61)] {
        let refused = visitor.post(&address, &[("name", bad)]).await;
        assert_eq!(refused.status, 422, "{bad:?}");
        assert!(refused.text("certificate-name-error").is_some(), "{}", refused.body);
    }
    let rows = site.store.certificates_of(&id).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["web-1", hostile]);

    let revoke = format!("{address}/revoke");
    let fingerprint = [("fingerprint", rows[0].fingerprint.as_str())];
    let (mut bob, _) = site.sign_up_user("bob@example.com").await;
    bob.get("/account").await;
    assert_eq!(bob.post(&revoke, &fingerprint).await.status, 404, "another user's");
    assert_eq!(visitor.post_without_token(&revoke, &fingerprint).await.status, 403);
    assert_eq!(visitor.post(&revoke, &[("fingerprint", "x")]).await.status, 404);
    visitor.get(&address).await;
    let revoked = visitor.post(&revoke, &fingerprint).await;
    assert_eq!((revoked.status, revoked.location()), (303, &*format!("{address}?revoked")));
    let page = visitor.get(&format!("{address}?revoked")).await;
    assert!(page.text("certificate-revoked").is_some());
    assert_eq!(page.body.matches("Revoke certificate</button>").count(), 1, "the other one");
    let rows = site.store.certificates_of(&id).await.unwrap();
    assert!(!rows[0].is_valid_at(store::now()) && rows[1].is_valid_at(store::now()));
    let noted = site.store.audit_after(0, 100).await.unwrap().pop().unwrap();
    assert_eq!(noted.action, "certificate.revoke");
}

#[tokio::test]
async fn certificate_count_is_limited() {
    let site = Site::start_with(|config| config.limits.tokens_per_hour = 19).await;
    let (mut visitor, id, address) = sign_up_user(&site).await;
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
async fn the_snippet_trusts_the_ca_certificate() {
    for (file, context) in [(Some("ca.pem"), "(cafile=&#34;memgate-ca.pem&#34;)"), (None, "()")] {
        let site = Site::start_with(|config| config.ca_certificate = file.map(Into::into)).await;
        let (mut visitor, _, address) = sign_up_user(&site).await;
        visitor.get(&address).await;
        let created = visitor.post(&address, &[]).await;
        let snippet = created.text("certificate-snippet").unwrap().replace('"', "&#34;");
        assert!(snippet.contains(&format!("ssl.create_default_context{context}\n")), "{snippet}");
        assert_eq!(created.body.contains("href=\"/ca.pem\""), file.is_some());
        let (first, _) = created.body.split_once("</h1>").unwrap();
        assert!(
            !first.contains("<h2") && created.body.matches("</h1>").count() == 1,
            "the title comes first"
        );
    }
}
