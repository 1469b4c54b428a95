//! Denials and propagation on the token page.

use std::time::Duration;

use store::{DenialCause, DenialRecord, Proxy, Scope, Timestamp, Token, now};

use crate::harness::Site;

pub(crate) fn denial(token: &str, cause: DenialCause, count: i64) -> DenialRecord {
    DenialRecord {
        token_id: token.into(),
        cause,
        source: Some("192.0.2.77".into()),
        detail: "SASL PLAIN".into(),
        protocol: "binary".into(),
        tls: false,
        count,
        first_at: now().saturating_sub(Duration::from_secs(500)),
        last_at: now().saturating_sub(Duration::from_millis(180_500)),
    }
}

#[tokio::test]
async fn denials_are_shown_to_the_owner_only() {
    let site = Site::start().await;
    let (mut ann, first) = site.sign_up_user("ann@example.com").await;
    let (mut bob, _) = site.sign_up_user("bob@example.com").await;
    let id = Token::parse(first.text("token").unwrap()).unwrap().id().to_string();
    let address = format!("/tokens/{id}");
    assert!(ann.get("/caches/{cache}/denials").await.body.contains("No denied requests yet."));
    assert!(ann.get(&address).await.body.contains("No denied requests yet."));

    let denials = [denial(&id, DenialCause::Mistyped, 12), denial(&id, DenialCause::Scope(Scope::Write), 1)];
    site.store.add_denials(&denials).await.unwrap();
    for path in ["/caches/{cache}/denials", &address] {
        let page = ann.get(path).await;
        assert_eq!(page.status, 200);
        for text in [
            DenialCause::Mistyped.what().split(':').next().unwrap(),
            DenialCause::Mistyped.fix(),
            "data-denial=\"scope_write\"",
            "From 192.0.2.77, SASL PLAIN, binary protocol without TLS.",
            "12 times, last 3 minutes ago",
        ] {
            assert!(page.body.contains(text), "{path}: {text} is not in {}", page.body);
        }
    }
    assert!(bob.get("/caches/{cache}/denials").await.body.contains("No denied requests yet."));
    assert_eq!(bob.get(&address).await.status, 404);
    // Denials of a revoked token are still shown.
    ann.get("/caches/{cache}/denials").await;
    ann.post(&format!("{address}/revoke"), &[]).await;
    let page = ann.get(&address).await;
    assert!(
        page.body.contains("revoked ") && !page.body.contains("/rotate") && !page.body.contains("/revoke")
    );
    assert!(page.body.contains("data-denial=\"mistyped\""));
}

#[tokio::test]
async fn the_token_page_lists_proxies_that_applied_a_revocation() {
    let site = Site::start().await;
    let (mut ann, first) = site.sign_up_user("ann@example.com").await;
    let address = format!("/tokens/{}", Token::parse(first.text("token").unwrap()).unwrap().id());
    ann.get("/caches/{cache}/denials").await;
    ann.post(&format!("{address}/revoke"), &[]).await;
    let revoked = site.store.revision().await.unwrap();
    for (name, age, applied) in [("a:1", 0, revoked), ("b:1", 5, revoked - 1), ("c:1", 70, revoked - 1)] {
        let seen_at = now().saturating_sub(Duration::from_secs(age));
        let proxy = Proxy {
            id: name.into(),
            name: name.into(),
            version: "1".into(),
            started_at: Timestamp::EPOCH,
            seen_at,
            applied,
        };
        site.store.renew_proxy(&proxy).await.unwrap();
    }
    let page = ann.get(&address).await.body;
    for text in [
        "The revocation or expiry is in force on 1 of 2 proxies.",
        "data-applied=\"a:1\"",
        "data-pending=\"b:1\"",
        "data-offline=\"c:1\"",
        "offline, last seen 1 minute ago",
    ] {
        assert!(page.contains(text), "{text} is not in {page}");
    }
}
