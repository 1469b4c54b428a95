//! Isolation checks: the newest of each container that runs counts.

use std::time::Duration;

use store::{CheckResult, InstanceState, IsolationCheck, IsolationSummary, Observed, now};

use crate::test_db::{TestDb, sign_up};

fn check(instance: &str, container: &str) -> IsolationCheck {
    let passed = CheckResult::Passed;
    IsolationCheck {
        instance_id: instance.into(),
        container: container.into(),
        ports: passed,
        restrictions: passed,
        reachability: passed,
        login: passed,
        image: "sha256:1".into(),
        outdated: false,
        detail: String::new(),
        checked_at: now(),
    }
}

//
async fn newest_checks_of_running_containers_are_summed_up(db: TestDb) {
    let store = db.open().await;
    assert_eq!(store.isolation_summary().await.unwrap(), IsolationSummary::default());
    let mut ids = Vec::new();
    for (number, state) in
        [InstanceState::Running, InstanceState::Running, InstanceState::Suspended].into_iter().enumerate()
    {
        let (user, _) = sign_up(&store, &format!("user{number}@example.org")).await;
        let instance = store.first_instance_of(&user.id).await.unwrap().unwrap().id;
        let (address, container) = (Some(format!("10.1.0.{number}")), Some(format!("c{number}")));
        let seen = Observed { state, generation: 1, address, container, version: None, message: None };
        store.record_route(&instance, &seen).await.unwrap();
        ids.push(instance);
    }
    let revision = store.revision().await.unwrap();
    let old = now().saturating_sub(Duration::from_secs(300));
    let failed = IsolationCheck {
        ports: CheckResult::Failed,
        login: CheckResult::Unknown,
        outdated: true,
        detail: "it publishes ports".repeat(100),
        checked_at: old,
        ..check(&ids[1], "c1")
    };
    let checks = [check(&ids[0], "c0"), failed.clone(), check(&ids[2], "c2"), check("nobody", "c9")];
    store.set_isolation_checks(&checks).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), revision, "unversioned");
    let summary = store.isolation_summary().await.unwrap();
    assert_eq!((summary.checked, summary.failed, summary.incomplete, summary.outdated), (2, 1, 1, 1));
    assert_eq!((summary.oldest_at, summary.failures.len()), (Some(old), 1));
    assert_eq!(summary.failures[0].email, "user1@example.org");
    let read = store.isolation_check(&ids[1]).await.unwrap().unwrap();
    assert_eq!(read.detail.chars().count(), 1_000);
    assert_eq!(IsolationCheck { detail: failed.detail.clone(), ..read }, failed);

    // It was repaired; then another container took its place, of which the check says nothing.
    store.set_isolation_checks(&[check(&ids[1], "c1")]).await.unwrap();
    assert_eq!(store.isolation_summary().await.unwrap().failed, 0);
    store.set_isolation_checks(&[check(&ids[1], "c7")]).await.unwrap();
    assert_eq!(store.isolation_check(&ids[1]).await.unwrap(), None);
    assert_eq!(store.isolation_summary().await.unwrap().checked, 1);
    let all = store.isolation_checks().await.unwrap();
    assert_eq!((all.len(), all[2].container.as_str()), (3, "c7"), "also of containers that exist no more");
    let forgotten = now().saturating_sub(Duration::from_hours(49));
    store
        .set_isolation_checks(&[IsolationCheck { checked_at: forgotten, ..check(&ids[0], "c0") }])
        .await
        .unwrap();
    assert_eq!(db.number("SELECT COUNT(*) FROM isolation_checks").await, 2, "old ones are deleted");
}

on_both!(newest_checks_of_running_containers_are_summed_up);
