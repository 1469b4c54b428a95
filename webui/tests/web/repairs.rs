//! Repairs of a cache on its owner's page.

use store::{EventAction, EventCause, NewInstanceEvent, now};

use crate::harness::Site;

// F-33.
#[tokio::test]
async fn repairs_are_shown_to_the_owner_without_internals() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user("ann@example.com").await;
    let (mut bob, _) = site.sign_up_user("bob@example.com").await;
    let user = site.store.user_by_email("ann@example.com").await.unwrap().unwrap();
    let instance = site.store.first_instance_of(&user.id).await.unwrap().unwrap();
    assert!(!ann.get("/caches/{cache}").await.body.contains("id=\"events\""), "no repairs yet");
    let event = NewInstanceEvent {
        instance_id: instance.id,
        cause: EventCause::OutOfMemory,
        action: EventAction::Started,
        contents_lost: true,
        detail: "exit code 137; it last wrote: internals".into(),
        at: now().saturating_sub(std::time::Duration::from_mins(5)),
    };
    site.store.add_instance_events(&[event]).await.unwrap();
    let page = ann.get("/caches/{cache}").await.body;
    assert!(
        page.contains("started again, its contents are lost") && page.contains("5 minutes ago"),
        "{page}"
    );
    assert!(!page.contains("internals") && !page.contains("exit code"), "{page}");
    assert!(!bob.get("/caches/{cache}").await.body.contains("id=\"events\""));
}
