//! The pages of notifications and webhooks: who may do what, and what is asked for.

use store::{DisabledReason, NotificationKind, NotificationKinds, UserState};

use super::{EMAIL, KINDS, PAGE, create, create_for, start, user_id};
use crate::harness::{PASSWORD, Site};
use crate::webhook_receiver::Receiver;

const URL: &str = "https://hooks.example/memgate";

// W-21, W-32: a webhook outlives the session that makes it.
#[tokio::test]
async fn a_webhook_takes_the_password_and_a_code() {
    let site = Site::start_with(|config| config.limits.sign_ins_per_minute = 100).await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let user = user_id(&site, EMAIL).await;
    for (password, status) in [("", 401), ("wrong horse battery", 401), (PASSWORD, 200)] {
        let response = create(&mut ann, &[("url", URL), ("cache_failed", ""), ("password", password)]).await;
        assert_eq!(response.status, status, "{password}");
        assert_eq!(response.text("webhook-password-error").is_some(), status == 401);
    }
    let webhook = site.store.webhooks_of(&user).await.unwrap().remove(0);
    assert_eq!(webhook.kinds, [NotificationKind::CacheFailed].into_iter().collect());
    let edit = format!("{PAGE}/{}/edit", webhook.id);
    let fields =
        [("url", "https://evil.example/"), ("cache_failed", ""), ("password", "wrong horse battery")];
    assert_eq!(ann.post(&edit, &fields).await.status, 401);
    site.set_up_second_factor(&user).await;
    let refused = create(&mut ann, &[("url", URL), ("cache_failed", "")]).await;
    assert_eq!(refused.status, 401);
    assert!(refused.text("webhook-code-error").is_some(), "{}", refused.body);
    let rotate = format!("{PAGE}/{}/rotate", webhook.id);
    let refused = ann.post(&rotate, &[("password", PASSWORD)]).await;
    assert_eq!(refused.status, 401);
    assert!(refused.text("rotate-code-error").is_some(), "{}", refused.body);
    assert_eq!(site.store.webhooks_of(&user).await.unwrap(), [webhook]);
}

// W-32.
#[tokio::test]
async fn a_webhook_is_created_changed_and_deleted() {
    let receiver = Receiver::start().await;
    let (site, _folder) = start(&receiver).await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    assert!(ann.get("/account").await.body.contains("href=\"/account/notifications\""));
    assert!(ann.get("/account/notifications").await.body.contains("href=\"/account/webhooks\""));
    let (id, secret) = create_for(&mut ann, URL).await;
    assert!(secret.starts_with("whsec_") && secret.len() == 50, "{secret}");
    let list = ann.get(PAGE).await;
    assert!(
        list.body.contains(&format!("data-webhook=\"{id}\"")) && !list.body.contains(&secret),
        "shown once"
    );
    let path = format!("{PAGE}/{id}");
    let page = ann.get(&path).await;
    assert_eq!((page.status, page.text("webhook-state")), (200, Some("enabled")));
    let fields = [
        ("url", "https://other.example/x"),
        ("description", "shop"),
        ("cache_emptied", ""),
        ("password", PASSWORD),
    ];
    let saved = ann.post(&format!("{path}/edit"), &fields).await;
    assert_eq!((saved.status, saved.location()), (303, &*format!("{path}?done=saved")));
    assert!(ann.get(&format!("{path}?done=saved")).await.text("done").is_some());
    assert!(ann.get(&format!("{path}?done=%3Cscript%3E")).await.text("done").is_none());
    let webhook = site.store.webhook(&id).await.unwrap().unwrap();
    assert_eq!((webhook.url.as_str(), webhook.description.as_str()), ("https://other.example/x", "shop"));
    assert_eq!(webhook.kinds, [NotificationKind::CacheEmptied].into_iter().collect());
    assert_eq!(ann.post(&format!("{path}/disable"), &[]).await.status, 303);
    assert_eq!(site.store.webhook(&id).await.unwrap().unwrap().disabled, Some(DisabledReason::User));
    assert_eq!(ann.post(&format!("{path}/enable"), &[]).await.status, 303);
    assert_eq!(ann.post(&format!("{path}/delete"), &[]).await.location(), "/account/webhooks?deleted");
    assert!(ann.get("/account/webhooks?deleted").await.text("deleted").is_some());
    assert_eq!(ann.get(&path).await.status, 404);
    let actions: Vec<String> = site
        .store
        .audit_after(0, 100)
        .await
        .unwrap()
        .into_iter()
        .filter(|entry| entry.action.starts_with("webhook."))
        .map(|entry| entry.action)
        .collect();
    let expected = ["create", "update", "disable", "enable", "delete"].map(|it| format!("webhook.{it}"));
    assert_eq!(actions, expected);
}

#[tokio::test]
async fn invalid_fields_are_told_beside_them_and_kept() {
    let site = Site::start_with(|config| config.limits.sign_ins_per_minute = 100).await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let long = "x".repeat(61);
    for (fields, error) in [
        (vec![("url", ""), ("cache_failed", "")], "webhook-url-error"),
        (vec![("url", "http://hooks.example/"), ("cache_failed", "")], "webhook-url-error"),
        (vec![("url", "https://a:b@hooks.example/"), ("cache_failed", "")], "webhook-url-error"),
        (vec![("url", URL), ("description", &*long), ("cache_failed", "")], "webhook-description-error"),
        (vec![("url", URL)], "webhook-kinds-error"),
        (vec![("url", URL), ("test", "")], "webhook-kinds-error"),
    ] {
        let response = create(&mut ann, &fields).await;
        assert_eq!(response.status, 422, "{fields:?}");
        assert!(response.text(error).is_some(), "{fields:?}: {}", response.body);
    }
    assert!(site.store.webhooks_of(&user_id(&site, EMAIL).await).await.unwrap().is_empty());
}

