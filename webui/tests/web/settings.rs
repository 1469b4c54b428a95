//! Settings of a cache: operations that its user asks for, what they cost, and who is refused.

mod policy;

use store::{
    HostCapacity, Instance, InstanceState, NewOperation, Observed, Operation, OperationKind,
    OperationProgress, OperationState, UserState, now,
};

use crate::cache_events::Events;
use crate::harness::{Response, Site, Visitor};

const EMAIL: &str = "a@example.com";
const SETTINGS: &str = "/caches/{cache}/settings";
/// Every page and form of an action, with the field that it needs.
const ACTIONS: [(&str, &[(&str, &str)]); 6] = [
    ("restart", &[("confirmed", "1")]),
    ("flush", &[("confirmed", "1")]),
    ("suspend", &[("confirmed", "1")]),
    ("resume", &[]),
    ("resize", &[("memory_mb", "32")]),
    ("delete", &[("name", "default")]),
];

async fn instance(site: &Site) -> Instance {
    let user = site.store.user_by_email(EMAIL).await.unwrap().unwrap();
    site.store.first_instance_of(&user.id).await.unwrap().unwrap()
}

/// The newest operations, newest first.
async fn operations(site: &Site) -> Vec<Operation> {
    let user = site.store.user_by_email(EMAIL).await.unwrap().unwrap();
    let cache = site.store.first_cache_of(&user.id).await.unwrap().unwrap();
    site.store.operations_of(&cache.id, 10).await.unwrap()
}

/// A user with a running cache, and its plan.
async fn running(warm: bool, memory_mb: i64) -> (Site, Visitor) {
    let site = Site::start().await;
    site.store.update_plan("default", |plan| (plan.warm, plan.memory_mb) = (warm, memory_mb)).await.unwrap();
    let (visitor, _) = site.sign_up_user(EMAIL).await;
    site.set_state(EMAIL, InstanceState::Running).await;
    (site, visitor)
}

/// Sends a form of the page of settings.
async fn ask(visitor: &mut Visitor, action: &str, fields: &[(&str, &str)]) -> Response {
    visitor.get(SETTINGS).await;
    visitor.post(&format!("/caches/{{cache}}/{action}"), fields).await
}

async fn finish(site: &Site, operation: &Operation, state: OperationState, message: &str) {
    let message = Some(message.to_owned());
    let ended = OperationProgress { state, progress: 100, message, checkpoint: None };
    site.store.record_operation(&operation.id, &ended).await.unwrap();
}

#[tokio::test]
async fn each_action_asks_for_its_operation_as_the_user() {
    let (site, mut visitor) = running(false, 64).await;
    for (action, fields, kind, title) in [
        ("restart", ACTIONS[0].1, OperationKind::Restart, "Restart requested."),
        ("flush", ACTIONS[1].1, OperationKind::Flush, "Flush requested."),
        ("resize", ACTIONS[4].1, OperationKind::Resize, "Resize requested."),
        ("suspend", ACTIONS[2].1, OperationKind::Suspend, "Suspension requested."),
        ("resume", ACTIONS[3].1, OperationKind::Resume, "Resumption requested."),
    ] {
        let led = ask(&mut visitor, action, fields).await;
        let path = visitor.path(&format!("{SETTINGS}?requested={action}"));
        assert_eq!((led.status, led.location()), (303, &*path), "{}", led.body);
        let asked = operations(&site).await.remove(0);
        assert_eq!((asked.kind, asked.state), (kind, OperationState::Pending));
        assert_eq!(asked.requested_by, format!("user {}", instance(&site).await.user_id));
        assert_eq!(asked.memory_mb, (action == "resize").then_some(32));
        let page = visitor.get(&path).await;
        assert!(page.text("requested").unwrap().starts_with(title), "{}", page.body);
        assert!(page.body.contains("http-equiv=\"refresh\""), "{action}: without scripts the page reloads");
        assert!(!visitor.get(SETTINGS).await.body.contains("http-equiv=\"refresh\""), "{action}");

        finish(&site, &asked, OperationState::Done, "it worked").await;
        let page = visitor.get(&path).await;
        assert_eq!(page.text("requested"), None, "{action}");
        assert!(page.text("operation-ended").unwrap().ends_with("done: it worked."), "{}", page.body);
        let log = site.store.audit_after(0, 100).await.unwrap();
        let last = log.last().unwrap();
        assert_eq!((last.action.as_str(), &last.actor), (&*format!("cache.{action}"), &asked.requested_by));
    }
    assert_eq!(instance(&site).await.memory_mb, 32);
}

