//! What can't be done with notifications: neither a clock, nor a broken proxy, nor their user keeps others from being added.

use std::time::Duration;

use store::{DenialCause, DenialRecord, DisabledReason, InstanceState, NotificationKind, now};

use crate::notifications::{DAY, detect, notified, set_state};
use crate::test_db::{TestDb, WEBHOOK, sign_up};

// W-31: neither a clock that was ahead nor what a broken proxy dates ahead ends what is told.
async fn times_ahead_end_no_notifications(db: TestDb) {
    let store = db.open().await;
    let (user, token) = sign_up(&store, "ada@example.org").await;
    detect(&store).await;
    let denial = |ahead: Duration| DenialRecord {
        token_id: token.token.id().to_string(),
        cause: DenialCause::Limit,
        source: Some("192.0.2.1".to_owned()),
        detail: String::new(),
        protocol: "text".to_owned(),
        tls: true,
        count: 1,
        first_at: now(),
        last_at: now().saturating_add(ahead),
    };
    store.add_denials(&[denial(DAY * 300)]).await.unwrap();
    assert!(detect(&store).await.is_empty(), "not before its time");
    db.execute(&format!("UPDATE notification_positions SET at = at + {}", 300 * 86_400_000_i64))
        .await
        .unwrap();
    db.execute("DELETE FROM denials").await.unwrap();
    assert!(detect(&store).await.is_empty());
    store.add_denials(&[denial(Duration::ZERO)]).await.unwrap();
    assert_eq!(detect(&store).await, [NotificationKind::PlanLimitReached]);
    assert_eq!(notified(&store, &user).await.len(), 1);
}

// W-31: tests, and webhooks that are disabled again and again, leave the others.
async fn notifications_at_will_push_out_no_others(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    set_state(&store, &user, InstanceState::Failed).await;
    assert_eq!(detect(&store).await, [NotificationKind::CacheFailed]);
    let webhook = store.create_webhook(&user.id, &WEBHOOK).await.unwrap();
    for _ in 0..210 {
        store.send_test(&webhook).await.unwrap();
    }
    let count = async |kind: NotificationKind| {
        notified(&store, &user).await.iter().filter(|it| it.kind == kind).count()
    };
    assert_eq!(count(NotificationKind::Test).await, 20);
    for _ in 0..25 {
        store.disable_webhook(&webhook, DisabledReason::Gone, None).await.unwrap();
        store.change_webhook(&webhook, None, Some(true)).await.unwrap();
        // Each is told of another time.
        db.execute("UPDATE notifications SET period = id WHERE kind = 'webhook_disabled'").await.unwrap();
    }
    assert_eq!(count(NotificationKind::WebhookDisabled).await, 20);
    assert_eq!(count(NotificationKind::CacheFailed).await, 1);
}

on_both! {
    times_ahead_end_no_notifications,
    notifications_at_will_push_out_no_others,
}
