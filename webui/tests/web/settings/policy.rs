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

/// The values of the choices of sleep, and the current one.
fn choices(page: &Response) -> (Vec<String>, String) {
    let Some((_, rest)) = page.body.split_once("<select id=\"sleep-after\"") else { return <_>::default() };
    let (options, _) = rest.split_once("</select>").unwrap();
    let value = |option: &str| option.split('"').next().unwrap().to_owned();
    let current = options.split("<option value=\"").find(|it| it.contains(" selected")).map(value);
    (options.split("<option value=\"").skip(1).map(value).collect(), current.unwrap())
}

#[tokio::test]
async fn user_chooses_an_earlier_sleep_than_the_plans_and_no_later_one() {
    let (site, mut visitor) = running(false, 64).await;
    let page = visitor.get(SETTINGS).await;
    assert_eq!(choices(&page).1, "plan");
    assert!(page.body.contains("<strong>Each time, its contents are lost.</strong>"), "{}", page.body);
    let saved = ask(&mut visitor, "sleep", &[("sleep_after", "1h")]).await;
    let path = visitor.path(&format!("{SETTINGS}?saved"));
    assert_eq!((saved.status, saved.location()), (303, &*path), "{}", saved.body);
    let page = visitor.get(&path).await;
    assert!(page.text("saved").is_some() && page.body.contains("After 1 hour without a command"));
    assert_eq!(
        (choices(&page).1.as_str(), instance(&site).await.effective_sleep_after_seconds),
        ("1h", Some(3600))
    );
    let entry = site.store.audit_before(i64::MAX, 1).await.unwrap().remove(0);
    assert_eq!(
        (entry.action.as_str(), entry.actor),
        ("cache.update", format!("user {}", instance(&site).await.user_id))
    );

    site.store.update_plan("default", |plan| plan.sleep_after_seconds = Some(1800)).await.unwrap();
    let (offered, current) = choices(&visitor.get(SETTINGS).await);
    assert_eq!((offered, &*current), (["plan", "5m", "15m"].map(str::to_owned).to_vec(), "plan"));
    for (typed, error) in [
        ("31m", "Your plan puts the cache to sleep after 30 minutes."),
        ("never", "This time can’t be used"),
        ("30s", "This time can’t be used"),
        ("", "This time can’t be used"),
    ] {
        let refused = ask(&mut visitor, "sleep", &[("sleep_after", typed)]).await;
        assert_eq!(refused.status, 422, "{typed}");
        assert!(refused.text("sleep-error").unwrap().starts_with(error), "{typed}: {}", refused.body);
    }
    assert_eq!(ask(&mut visitor, "sleep", &[("sleep_after", "plan")]).await.status, 303);
    assert_eq!(instance(&site).await.effective_sleep_after_seconds, Some(1800));
    let (mut other, _) = site.sign_up_user("b@example.com").await;
    let foreign = visitor.path("/caches/{cache}/sleep");
    assert_eq!(other.post(&foreign, &[("sleep_after", "5m")]).await.status, 404);
    let user = site.store.user_by_email(EMAIL).await.unwrap().unwrap();
    site.store.set_user_state(&user.id, UserState::Suspended).await.unwrap();
    let refused = ask(&mut visitor, "sleep", &[("sleep_after", "5m")]).await;
    assert_eq!(refused.status, 403);
    assert_eq!(instance(&site).await.effective_sleep_after_seconds, Some(1800));
}
