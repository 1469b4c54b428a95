//! What a restored backup doesn't bring back.

use std::time::Duration;

use store::{MailKind, MailLimits, MailOutcome, NewMail};

use crate::test_db::{TestDb, WEBHOOK, new_session, sign_up};

const LIMITS: MailLimits = MailLimits { to_recipient_per_hour: 5, in_total_per_hour: 100 };

//
async fn what_may_have_ended_since_the_backup_is_ended(db: TestDb) {
    let store = db.open().await;
    let (user, token) = sign_up(&store, "ada@example.org").await;
    let notice = NewMail {
        kind: MailKind::PasswordChanged,
        user_id: Some(&user.id),
        recipient: "ada@example.org",
        link_id: None,
    };
    store.add_mail(&notice, &LIMITS).await.unwrap();
    let failed = store.claim_mail(Duration::from_secs(60)).await.unwrap().unwrap();
    store.finish_mail(&failed, &MailOutcome::Failed { error: "x" }).await.unwrap();
    store.create_session(&new_session("session", &user.id)).await.unwrap();
    store.add_pending_sign_in("pending", &user.id).await.unwrap();
    assert!(store.send_reset_link("ada@example.org", &LIMITS).await.unwrap());
    let webhook = store.create_webhook(&user.id, &WEBHOOK).await.unwrap();
    store.send_test(&webhook).await.unwrap();
    let ended = [
        "SELECT COUNT(*) FROM sessions",
        "SELECT COUNT(*) FROM pending_sign_ins",
        "SELECT COUNT(*) FROM account_links",
        "SELECT COUNT(*) FROM mails WHERE state = 'waiting'",
        "SELECT COUNT(*) FROM webhook_deliveries",
        "SELECT COUNT(*) FROM webhooks WHERE next_attempt_at IS NOT NULL",
    ];
    for sql in ended {
        assert_eq!(db.number(sql).await, 1, "{sql}");
    }

    store.end_restored_sessions().await.unwrap();
    for sql in ended {
        assert_eq!(db.number(sql).await, 0, "{sql}");
    }
    assert_eq!(store.user(&user.id).await.unwrap().as_ref(), Some(&user));
    assert!(store.grant(&token.token.id()).await.unwrap().is_some());
    assert_eq!(db.number("SELECT COUNT(*) FROM mails WHERE state = 'failed'").await, 1, "kept for operators");
    assert_eq!(store.webhooks_of(&user.id).await.unwrap().len(), 1);
    let last = store.audit_after(0, 1_000).await.unwrap().pop().unwrap();
    assert_eq!(last.action, "installation.restore");
}

on_both! { what_may_have_ended_since_the_backup_is_ended }
