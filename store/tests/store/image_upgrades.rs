//! The image upgrade: one at a time, asked for by operators and carried out by the provisioner.

use store::{StoreError, UpgradeProgress, UpgradeState, UpgradeWanted, now};

use crate::test_db::TestDb;

//
async fn one_upgrade_at_a_time_is_asked_for_and_recorded(db: TestDb) {
    let store = db.open().await;
    assert_eq!(store.image_upgrade().await.unwrap(), None);
    let refused = store.set_image_upgrade(UpgradeWanted::Paused, None).await;
    assert!(matches!(refused, Err(StoreError::NotFound(_))), "{refused:?}");
    let revision = store.revision().await.unwrap();
    store.start_image_upgrade(1_000).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), revision + 1);
    let again = store.start_image_upgrade(2).await;
    assert!(matches!(again, Err(StoreError::AlreadyExists(_))), "{again:?}");
    let first = store.image_upgrade().await.unwrap().unwrap();
    assert_eq!(
        (first.parallel, first.is_at_rest(), &first.progress),
        (16, false, &UpgradeProgress::default())
    );

    let (state, message) = (UpgradeState::Stopped, Some("x".repeat(1_000)));
    let progress = UpgradeProgress { state, total: 9, done: 2, failed: 2, failures_in_row: 2, message };
    store.record_image_upgrade(&first, &progress, now()).await.unwrap();
    let stopped = store.image_upgrade().await.unwrap().unwrap();
    assert_eq!((stopped.progress.total, stopped.progress.message.as_ref().map(String::len)), (9, Some(500)));
    assert!(stopped.is_at_rest() && stopped.is_unfinished());
    store.set_image_upgrade(UpgradeWanted::Running, Some(0)).await.unwrap();
    let resumed = store.image_upgrade().await.unwrap().unwrap();
    assert_eq!(
        (&resumed.id, resumed.parallel, &resumed.progress),
        (&first.id, 1, &UpgradeProgress::default())
    );
    // Late news of the attempt before.
    store.record_image_upgrade(&first, &progress, now()).await.unwrap();
    assert!(!store.image_upgrade().await.unwrap().unwrap().is_at_rest());

    store.set_image_upgrade(UpgradeWanted::Paused, None).await.unwrap();
    let paused = UpgradeProgress { state: UpgradeState::Paused, done: 3, ..progress };
    store.record_image_upgrade(&resumed, &paused, now()).await.unwrap();
    assert!(store.image_upgrade().await.unwrap().unwrap().is_at_rest());
    store.set_image_upgrade(UpgradeWanted::Running, None).await.unwrap();
    let again = store.image_upgrade().await.unwrap().unwrap();
    assert_eq!((again.progress.done, again.is_at_rest()), (3, false), "what was done before a pause counts");
    store.set_image_upgrade(UpgradeWanted::Aborted, None).await.unwrap();
    let aborted = store.image_upgrade().await.unwrap().unwrap();
    assert_eq!(aborted.progress.state, UpgradeState::Aborted);
    store.start_image_upgrade(2).await.unwrap();
    assert_ne!(store.image_upgrade().await.unwrap().unwrap().id, first.id);
    let entries = store.audit_after(0, 100).await.unwrap();
    let actions: Vec<_> = entries.iter().map(|it| it.action.trim_start_matches("image.")).collect();
    let resume = "upgrade_resume";
    assert_eq!(actions, ["upgrade", resume, "upgrade_pause", resume, "upgrade_abort", "upgrade"]);
}

on_both!(one_upgrade_at_a_time_is_asked_for_and_recorded);