#[tokio::test]
async fn what_loses_contents_is_confirmed_on_a_page_of_its_own() {
    let (site, mut visitor) = running(false, 64).await;
    for action in ["restart", "flush", "suspend"] {
        let settings = visitor.get(SETTINGS).await;
        assert!(settings.body.contains(&visitor.path(&format!("href=\"/caches/{{cache}}/{action}\""))));
        let address = format!("/caches/{{cache}}/{action}");
        for page in [visitor.get(&address).await, visitor.post(&address, &[]).await] {
            assert_eq!(page.status, 200);
            assert!(page.body.contains("<strong>All contents are lost.</strong>"), "{}", page.body);
            assert_eq!(page.field("confirmed").as_deref(), Some("1"), "{}", page.body);
        }
        assert!(operations(&site).await.is_empty(), "{action}: asking changes nothing");
    }
    // What loses nothing has no such page.
    for action in ["resume", "resize"] {
        let led = visitor.get(&format!("/caches/{{cache}}/{action}")).await;
        assert_eq!(led.location(), visitor.path(SETTINGS), "{action}");
    }
    assert_eq!(
        ask(&mut visitor, "resize", &[("memory_mb", "32")]).await.status,
        303,
        "items that fit are kept"
    );
}

#[tokio::test]
async fn a_warm_cache_restarts_without_a_question_and_shrinks_with_one() {
    let (site, mut visitor) = running(true, 128).await;
    let settings = visitor.get(SETTINGS).await;
    assert!(settings.body.contains("Requests wait for 2 to 4 seconds"), "{}", settings.body);
    assert!(settings.body.contains("id=\"restart-form\""), "{}", settings.body);
    assert_eq!(ask(&mut visitor, "restart", &[]).await.status, 303);
    assert_eq!(visitor.get("/caches/{cache}/restart").await.location(), visitor.path(SETTINGS));

    let asks = ask(&mut visitor, "resize", &[("memory_mb", "64")]).await;
    assert_eq!(asks.status, 200);
    assert!(asks.body.contains("Resize from 128 to 64 MB?"), "{}", asks.body);
    assert!(asks.body.contains("<strong>All contents are lost.</strong>"), "{}", asks.body);
    assert_eq!(instance(&site).await.memory_mb, 128);
    let [memory, confirmed] = ["memory_mb", "confirmed"].map(|name| asks.field(name).unwrap());
    let led =
        visitor.post("/caches/{cache}/resize", &[("memory_mb", &memory), ("confirmed", &confirmed)]).await;
    assert_eq!((led.status, instance(&site).await.memory_mb), (303, 64));
    // More memory keeps the contents.
    assert_eq!(ask(&mut visitor, "resize", &[("memory_mb", "96")]).await.status, 303);
}

#[tokio::test]
async fn a_size_that_cannot_be_given_is_refused_beside_its_field() {
    let (site, mut visitor) = running(false, 64).await;
    site.store.update_plan("default", |plan| plan.memory_mb = 256).await.unwrap();
    assert!(visitor.get(SETTINGS).await.body.contains("You may give it 8 to 256 MB."));
    for (typed, error) in [
        ("", "Give a whole number of MB from 8 to 256."),
        ("lots", "Give a whole number of MB from 8 to 256."),
        ("7", "Give 8 or more."),
        ("-64", "Give 8 or more."),
        ("257", "Give 256 or less, or ask the operator for a larger plan."),
        ("99999999999999999999", "Give a whole number of MB from 8 to 256."),
        ("64", "Give another size."),
    ] {
        let refused = ask(&mut visitor, "resize", &[("memory_mb", typed)]).await;
        assert_eq!(refused.status, 422, "{typed}");
        assert!(refused.text("resize-error").unwrap().ends_with(error), "{typed}: {}", refused.body);
        let kept = if typed.is_empty() { "64" } else { typed };
        assert_eq!(refused.field("memory_mb").as_deref(), Some(kept));
        let (_, field) = refused.body.split_once("id=\"memory-mb\"").unwrap();
        let field = field.split('>').next().unwrap();
        assert!(field.contains("aria-invalid=\"true\"") && field.contains("autofocus"), "in view: {field}");
    }
    // The plan of a cache that has more already doesn't take it away.
    site.store.update_plan("default", |plan| plan.memory_mb = 32).await.unwrap();
    assert!(visitor.get(SETTINGS).await.body.contains("You may give it 8 to 64 MB."));
    assert!(operations(&site).await.is_empty());
}

