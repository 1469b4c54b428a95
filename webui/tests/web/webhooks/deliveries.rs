//! What receivers get: signed notifications, again until they take them, and nothing where webhooks mustn't lead.

use std::path::PathBuf;

use store::{DeliveryState, DisabledReason, InstanceState, NotificationKind};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{EMAIL, PAGE, create, create_for, leak, start, user_id};
use crate::harness::{PASSWORD, Site, eventually};
use crate::mail_server::MailServer;
use crate::webhook_receiver::{Answer, Received, Receiver};

/// The example of the page, run on a request: whether it takes it.
async fn python_accepts(page: &str, secret: &str, received: &Received) -> bool {
    let example = page.split("id=\"webhook-example\">").nth(1).unwrap().split("</pre>").next().unwrap();
    let example = example.replace("&gt;", ">");
    let program = format!(
        "{example}\nimport json, sys\nsecret, headers, body = json.load(sys.stdin)\n\
         print(is_genuine(secret, headers, body.encode()))\n"
    );
    let python = std::env::var_os("MEMGATE_TEST_PYTHON").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/tools/python/bin/python"),
        PathBuf::from,
    );
    let input = serde_json::json!([secret, received.headers, received.body]).to_string();
    let mut child = Command::new(python)
        .args(["-c", &program])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    match &*String::from_utf8_lossy(&output.stdout) {
        "True\n" => true,
        "False\n" => false,
        other => panic!("{other}"),
    }
}

// W-30, W-31: from the report of a leaked token to a webhook and a mail.
#[tokio::test]
async fn a_leaked_token_is_told_by_webhook_and_by_mail() {
    let (receiver, mail) = (Receiver::start().await, MailServer::start().await);
    let mut folder = None;
    let site = Site::start_with(|config| {
        folder = Some(receiver.configure(config));
        mail.configure(config);
    })
    .await;
    let (mut ann, first) = site.sign_up_user(EMAIL).await;
    let (id, secret) = create_for(&mut ann, &receiver.url()).await;
    // W-32: also if somebody else has made it.
    let told = mail.mail_to(EMAIL, 1).await;
    assert_eq!(told.subject(), "Your notifications go to another address");
    assert!(!told.text.contains("localhost"), "{}", told.text);
    leak(&site, &first).await;
    let received = receiver.request(1).await;
    assert_eq!(received.target, "/hooks?from=memgate");
    assert_eq!(received.headers["content-type"], "application/json");
    let json = received.json();
    assert_eq!((&json["kind"], &json["cache"]["name"]), (&"token_leaked".into(), &"default".into()));
    assert_eq!(json["data"]["url"], "https://git.example/a");
    assert_eq!(json["id"].as_str(), Some(received.headers["webhook-id"].as_str()));
    assert!(json["text"].as_str().unwrap().contains("was found in public"), "{json}");
    let page = ann.get(PAGE).await;
    assert!(python_accepts(&page.body, &secret, &received).await);
    // Neither another body, nor another time, nor another secret.
    let changed = Received { body: received.body.replace("token_leaked", "test"), ..received.clone() };
    assert!(!python_accepts(&page.body, &secret, &changed).await);
    let mut later = received.clone();
    later.headers.insert("webhook-timestamp".into(), "1".into());
    assert!(!python_accepts(&page.body, &secret, &later).await);
    let (_, other) = create_for(&mut ann, &receiver.url()).await;
    assert!(!python_accepts(&page.body, &other, &received).await);

    let told = mail.mail_to(EMAIL, 2).await;
    assert_eq!(told.subject(), "A token of yours was found in public");
    // Another address is told; another description isn't.
    let change = [("url", "https://other.example/"), ("token_leaked", ""), ("password", PASSWORD)];
    for description in ["", "web shop"] {
        let fields: Vec<_> = change.into_iter().chain([("description", description)]).collect();
        let changed = ann.post(&format!("{PAGE}/{id}/edit"), &fields).await;
        assert!(changed.status < 400, "{}: {}", changed.status, changed.body);
    }
    for number in [3, 4] {
        let told = mail.mail_to(EMAIL, number).await;
        assert_eq!(told.subject(), "Your notifications go to another address", "second webhook, change");
    }
    assert_eq!(site.store.waiting_mails().await.unwrap(), 0);
    let mail = told;
    // Nor what its user has written: anybody can sign up with somebody else's address.
    assert!(!mail.text.contains("default") && !mail.text.contains("first"), "{}", mail.text);
    assert!(mail.text.contains("http://memgate.test/account/notifications"), "{}", mail.text);
    // What the finder of a token writes isn't sent in our name.
    assert!(!mail.text.contains("git.example"), "{}", mail.text);
    let listed = ann.get("/account/notifications").await;
    assert!(listed.body.contains("data-notification=\"token_leaked\""), "{}", listed.body);
    assert_eq!(site.find_metric("memgate_webui_notifications_total{kind=\"token_leaked\"}"), Some(1));
    assert_eq!(site.find_metric("memgate_webui_webhook_deliveries_total{outcome=\"delivered\"}"), Some(1));
}

