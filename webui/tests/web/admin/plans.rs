//! Plans: created, changed and deleted with the refusals of `memgate plan`.

use store::{InstanceState, OperationKind};

use super::{ADA, ADMIN, cache, id, last_entry, site, submit};

/// All fields of a valid plan.
fn fields<'a>(changed: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let all = [
        ("name", "small"),
        ("memory_mb", "32"),
        ("connections", "500"),
        ("item_size_max", "1048576"),
        ("operations_per_second", "2000"),
        ("bytes_per_second", "none"),
        ("sleep_after", "12h"),
        ("cpu_weight", "100"),
        ("caches_per_user", "none"),
        ("price_label", "5 EUR a month"),
    ];
    let kept = all.into_iter().filter(|(name, _)| changed.iter().all(|(other, _)| other != name));
    kept.chain(changed.iter().copied()).collect()
}

#[tokio::test]
async fn a_plan_is_created_changed_and_deleted() {
    let (site, mut admin, _) = site().await;
    let actor = format!("admin {}", id(&site, ADMIN).await);
    let led = submit(&mut admin, "/admin/plans/new", &fields(&[])).await;
    assert_eq!((led.status, led.location()), (303, "/admin/plans?done=created"), "{}", led.body);
    let plan = site.store.plan("small").await.unwrap().unwrap();
    assert_eq!(
        (plan.memory_mb, plan.operations_per_second, plan.sleep_after_seconds),
        (32, Some(2000), Some(43200))
    );
    assert_eq!(last_entry(&site).await, (actor.clone(), "plan.create".into(), "plan small".into()));
    let page = admin.get(led.location()).await;
    assert_eq!(page.text("done"), Some("The plan is created."));
    assert!(page.body.contains("5 EUR a month") && page.body.contains("12 hours"));

    let edit = admin.get("/admin/plans/small/edit").await;
    assert_eq!(
        (edit.field("memory_mb").as_deref(), edit.field("sleep_after").as_deref()),
        (Some("32"), Some("43200s"))
    );
    let led =
        admin.post("/admin/plans/small/edit", &fields(&[("connections", "600"), ("name", "other")])).await;
    assert_eq!(led.location(), "/admin/plans?done=updated", "{}", led.body);
    assert_eq!(site.store.plan("small").await.unwrap().unwrap().connections, 600);
    assert_eq!(site.store.plan("other").await.unwrap(), None, "a plan keeps its name");
    assert_eq!(last_entry(&site).await, (actor.clone(), "plan.update".into(), "plan small".into()));

    let led = submit(&mut admin, "/admin/plans/small/delete", &[]).await;
    assert_eq!(led.location(), "/admin/plans?done=deleted");
    assert_eq!(site.store.plan("small").await.unwrap(), None);
    assert_eq!(last_entry(&site).await, (actor, "plan.delete".into(), "plan small".into()));
}

#[tokio::test]
async fn wrong_fields_have_their_message_and_stay() {
    let (site, mut admin, _) = site().await;
    for (field, value) in [
        ("name", "Small"),
        ("name", ""),
        ("name", "default"),
        ("memory_mb", "0"),
        ("memory_mb", "1"),
        ("connections", "many"),
        ("item_size_max", "1023"),
        ("operations_per_second", "-1"),
        ("sleep_after", "9s"),
        ("cpu_weight", "10001"),
        ("caches_per_user", "1001"),
        ("price_label", "a\nb"),
    ] {
        let refused = submit(&mut admin, "/admin/plans/new", &fields(&[(field, value)])).await;
        assert_eq!(refused.status, 422, "{field} {value:?}");
        assert!(refused.text(&format!("{field}-error")).is_some(), "{field} {value:?}: {}", refused.body);
        assert_eq!(refused.body.matches("aria-invalid=\"true\"").count(), 1, "{field} {value:?}");
        assert!(
            refused.field("memory_mb").is_some()
                && refused.field(field).unwrap().starts_with(value.trim_end_matches("\nb"))
        );
    }
    let warm = submit(&mut admin, "/admin/plans/new", &fields(&[("warm", "on")])).await;
    assert!(warm.text("memory_mb-error").unwrap().starts_with("A warm plan needs at least 64 MB."));
    assert_eq!(site.store.plans().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_change_that_empties_caches_needs_a_tick() {
    let (site, mut admin, _) = site().await;
    site.store.update_plan("default", |plan| (plan.warm, plan.memory_mb) = (true, 64)).await.unwrap();
    site.set_state(ADA, InstanceState::Running).await;
    let change = [("memory_mb", "32"), ("connections", "20000")];
    let path = "/admin/plans/default/edit";
    let refused = submit(&mut admin, path, &fields(&change)).await;
    assert_eq!(refused.status, 409);
    assert!(
        refused.text("tick-error").unwrap().starts_with("Warm caches that this would empty: 2."),
        "{}",
        refused.body
    );
    assert_eq!(refused.field("memory_mb").as_deref(), Some("32"));
    assert_eq!(site.store.plan("default").await.unwrap().unwrap().memory_mb, 64);
    let kept: Vec<_> = fields(&change).into_iter().chain([("new_caches_only", "on")]).collect();
    assert_eq!(submit(&mut admin, path, &kept).await.status, 303);
    assert!(site.store.operations_of(&cache(&site, ADA).await.id, 9).await.unwrap().is_empty());
    let again =
        fields(&[("memory_mb", "64"), ("connections", "20000"), ("warm", "on"), ("new_caches_only", "on")]);
    assert_eq!(submit(&mut admin, path, &again).await.status, 303);
    let ticked: Vec<_> = fields(&change).into_iter().chain([("tick", "on")]).collect();
    assert_eq!(submit(&mut admin, path, &ticked).await.status, 303);
    let asked = site.store.operations_of(&cache(&site, ADA).await.id, 9).await.unwrap();
    assert_eq!((asked.len(), asked[0].kind, asked[0].memory_mb), (1, OperationKind::Resize, Some(32)));
}

#[tokio::test]
async fn plans_in_use_stay() {
    let (site, mut admin, _) = site().await;
    let page = admin.get("/admin/plans/default/delete").await;
    assert!(
        page.status == 409 && page.text("form-error").unwrap().starts_with("The default plan"),
        "{}",
        page.body
    );
    assert_eq!(admin.post("/admin/plans/default/delete", &[]).await.status, 409);
    assert_eq!(submit(&mut admin, "/admin/plans/new", &fields(&[])).await.status, 303);
    let path = format!("/admin/users/{}/plan", id(&site, ADA).await);
    assert_eq!(submit(&mut admin, &path, &[("plan", "small")]).await.status, 303);
    let refused = admin.post("/admin/plans/small/delete", &[]).await;
    assert_eq!(refused.status, 409);
    assert!(refused.text("form-error").unwrap().starts_with("Users or caches have this plan."));
    assert!(site.store.plan("small").await.unwrap().is_some());
}