// W-6, W-11, W-32.
#[tokio::test]
async fn webhooks_of_other_users_are_not_found() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let (mut bob, _) = site.sign_up_user("bob@example.com").await;
    let (id, _) = create_for(&mut ann, URL).await;
    ann.post(&format!("{PAGE}/{id}/test"), &[]).await;
    let delivery = site.store.webhook_deliveries(&id, None, 1).await.unwrap().remove(0).id;
    let (own, _) = create_for(&mut bob, URL).await;
    let before = site.store.webhook(&id).await.unwrap();
    for id in [&*id, &"a".repeat(24), "x", "%00", &"a".repeat(3_000)] {
        assert_eq!(bob.get(&format!("{PAGE}/{id}")).await.status, 404, "{id}");
        for action in [
            "edit",
            "rotate",
            "enable",
            "disable",
            "delete",
            "test",
            &format!("deliveries/{delivery}/send-again"),
        ] {
            let fields = [("url", URL), ("cache_failed", ""), ("password", PASSWORD)];
            assert_eq!(
                bob.post(&format!("{PAGE}/{id}/{action}"), &fields).await.status,
                404,
                "{action} {id}"
            );
        }
    }
    // Ann's delivery of Bob's webhook.
    let again = format!("{PAGE}/{own}/deliveries/{delivery}/send-again");
    assert_eq!(bob.post(&again, &[]).await.status, 404);
    for action in [
        "edit",
        "rotate",
        "enable",
        "disable",
        "delete",
        "test",
        &format!("deliveries/{delivery}/send-again"),
    ] {
        assert_eq!(
            ann.post_without_token(&format!("{PAGE}/{id}/{action}"), &[]).await.status,
            403,
            "{action}"
        );
    }
    assert_eq!(ann.post_without_token(PAGE, &[("url", URL)]).await.status, 403);
    assert_eq!(site.visitor().get(PAGE).await.location(), format!("/sign-in?next={PAGE}"));
    let after = site.store.webhook(&id).await.unwrap();
    assert_eq!(
        after.map(|it| (it.url, it.generation, it.disabled)),
        before.map(|it| (it.url, it.generation, it.disabled))
    );
    assert!(!bob.get("/account/notifications").await.body.contains("data-notification"));
}

// W-29.
#[tokio::test]
async fn changes_and_tests_are_limited() {
    let site = Site::start_with(|config| config.limits.sign_ins_per_minute = 100).await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let (id, _) = create_for(&mut ann, URL).await;
    let mut statuses = Vec::new();
    for _ in 0..31 {
        statuses.push(ann.post(&format!("{PAGE}/{id}/test"), &[]).await.status);
    }
    assert_eq!(statuses, [[303; 30].as_slice(), &[429]].concat());
    assert_eq!(site.limited("webhook_sends"), 1);
    for _ in 0..29 {
        assert_eq!(ann.post(&format!("{PAGE}/{id}/enable"), &[]).await.status, 303);
    }
    let refused = ann.post(&format!("{PAGE}/{id}/enable"), &[]).await;
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").is_some() && refused.text("refused").is_some());
    assert_eq!(ann.post(&format!("{PAGE}/{id}/disable"), &[]).await.status, 303, "always");
}

// W-32.
#[tokio::test]
async fn operators_may_allow_no_webhooks_and_suspend_users() {
    let site = Site::start_with(|config| config.webhooks.enabled = false).await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    assert!(ann.get(PAGE).await.text("no-webhooks").is_some());
    assert_eq!(create(&mut ann, &[("url", URL), ("cache_failed", "")]).await.status, 409);
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let (id, _) = create_for(&mut ann, URL).await;
    site.store.set_user_state(&user_id(&site, EMAIL).await, UserState::Suspended).await.unwrap();
    assert_eq!(create(&mut ann, &[("url", URL), ("cache_failed", "")]).await.status, 403);
    assert_eq!(ann.post(&format!("{PAGE}/{id}/test"), &[]).await.status, 403);
    assert_eq!(ann.post(&format!("{PAGE}/{id}/delete"), &[]).await.status, 303);
}

// W-31.
#[tokio::test]
async fn users_choose_what_comes_by_mail() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let page = ann.get("/account/notifications").await;
    assert!(page.body.contains("name=\"token_leaked\" checked") && page.text("no-mail").is_some());
    assert!(!page.body.contains("name=\"cache_recovered\" checked"));
    let fields: Vec<(&str, &str)> = KINDS.map(|kind| (kind, "on")).into();
    let saved = ann.post("/account/notifications", &fields).await;
    assert_eq!((saved.status, saved.location()), (303, "/account/notifications?saved"));
    let user = user_id(&site, EMAIL).await;
    let chosen: NotificationKinds = KINDS.join(",").parse().unwrap();
    assert_eq!(site.store.mail_kinds_of(&user).await.unwrap(), chosen);
    ann.post("/account/notifications", &[]).await;
    assert_eq!(site.store.mail_kinds_of(&user).await.unwrap(), NotificationKinds::NONE);
}