// W-30.
#[tokio::test]
async fn failed_deliveries_are_tried_again() {
    let receiver = Receiver::start().await;
    let (site, _folder) = start(&receiver).await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let (id, secret) = create_for(&mut ann, &receiver.url()).await;
    receiver.answer(&[Answer::Status(500), Answer::Status(201)]);
    site.set_state(EMAIL, InstanceState::Failed).await;
    let (first, second) = (receiver.request(1).await, receiver.request(2).await);
    assert_eq!(first.body, second.body, "the same notification");
    assert_eq!(first.headers["webhook-id"], second.headers["webhook-id"]);
    assert!(python_accepts(&ann.get(PAGE).await.body, &secret, &second).await);
    let state = async || site.store.webhook_deliveries(&id, None, 10).await.unwrap()[0].clone();
    eventually("it is recorded", async || state().await.state == DeliveryState::Delivered).await;
    assert_eq!((state().await.attempts, state().await.status), (2, Some(201)));
    let page = ann.get(&format!("{PAGE}/{id}")).await;
    assert!(page.body.contains("2 attempts, status 201"), "{}", page.body);
    assert!(
        !page.body.contains("&lt;secret") && !page.body.contains("<secret>"),
        "nothing that the receiver says"
    );

    // Sent again by hand: the same once more.
    let delivery = state().await.id;
    let again = ann.post(&format!("{PAGE}/{id}/deliveries/{delivery}/send-again"), &[]).await;
    assert_eq!((again.status, again.location()), (303, &*format!("{PAGE}/{id}?done=sending")));
    assert_eq!(receiver.request(3).await.body, first.body);
}

// W-30.
#[tokio::test]
async fn a_receiver_that_is_gone_gets_no_more() {
    let receiver = Receiver::start().await;
    let (site, _folder) = start(&receiver).await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let (id, _) = create_for(&mut ann, &receiver.url()).await;
    receiver.answer(&[Answer::Status(410)]);
    site.set_state(EMAIL, InstanceState::Failed).await;
    let disabled = async || site.store.webhook(&id).await.unwrap().unwrap().disabled;
    eventually("it is disabled", async || disabled().await == Some(DisabledReason::Gone)).await;
    let user = user_id(&site, EMAIL).await;
    let told = site.store.notifications_of(&user, None, 10).await.unwrap();
    assert!(told.iter().any(|it| it.kind == NotificationKind::WebhookDisabled));
    let page = ann.get(&format!("{PAGE}/{id}")).await;
    assert!(page.text("webhook-state").unwrap().contains("410"), "{}", page.body);
    assert_eq!(ann.post(&format!("{PAGE}/{id}/test"), &[]).await.status, 409);
    assert_eq!(ann.post(&format!("{PAGE}/{id}/enable"), &[]).await.status, 303);
    assert_eq!(ann.post(&format!("{PAGE}/{id}/test"), &[]).await.status, 303);
    assert_eq!(receiver.request(2).await.json()["kind"], "test");
}