//
#[tokio::test]
async fn a_size_that_the_machine_has_no_room_for_is_refused_with_what_helps() {
    let (site, mut visitor) = running(false, 64).await;
    site.store.update_plan("default", |plan| plan.memory_mb = 256).await.unwrap();
    let mut capacity = HostCapacity {
        budget_bytes: 1 << 30,
        reserved_bytes: 0,
        growth_mb: 36,
        waiting: 0,
        changed_at: now(),
    };
    for (growth, error) in [
        (
            36,
            "This service has no room for more than 100 MB now. Give 100 or less, or ask the operator for more room.",
        ),
        (
            0,
            "This service has no room for a larger cache now. Try again later, or ask the operator for more room.",
        ),
    ] {
        capacity.growth_mb = growth;
        site.store.set_host_capacity(&capacity).await.unwrap();
        let refused = ask(&mut visitor, "resize", &[("memory_mb", "128")]).await;
        assert_eq!((refused.status, refused.text("resize-error")), (409, Some(error)));
        assert_eq!(refused.field("memory_mb").as_deref(), Some("128"), "what was typed is kept");
        assert!(!refused.body.contains("provisioner"), "no setting of the operator");
    }
    assert_eq!(instance(&site).await.memory_mb, 64);
}

#[tokio::test]
async fn what_cannot_be_done_now_is_refused_beside_its_action() {
    let (site, mut visitor) = running(false, 64).await;
    site.set_state(EMAIL, InstanceState::Failed).await;
    let refused = ask(&mut visitor, "flush", &[("confirmed", "1")]).await;
    assert_eq!(refused.status, 409);
    let error = "The cache isn’t running now (failed). Wait until it is, and try again.";
    assert_eq!(refused.text("flush-error"), Some(error), "{}", refused.body);
    assert!(refused.body.contains("Not before it runs."), "{}", refused.body);

    site.set_state(EMAIL, InstanceState::Running).await;
    assert_eq!(ask(&mut visitor, "suspend", &[("confirmed", "1")]).await.status, 303);
    for (action, fields) in [ACTIONS[0], ACTIONS[1], ACTIONS[4]] {
        let refused = ask(&mut visitor, action, fields).await;
        assert_eq!(refused.status, 409, "{action}");
    }
    let page = visitor.get(SETTINGS).await;
    assert!(page.body.contains("id=\"resume-form\"") && !page.body.contains("id=\"resize-form\""));
    site.set_state(EMAIL, InstanceState::Suspended).await;
    let page = visitor.get(SETTINGS).await;
    assert!(page.text("state-detail").unwrap().starts_with("You have suspended it"), "{}", page.body);
    assert_eq!(ask(&mut visitor, "resume", &[]).await.status, 303);
}

// W-11: a user doesn't lift what an operator has decided.
#[tokio::test]
async fn a_cache_that_the_operator_suspended_is_not_resumed_by_its_user() {
    let (site, mut visitor) = running(false, 64).await;
    let cache = instance(&site).await.cache_id;
    let suspension = site.store.request_operation(&cache, NewOperation::Suspend).await.unwrap();
    finish(&site, &suspension, OperationState::Done, "stopped").await;
    site.set_state(EMAIL, InstanceState::Suspended).await;
    let page = visitor.get(SETTINGS).await;
    assert_eq!(page.text("state-detail"), Some("Stopped by the operator of this service."));
    for (action, fields) in [ACTIONS[2], ACTIONS[3]] {
        assert_eq!(ask(&mut visitor, action, fields).await.status, 403, "{action}");
    }
    let refused = ask(&mut visitor, "resume", &[]).await;
    let error = "The operator of this service has suspended this cache. Ask the operator to resume it.";
    assert_eq!(refused.text("resume-error"), Some(error), "{}", refused.body);
    assert_eq!(operations(&site).await.len(), 1);
}

