//! "Why was I refused?", in a browser.

use store::{DenialCause, DenialRecord, Proxy, Token, now};

use crate::harness::Site;

fn denial(token: &str, cause: DenialCause, times: i64) -> DenialRecord {
    DenialRecord {
        token_id: token.into(),
        cause,
        source: Some("192.0.2.77".into()),
        hint: "SASL PLAIN".into(),
        protocol: "binary".into(),
        tls: false,
        times,
        first_at: now() - 500_000,
        last_at: now() - 180_500,
    }
}

#[tokio::test]
async fn a_denial_is_told_to_the_token_s_owner_and_to_nobody_else() {
    let site = Site::start().await;
    let (mut ann, first) = site.newcomer("ann@example.com").await;
    let (mut bob, _) = site.newcomer("bob@example.com").await;
    let id = Token::parse(first.text("token").unwrap()).unwrap().id().to_string();
    let address = format!("/tokens/{id}");
    assert!(!ann.get("/cache").await.body.contains("id=\"refused\""), "nobody was");
    assert!(ann.get(&address).await.body.contains("Nobody."));

    let denials = [denial(&id, DenialCause::Mistyped, 12), denial(&id, DenialCause::ScopeWrite, 1)];
    site.store.add_denials(&denials).await.unwrap();
    for path in ["/cache", &address] {
        let page = ann.get(path).await;
        assert_eq!(page.status, 200);
        for words in [
            DenialCause::Mistyped.what().split(':').next().unwrap(),
            DenialCause::Mistyped.fix(),
            "data-denial=\"scope_write\"",
            "From 192.0.2.77, SASL PLAIN, binary protocol without TLS.",
            "12 times, last 3 minutes ago",
        ] {
            assert!(page.body.contains(words), "{path}: {words} is not in {}", page.body);
        }
    }
    assert!(!bob.get("/cache").await.body.contains("id=\"refused\""));
    assert_eq!(bob.get(&address).await.status, 404);
    // Whoever still uses a revoked token is to be found out, too.
    ann.get("/cache").await;
    ann.post(&format!("{address}/revoke"), &[]).await;
    let page = ann.get(&address).await;
    assert!(
        page.body.contains("revoked ") && !page.body.contains("/rotate") && !page.body.contains("/revoke")
    );
    assert!(page.body.contains("data-denial=\"mistyped\""));
}

#[tokio::test]
async fn the_page_says_which_proxies_have_carried_a_revocation_out() {
    let site = Site::start().await;
    let (mut ann, first) = site.newcomer("ann@example.com").await;
    let address = format!("/tokens/{}", Token::parse(first.text("token").unwrap()).unwrap().id());
    ann.get("/cache").await;
    ann.post(&format!("{address}/revoke"), &[]).await;
    let revoked = site.store.revision().await.unwrap();
    for (name, age, applied) in
        [("a:1", 0, revoked), ("b:1", 5_000, revoked - 1), ("c:1", 70_000, revoked - 1)]
    {
        let seen_at = now() - age;
        let proxy = Proxy {
            id: name.into(),
            name: name.into(),
            version: "1".into(),
            started_at: 0,
            seen_at,
            applied,
        };
        site.store.renew_proxy(&proxy).await.unwrap();
    }
    let page = ann.get(&address).await.body;
    for words in [
        "Its end is in force on 1 of 2 proxies.",
        "data-acknowledged=\"a:1\"",
        "data-awaited=\"b:1\"",
        "data-gone=\"c:1\"",
        "gone, last heard of 1 minute ago",
    ] {
        assert!(page.contains(words), "{words} is not in {page}");
    }
}