// W-30: a receiver that hangs holds its own deliveries up, and nobody else's.
#[tokio::test]
async fn a_slow_receiver_delays_no_other() {
    let receiver = Receiver::start().await;
    let (site, _folder) = start(&receiver).await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let (slow, _) = create_for(&mut ann, &receiver.url()).await;
    receiver.answer(&[Answer::Hang]);
    assert_eq!(ann.post(&format!("{PAGE}/{slow}/test"), &[]).await.status, 303);
    receiver.request(1).await;
    let (mut bob, _) = site.sign_up_user("bob@example.com").await;
    let (fast, _) = create_for(&mut bob, &receiver.url()).await;
    assert_eq!(bob.post(&format!("{PAGE}/{fast}/test"), &[]).await.status, 303);
    receiver.request(2).await;
    let state = async |id: &str| site.store.webhook_deliveries(id, None, 10).await.unwrap()[0].clone();
    eventually("Bob's is delivered", async || state(&fast).await.state == DeliveryState::Delivered).await;
    // The hanging attempt ends by itself, and is made again.
    eventually("Ann's has failed", async || state(&slow).await.error == "no reply within 10 s").await;
    assert!(site.stop().await);
}

// W-30.
#[tokio::test]
async fn both_secrets_sign_after_a_rotation() {
    let receiver = Receiver::start().await;
    let (site, _folder) = start(&receiver).await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let (id, old) = create_for(&mut ann, &receiver.url()).await;
    let path = format!("{PAGE}/{id}");
    assert_eq!(ann.post(&format!("{path}/rotate"), &[("password", "wrong horse battery")]).await.status, 401);
    let rotated = ann.post(&format!("{path}/rotate"), &[("password", crate::harness::PASSWORD)]).await;
    assert_eq!(rotated.status, 200, "{}", rotated.body);
    let new = rotated.text("webhook-secret").unwrap().to_owned();
    assert_ne!(new, old);
    assert_eq!(ann.get(&path).await.text("webhook-secret"), None, "shown once");
    ann.post(&format!("{path}/test"), &[]).await;
    let received = receiver.request(1).await;
    assert_eq!(received.headers["webhook-signature"].split(' ').count(), 2);
    let page = ann.get(PAGE).await;
    assert!(
        python_accepts(&page.body, &old, &received).await
            && python_accepts(&page.body, &new, &received).await
    );
}

// W-28: names that lead to this machine, also with a valid certificate.
#[tokio::test]
async fn nothing_is_sent_to_addresses_that_are_not_public() {
    let receiver = Receiver::start().await;
    let mut folder = None;
    let site = Site::start_with(|config| {
        folder = Some(receiver.configure(config));
        config.webhooks.allow_networks.clear();
    })
    .await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let port = receiver.address.port();
    for host in
        ["127.0.0.1", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.213.7.99"]
    {
        let url = format!("https://{host}:{port}/");
        let refused = create(&mut ann, &[("url", &url), ("cache_failed", "")]).await;
        assert_eq!(refused.status, 422, "{url}");
        assert!(refused.text("webhook-url-error").unwrap().contains("public"), "{url}");
    }
    let (id, _) = create_for(&mut ann, &receiver.url()).await;
    ann.post(&format!("{PAGE}/{id}/test"), &[]).await;
    let error = async || site.store.webhook_deliveries(&id, None, 10).await.unwrap()[0].error.clone();
    eventually("it has failed", async || {
        error().await == "the name leads to no address that webhooks may go to"
    })
    .await;
    assert_eq!(receiver.connections(), 0);
}

// W-28: the operator's private networks, but not those of caches; and certificates are checked there, too.
#[tokio::test]
async fn networks_of_caches_and_foreign_certificates_are_refused() {
    let (receiver, foreign) = (Receiver::start().await, Receiver::start().await);
    let (site, _folder) = start(&receiver).await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let (id, _) = create_for(&mut ann, &foreign.url()).await;
    ann.post(&format!("{PAGE}/{id}/test"), &[]).await;
    let error = async |id: &str| site.store.webhook_deliveries(id, None, 10).await.unwrap()[0].error.clone();
    eventually("TLS has failed", async || error(&id).await.starts_with("no TLS connection")).await;
    assert!(foreign.received().is_empty());
    let network = store::Network {
        name: "n".into(),
        bridge: "b".into(),
        subnet: "127.0.0.0/16".into(),
        gateway: "127.0.0.1".into(),
    };
    site.store.add_network(&network, &[]).await.unwrap();
    let (id, _) = create_for(&mut ann, &receiver.url()).await;
    ann.post(&format!("{PAGE}/{id}/test"), &[]).await;
    eventually("it has failed", async || !error(&id).await.is_empty()).await;
    assert_eq!(error(&id).await, "the name leads to no address that webhooks may go to");
    assert!(receiver.received().is_empty());
}