#[tokio::test]
async fn a_cache_is_deleted_by_typing_its_name() {
    let (site, mut visitor) = running(false, 64).await;
    let page = visitor.get("/caches/{cache}/delete").await;
    assert!(page.body.contains("64 MB, 1 token<"), "{}", page.body);
    for typed in ["", "Default", "defaults"] {
        let refused = visitor.post("/caches/{cache}/delete", &[("name", typed)]).await;
        assert_eq!(refused.status, 422, "{typed}");
        assert_eq!(
            refused.text("delete-error"),
            Some("This isn’t the cache’s name. Type default to delete it.")
        );
        let (_, form) = refused.body.split_once("id=\"delete-name\"").unwrap();
        assert!(
            form.split('>').next().unwrap().contains(&format!("value=\"{typed}\"")),
            "what was typed is kept"
        );
    }
    let user = site.store.user_by_email(EMAIL).await.unwrap().unwrap();
    let cache = instance(&site).await.cache_id;
    let led = visitor.post("/caches/{cache}/delete", &[("name", " default ")]).await;
    assert_eq!((led.status, led.location()), (303, "/caches?deleted=default"));
    let asked = site.store.operations_of(&cache, 10).await.unwrap().remove(0);
    assert_eq!((asked.kind, asked.requested_by), (OperationKind::Delete, format!("user {}", user.id)));
    assert!(site.store.caches_of(&user.id).await.unwrap().is_empty());
    let list = visitor.get(led.location()).await;
    assert!(list.text("cache-deleted").is_some() && list.body.contains("0 of 3 caches"), "{}", list.body);
    assert!(list.body.contains("id=\"cache-form\""), "{}", list.body);
    for made_up in ["/caches?deleted=%3Cb%3E", "/caches?deleted=all%20your%20money"] {
        assert_eq!(visitor.get(made_up).await.text("cache-deleted"), None, "{made_up}");
    }
}

// W-11, W-6.
/// Every route of these pages, with another user's cache, signed out, from another site, and without its CSRF token.
#[tokio::test]
async fn actions_belong_to_their_user_and_their_site() {
    let (site, mut ann) = running(false, 64).await;
    let (mut bob, _) = site.sign_up_user("bob@example.com").await;
    let anns = ann.cache.clone();
    for (action, fields) in ACTIONS {
        for address in [format!("/caches/{anns}/{action}"), format!("/caches/none/{action}")] {
            bob.cache.clone_from(&anns);
            assert_eq!(bob.get(&address).await.status, 404, "{address}");
            assert_eq!(bob.post(&address, fields).await.status, 404, "{address}");
            let path = format!("/sign-in?next={address}");
            assert_eq!(site.visitor().get(&address).await.location(), path);
            let response = site.visitor().post(&address, fields).await;
            assert_eq!((response.status, response.location()), (303, "/sign-in?next=/caches"));
        }
        ann.get(SETTINGS).await;
        let address = format!("/caches/{anns}/{action}");
        assert_eq!(ann.post_without_token(&address, fields).await.status, 403, "{action}");
        let mut forger = ann.clone();
        forger.csrf_token.clone_from(&bob.csrf_token);
        assert_eq!(forger.post(&address, fields).await.status, 403, "{action}");
        let mut elsewhere = ann.clone();
        elsewhere.headers = vec![("Sec-Fetch-Site".into(), "cross-site".into())];
        assert_eq!(elsewhere.post(&address, fields).await.status, 403, "{action}");
    }
    for tab in ["settings", "activity"] {
        let address = format!("/caches/{anns}/{tab}");
        assert_eq!((bob.get(&address).await.status, ann.get(&address).await.status), (404, 200));
        assert_eq!(site.visitor().get(&address).await.location(), format!("/sign-in?next={address}"));
    }
    assert!(operations(&site).await.is_empty());
}

#[tokio::test]
async fn suspended_users_are_refused() {
    let (site, mut visitor) = running(false, 64).await;
    let user = instance(&site).await.user_id;
    site.store.set_user_state(&user, UserState::Suspended).await.unwrap();
    for (action, fields) in ACTIONS {
        let refused = ask(&mut visitor, action, fields).await;
        assert_eq!(refused.status, 403, "{action}");
        let error = refused.text(&format!("{action}-error"));
        // While its user is suspended, the page offers to resume the cache, and not to suspend or resize it.
        if ["restart", "flush", "resume", "delete"].contains(&action) {
            assert_eq!(
                error,
                Some("Your account is suspended. Ask the operator of this service."),
                "{action}"
            );
        }
        assert!(refused.body.contains("Your account is suspended."), "{action}");
    }
    assert!(operations(&site).await.is_empty());
}

// W-12.
#[tokio::test]
async fn every_text_field_survives_any_text() {
    let (site, mut visitor) = running(false, 64).await;
    let long = "x".repeat(10_000);
    for text in ["\"><script>alert(1)</script>", &*long, "\u{202e}gpj.exe", "é\r\nSet-Cookie: a=b"] {
        for (path, field) in
            [("/caches/{cache}/resize", "memory_mb"), ("/caches/{cache}/delete", "name"), ("/caches", "name")]
        {
            visitor.get(SETTINGS).await;
            let refused = visitor.post(path, &[(field, text)]).await;
            assert_eq!(refused.status, 422, "{path} {text}");
            assert!(!refused.body.contains("<script>alert"), "{path}");
            assert!(refused.header("set-cookie").is_none(), "{path}");
        }
        let page = visitor
            .get(&format!("{SETTINGS}?requested=%22%3E%3Cscript%3E&requested={}", "a".repeat(50)))
            .await;
        assert!(page.status == 200 && !page.body.contains("<script>\""), "{}", page.body);
    }
    assert!(operations(&site).await.is_empty());
}

