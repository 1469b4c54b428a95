//! What happened to a cache, on its owner's page.

use std::time::Duration;

use store::{
    EventAction, EventCause, InstanceState, NewInstanceEvent, NewOperation, OperationProgress,
    OperationState, Timestamp, TokenId, now,
};

use crate::harness::Site;

// F-33.
#[tokio::test]
async fn operations_and_repairs_are_in_one_list_by_time() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user("ann@example.com").await;
    let (mut bob, _) = site.sign_up_user("bob@example.com").await;
    site.set_state("ann@example.com", InstanceState::Running).await;
    let page = ann.get("/caches/{cache}/activity").await.body;
    assert!(page.contains("Nothing yet."), "{page}");

    let user = site.store.user_by_email("ann@example.com").await.unwrap().unwrap();
    let instance = site.store.first_instance_of(&user.id).await.unwrap().unwrap();
    let restart = site.store.request_operation(&instance.cache_id, NewOperation::Restart).await.unwrap();
    let event = |cause, at: Timestamp| NewInstanceEvent {
        instance_id: instance.id.clone(),
        cause,
        action: EventAction::Started,
        contents_lost: true,
        detail: "internals".into(),
        at,
    };
    let hung = event(EventCause::Hung, now().saturating_sub(Duration::from_hours(1)));
    // 29 Nov 2100, 14:05:09 UTC
    let late = Timestamp::from_millis(4_131_180_309_000);
    let crashes =
        [late, late.saturating_add(Duration::from_mins(5))].map(|at| event(EventCause::Crashed, at));
    site.store.add_instance_events(&[&[hung], &crashes[..]].concat()).await.unwrap();
    ann.get("/caches/{cache}/settings").await;
    assert_eq!(ann.post("/caches/{cache}/flush", &[("confirmed", "1")]).await.status, 303);
    let message = Some("it kept 5 items".to_owned());
    let done = OperationProgress { state: OperationState::Done, progress: 100, message, checkpoint: None };
    site.store.record_operation(&restart.id, &done).await.unwrap();

    let page = ann.get("/caches/{cache}/activity").await.body;
    let list = page.split_once("<ol class=\"activity\">").unwrap().1;
    let titles: Vec<&str> =
        list.split("<strong>").skip(1).map(|rest| rest.split('<').next().unwrap()).collect();
    let expected = [
        "memcached ended by itself: started again, its contents are lost",
        "Flush",
        "Restart",
        "memcached didn&#39;t answer: started again, its contents are lost",
    ];
    assert_eq!(titles, expected, "{list}");
    for text in [
        "<time datetime=\"2100-11-29T14:10:09Z\">29 Nov 2100, 14:10 UTC</time>",
        "Repair, 2 times in a row, first <time datetime=\"2100-11-29T14:05:09Z\">29 Nov 2100, 14:05 UTC</time>",
        "Requested by you",
        "Requested by the operator, ended <time datetime=\"",
        "it kept 5 items",
        "data-operation-state=\"pending\"",
        "data-operation-state=\"done\"",
    ] {
        assert!(list.contains(text), "{text} is not in {list}");
    }
    assert!(!page.contains("internals"), "{page}");
    assert!(bob.get("/caches/{cache}/activity").await.body.contains("Nothing yet."));
}

#[tokio::test]
async fn activity_is_bounded() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user("ann@example.com").await;
    site.set_state("ann@example.com", InstanceState::Running).await;
    let user = site.store.user_by_email("ann@example.com").await.unwrap().unwrap();
    let instance = site.store.first_instance_of(&user.id).await.unwrap().unwrap();
    let causes = [EventCause::Crashed, EventCause::Hung].into_iter().cycle().take(60);
    let events: Vec<NewInstanceEvent> = causes
        .map(|cause| NewInstanceEvent {
            instance_id: instance.id.clone(),
            cause,
            action: EventAction::Started,
            contents_lost: false,
            detail: String::new(),
            at: now(),
        })
        .collect();
    site.store.add_instance_events(&events).await.unwrap();
    for _ in 0..25 {
        let flush = site.store.request_operation(&instance.cache_id, NewOperation::Flush).await.unwrap();
        let done =
            OperationProgress { state: OperationState::Done, progress: 100, message: None, checkpoint: None };
        site.store.record_operation(&flush.id, &done).await.unwrap();
    }
    let page = ann.get("/caches/{cache}/activity").await.body;
    let shown = |kind: &str| page.matches(&format!("data-activity=\"{kind}\"")).count();
    assert!(shown("repair") == 50 && (20..=21).contains(&shown("operation")), "{page}");
}

#[tokio::test]
async fn times_of_tokens_have_hours() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user("ann@example.com").await;
    let id = ann.get("/caches/{cache}/tokens").await.tokens().pop().unwrap();
    let token = TokenId::parse(&id).unwrap();
    // 29 Nov 2100, 14:05:09 UTC
    let at = Timestamp::from_millis(4_131_180_309_000);
    site.store.update_permissions(&token, |permissions| permissions.expires_at = Some(at)).await.unwrap();
    for page in ["/caches/{cache}/tokens".to_owned(), format!("/tokens/{id}")] {
        let page = ann.get(&page).await.body;
        assert!(page.contains("expires 29 Nov 2100, 14:05 UTC"), "{page}");
    }
    assert!(ann.get(&format!("/tokens/{id}/edit")).await.body.contains("29 Nov 2100, 14:05 UTC (unchanged)"));
    ann.post(&format!("/tokens/{id}/revoke"), &[]).await;
    let page = ann.get(&format!("/tokens/{id}")).await;
    let reason = page.text("token-inactive").unwrap();
    assert!(reason.starts_with("revoked ") && reason.ends_with(" UTC"), "{reason}");
}
