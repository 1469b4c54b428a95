//! What the settings say of the plan.

use super::*;

#[tokio::test]
async fn settings_say_what_the_plan_means_for_sleep_and_contents() {
    let (site, mut visitor) = running(false, 64).await;
    let page = visitor.get(SETTINGS).await.body;
    assert!(page.contains("Never: the cache runs also while no application uses it."), "{page}");
    site.store.update_plan("default", |plan| plan.sleep_after_seconds = Some(5400)).await.unwrap();
    let page = visitor.get(SETTINGS).await.body;
    assert!(page.contains("After 90 minutes without a command the cache is put to sleep"), "{page}");
    assert!(page.contains("<strong>the contents are lost</strong>"), "{page}");
    site.store.update_plan("default", |plan| plan.warm = true).await.unwrap();
    let page = visitor.get(SETTINGS).await.body;
    assert!(page.contains("memcached stops, and the contents are kept."), "{page}");
    let instance = instance(&site).await;
    let seen = Observed {
        state: InstanceState::Asleep,
        generation: 9,
        address: None,
        container: None,
        version: None,
        message: None,
    };
    site.store.record_route(&instance.id, &seen).await.unwrap();
    assert_eq!(ask(&mut visitor, "flush", ACTIONS[1].1).await.status, 303, "it is woken for that");
}