// W-8, R-31.
#[tokio::test]
async fn changes_of_caches_are_limited_per_user() {
    let site = Site::start_with(|config| config.limits.cache_changes_per_hour = 2).await;
    let (mut visitor, _) = site.sign_up_user(EMAIL).await;
    site.set_state(EMAIL, InstanceState::Running).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(ask(&mut visitor, "flush", ACTIONS[1].1).await.status);
    }
    assert_eq!(statuses, [303, 303, 429]);
    let refused = ask(&mut visitor, "resize", ACTIONS[4].1).await;
    assert!(refused.header("retry-after").is_some());
    assert_eq!(refused.field("memory_mb").as_deref(), Some("32"));
    assert!(refused.text("resize-error").unwrap().starts_with("You changed your caches too often."));
    assert_eq!(ask(&mut visitor, "delete", ACTIONS[5].1).await.status, 429);
    visitor.get("/caches?all").await;
    assert_eq!(visitor.post("/caches", &[("name", "second")]).await.status, 429);
    assert_eq!(site.limited("cache_changes"), 4);
}

// W-8: the store's limit of one cache.
#[tokio::test]
async fn operations_on_a_cache_are_limited_per_hour() {
    let (site, mut visitor) = running(false, 64).await;
    for _ in 0..20 {
        assert_eq!(ask(&mut visitor, "flush", ACTIONS[1].1).await.status, 303);
        let asked = operations(&site).await.remove(0);
        finish(&site, &asked, OperationState::Done, "flushed").await;
    }
    let refused = ask(&mut visitor, "flush", ACTIONS[1].1).await;
    assert_eq!(refused.status, 429);
    assert!(
        refused.text("flush-error").unwrap().starts_with("You asked for 20 operations"),
        "{}",
        refused.body
    );
}

#[tokio::test]
async fn progress_and_result_are_in_the_event_stream_and_on_every_tab() {
    let (site, mut visitor) = running(false, 64).await;
    let mut events = Events::open(&visitor).await;
    let first = events.next().await.unwrap();
    assert!(first["operation"].is_null() && first["ended"].is_null(), "{first}");
    ask(&mut visitor, "resize", &[("memory_mb", "32")]).await;
    let event = events.next().await.unwrap();
    let expected = serde_json::json!({
        "kind": "resize", "title": "Resizing to 32 MB", "progress": 0, "message": null
    });
    assert_eq!(event["operation"], expected);

    let asked = operations(&site).await.remove(0);
    let message = Some("9 MB are still to be given back".to_owned());
    let half = OperationProgress { state: OperationState::Running, progress: 50, message, checkpoint: None };
    site.store.record_operation(&asked.id, &half).await.unwrap();
    let event = events.next().await.unwrap();
    assert_eq!(
        (&event["operation"]["progress"], &event["operation"]["message"]),
        (&50.into(), &half.message.into())
    );
    for tab in ["", "/connect", "/tokens", "/connections", "/denials", "/activity", "/settings"] {
        let page = visitor.get(&format!("/caches/{{cache}}{tab}")).await;
        assert_eq!(page.text("operation-title"), Some("Resizing to 32 MB"), "{tab}");
        assert_eq!(page.text("operation-message"), Some("9 MB are still to be given back"), "{tab}");
        assert!(page.body.contains("aria-labelledby=\"operation-title\" value=\"50\""), "{tab}");
    }

    finish(&site, &asked, OperationState::Failed, "memcached keeps 40 MB: ask for more").await;
    let event = events.next().await.unwrap();
    assert!(event["operation"].is_null(), "{event}");
    assert_eq!((&event["ended"]["id"], &event["ended"]["state"]), (&asked.id.into(), &"failed".into()));
    let text = "Resize to 32 MB failed: memcached keeps 40 MB: ask for more.";
    assert_eq!(event["ended"]["text"], text);
    let polled: serde_json::Value =
        serde_json::from_str(&visitor.get("/caches/{cache}/state").await.body).unwrap();
    assert_eq!(polled, event);
    let page = visitor.get("/caches/{cache}").await;
    assert_eq!(page.text("operation-ended"), Some(text));
    assert!(page.body.contains("class=\"banner error\" data-id="), "{}", page.body);
}
