//! What users are notified of: found once, however many processes look, caught up with, and bounded.

use std::time::Duration;

use store::{
    DenialCause, DenialRecord, DetectedSource, EventAction, EventCause, InstanceState, LeakReport,
    MailLimits, NewInstanceEvent, NewToken, Notification, NotificationKind, NotificationKinds, Observed,
    Permissions, Store, User, WebhookFields, now,
};
use tokio::task::JoinSet;

use crate::test_db::{TestDb, WEBHOOK, first_cache, sign_up, token_key};

const LIMITS: MailLimits = MailLimits { to_recipient_per_hour: 5, in_total_per_hour: 100 };
pub(crate) const DAY: Duration = Duration::from_hours(24);

/// Looks at every source; returns the kinds that were added.
pub(crate) async fn detect(store: &Store) -> Vec<NotificationKind> {
    let mut added = Vec::new();
    for source in DetectedSource::ALL {
        loop {
            let detected = store.detect_notifications(source, Some(&LIMITS)).await.unwrap();
            added.extend(detected.added);
            if !detected.has_more {
                break;
            }
        }
    }
    added
}

pub(crate) async fn notified(store: &Store, user: &User) -> Vec<Notification> {
    store.notifications_of(&user.id, None, 1_000).await.unwrap()
}

async fn instance_of(store: &Store, user: &User) -> String {
    store.first_instance_of(&user.id).await.unwrap().unwrap().id
}

pub(crate) async fn set_state(store: &Store, user: &User, state: InstanceState) {
    let id = instance_of(store, user).await;
    let seen = Observed {
        state,
        generation: 1,
        address: None,
        container: None,
        version: None,
        message: Some("no room".into()),
    };
    store.record_route(&id, &seen).await.unwrap();
}

fn event(instance: &str, cause: EventCause, contents_lost: bool) -> NewInstanceEvent {
    NewInstanceEvent {
        instance_id: instance.to_owned(),
        cause,
        action: EventAction::Started,
        contents_lost,
        detail: "for operators".into(),
        at: now(),
    }
}

// W-31.
async fn a_leak_is_notified_once_by_several_processes(db: TestDb) {
    let (store, key) = (db.open().await, token_key());
    let token = NewToken::generate(&key, "web shop");
    let user = store.sign_up(&crate::test_db::new_user("ada@example.org"), &token).await.unwrap();
    let none = WebhookFields { kinds: [NotificationKind::CacheFailed].into_iter().collect(), ..WEBHOOK };
    store.create_webhook(&user.id, &WEBHOOK).await.unwrap();
    store.create_webhook(&user.id, &none).await.unwrap();
    let found = LeakReport::new(&token.token, "https://git.example/a", "commit");
    assert!(store.report_leak(&key, &token.token, &found).await.unwrap());
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let store = db.open_existing().await.unwrap();
        tasks.spawn(async move { detect(&store).await });
    }
    let added: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(added, [NotificationKind::TokenLeaked]);
    let notifications = notified(&store, &user).await;
    assert_eq!(notifications.len(), 1);
    let it = &notifications[0];
    assert_eq!((it.cache_name.as_str(), &it.data["token_name"]), ("default", &"web shop".into()));
    assert_eq!(it.data["url"], "https://git.example/a");
    assert_eq!(db.number("SELECT COUNT(*) FROM webhook_deliveries").await, 1, "of the webhook that wants it");
    let mail = store.claim_mail(DAY).await.unwrap().unwrap();
    assert_eq!((mail.kind.as_str(), mail.recipient.as_str()), ("token_leaked", "ada@example.org"));
    assert_eq!(mail.link_id.as_deref(), Some(it.id.as_str()));
    assert_eq!(store.claim_mail(DAY).await.unwrap(), None);
    assert_eq!(store.notification(&it.id).await.unwrap().as_ref(), Some(it));
    assert!(detect(&store).await.is_empty());
}

// W-31.
async fn expiry_is_notified_a_week_before(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    let cache = first_cache(&store, &user).await;
    detect(&store).await;
    let mut ids = Vec::new();
    // Days until the expiry, days since the creation, notified.
    for (days, age, _) in EXPIRIES {
        let end = now().saturating_add(DAY * days);
        let permissions = Permissions { expires_at: Some(end), ..Permissions::ALL };
        let token = NewToken::generate(&token_key(), "t").limited_to(permissions);
        store.create_token(&cache, &token).await.unwrap();
        let id = token.token.id().to_string();
        db.execute(&format!(
            "UPDATE tokens SET created_at = created_at - {} WHERE id = '{id}'",
            age * 86_400_000
        ))
        .await
        .unwrap();
        let mut fingerprint = [0; 32];
        fingerprint[0] = u8::try_from(ids.len()).unwrap();
        let fingerprint = store::Fingerprint::of(&fingerprint);
        store.add_certificate(&token.token.id(), fingerprint, end, "").await.unwrap();
        ids.push(id);
    }
    assert!(detect(&store).await.is_empty(), "of what is made to expire soon nobody is notified");
    // The web UI was down for a week: a position that is as old.
    let week = 7 * 86_400_000;
    db.execute(&format!("UPDATE notification_positions SET at = at - {week}")).await.unwrap();
    let added = detect(&store).await;
    assert_eq!(added, [NotificationKind::TokenExpiring; 2], "certificates expire with their tokens");
    let notifications = notified(&store, &user).await;
    let expected: Vec<&String> =
        ids.iter().zip(EXPIRIES).filter(|(_, (.., notified))| *notified).map(|(id, _)| id).collect();
    for id in &expected {
        assert!(notifications.iter().any(|it| it.data["token_id"] == ***id), "{id}");
    }
    assert!(detect(&store).await.is_empty());
    // Another expiry is another notification, once the time comes.
    db.execute(&format!("UPDATE tokens SET expires_at = expires_at + 1000 WHERE id = '{}'", expected[0]))
        .await
        .unwrap();
    db.execute(&format!("UPDATE notification_positions SET at = at - {week}")).await.unwrap();
    assert_eq!(detect(&store).await, [NotificationKind::TokenExpiring]);
    // A certificate that expires long before its token.
    db.execute("UPDATE tokens SET expires_at = NULL").await.unwrap();
    db.execute("UPDATE certificates SET created_at = created_at - 864000000").await.unwrap();
    db.execute(&format!("UPDATE notification_positions SET at = at - {week}")).await.unwrap();
    let added = detect(&store).await;
    assert!(
        !added.is_empty() && added.iter().all(|kind| *kind == NotificationKind::CertificateExpiring),
        "{added:?}"
    );
}

/// Tokens: days until the expiry, days since the creation, whether the user is notified.
const EXPIRIES: [(u32, i64, bool); 4] = [(3, 10, true), (6, 30, true), (6, 0, false), (30, 10, false)];

// W-31: as many as a pass reads expire at the same time.
async fn many_that_expire_at_the_same_time_are_all_notified(db: TestDb) {
    let store = db.open().await;
    let (user, first) = sign_up(&store, "ada@example.org").await;
    detect(&store).await;
    let end = now().saturating_add(DAY * 2).as_millis();
    let id = first.token.id();
    // 450 users, so that none has more than are kept.
    db.execute(&format!(
        "CREATE TABLE n AS WITH RECURSIVE s(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM s WHERE i < 449) SELECT i FROM s;
         INSERT INTO users (id, email, password_hash, plan, is_admin, state, created_at, revision)
           SELECT 'u' || i, 'u' || i, NULL, 'default', 0, 'active', 1, 1 FROM n;
         INSERT INTO caches (id, user_id, name, plan, created_at, revision) SELECT 'c' || i, 'u' || i, 'x', 'default', 1, 1 FROM n;
         INSERT INTO tokens (id, cache_id, name, secret_hash, scram_salt, scram_iterations, scram_stored_key, scram_server_key,
           scopes, expires_at, created_at, revision)
           SELECT 't' || n.i, 'c' || n.i, 'x', '', '', 1, '', '', '', {end}, 1, 1 FROM n JOIN tokens t ON t.id = '{id}';
         DROP TABLE n;"
    ))
    .await
    .unwrap();
    db.execute("UPDATE notification_positions SET at = at - 864000000").await.unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..2 {
        let store = db.open_existing().await.unwrap();
        tasks.spawn(async move { detect(&store).await.len() });
    }
    let added: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!(added, 450);
    assert!(notified(&store, &user).await.is_empty());
}

// W-31.
async fn failures_and_recoveries_are_notified_in_turn(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    for _ in 0..2 {
        set_state(&store, &user, InstanceState::Failed).await;
        assert_eq!(detect(&store).await, [NotificationKind::CacheFailed]);
        // Recorded again, with another message: the same failure.
        set_state(&store, &user, InstanceState::Failed).await;
        assert!(detect(&store).await.is_empty());
        set_state(&store, &user, InstanceState::Restarting).await;
        assert!(detect(&store).await.is_empty());
        set_state(&store, &user, InstanceState::Running).await;
        assert_eq!(detect(&store).await, [NotificationKind::CacheRecovered]);
    }
    let last = &notified(&store, &user).await[1];
    assert!(last.data["failed_at"].as_i64().is_some());
    let failed = notified(&store, &user)
        .await
        .into_iter()
        .find(|it| it.kind == NotificationKind::CacheFailed)
        .unwrap();
    assert_eq!(failed.data["message"], "no room");
}

// W-31.
async fn repairs_that_lost_contents_are_notified(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    let instance = instance_of(&store, &user).await;
    store.add_instance_events(&[event(&instance, EventCause::Paused, false)]).await.unwrap();
    assert!(detect(&store).await.is_empty(), "nothing was lost");
    store.add_instance_events(&[event(&instance, EventCause::OutOfMemory, true)]).await.unwrap();
    let added = detect(&store).await;
    assert_eq!(added, [NotificationKind::CacheEmptied, NotificationKind::CacheOutOfMemory]);
    // Counted up, and others within the hour.
    let more = [event(&instance, EventCause::OutOfMemory, true), event(&instance, EventCause::Removed, true)];
    store.add_instance_events(&more).await.unwrap();
    assert!(detect(&store).await.is_empty());
    // Again and again.
    for _ in 0..5 {
        store.add_instance_events(&[event(&instance, EventCause::Crashed, true)]).await.unwrap();
    }
    assert_eq!(detect(&store).await, [NotificationKind::CacheFailed]);
    for _ in 0..5 {
        store.add_instance_events(&[event(&instance, EventCause::Crashed, true)]).await.unwrap();
    }
    assert!(detect(&store).await.is_empty(), "once for each series");
    let text = format!("{:?}", notified(&store, &user).await);
    assert!(!text.contains("for operators"), "{text}");
}

// W-31: whichever source is read first.
async fn a_repeated_event_that_lost_contents_is_notified_as_both(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    let instance = instance_of(&store, &user).await;
    for _ in 0..5 {
        store.add_instance_events(&[event(&instance, EventCause::OutOfMemory, true)]).await.unwrap();
    }
    let repeated = store.detect_notifications(DetectedSource::RepeatedEvents, None).await.unwrap();
    assert_eq!(repeated.added, [NotificationKind::CacheFailed]);
    let events = store.detect_notifications(DetectedSource::Events, None).await.unwrap();
    assert_eq!(events.added, [NotificationKind::CacheEmptied, NotificationKind::CacheOutOfMemory]);
    assert!(detect(&store).await.is_empty());
}

// W-31.
async fn limits_of_a_plan_are_notified_once_an_hour(db: TestDb) {
    let store = db.open().await;
    let (user, token) = sign_up(&store, "ada@example.org").await;
    let denial = |cause, source: &str| DenialRecord {
        token_id: token.token.id().to_string(),
        cause,
        source: Some(source.into()),
        detail: "get".into(),
        protocol: "text".into(),
        tls: true,
        count: 1,
        first_at: now(),
        last_at: now(),
    };
    detect(&store).await;
    store.add_denials(&[denial(DenialCause::WrongSecret, "192.0.2.1")]).await.unwrap();
    assert!(detect(&store).await.is_empty());
    let both = [denial(DenialCause::Limit, "192.0.2.1"), denial(DenialCause::Rate, "192.0.2.1")];
    store.add_denials(&both).await.unwrap();
    assert_eq!(detect(&store).await, [NotificationKind::PlanLimitReached; 2]);
    store
        .add_denials(&[denial(DenialCause::Limit, "192.0.2.2"), denial(DenialCause::Rate, "192.0.2.2")])
        .await
        .unwrap();
    assert!(detect(&store).await.is_empty(), "within the hour");
    db.execute("UPDATE notifications SET created_at = created_at - 3700000, period = '1'").await.unwrap();
    store.add_denials(&both).await.unwrap();
    assert_eq!(detect(&store).await, [NotificationKind::PlanLimitReached; 2]);
    let mut limits: Vec<String> = notified(&store, &user)
        .await
        .iter()
        .map(|it| it.data["limit"].as_str().unwrap().to_owned())
        .collect();
    limits.sort();
    assert_eq!(limits, ["connections", "connections", "rate", "rate"]);
}

// W-31.
async fn refused_values_are_notified(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    let instance = instance_of(&store, &user).await;
    detect(&store).await;
    let begins = now().as_millis() / 300_000 * 300_000;
    let insert = |resolution: i64, slot: i64, refused: i64| {
        format!(
            "INSERT INTO statistics_history (instance_id, resolution, slot, begins_at, measured_ms, bytes, limit_bytes, items, \
             connections, container_bytes, hits, misses, sets, evictions, evicted_unfetched, reclaimed, out_of_memory, \
             bytes_read, bytes_written, cpu_us) \
             VALUES ('{instance}', {resolution}, {slot}, {begins}, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, {refused}, 1, 1, 1)"
        )
    };
    db.execute(&insert(300, 1, 0)).await.unwrap();
    db.execute("UPDATE notification_positions SET at = at - 600000").await.unwrap();
    assert!(detect(&store).await.is_empty());
    db.execute(&insert(300, 2, 7)).await.unwrap();
    assert_eq!(detect(&store).await, [NotificationKind::CacheOutOfMemory]);
    assert_eq!(notified(&store, &user).await[0].data["values"], 7);
    assert!(detect(&store).await.is_empty());
}

// W-31.
async fn mail_goes_to_those_who_want_it_within_limits(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    assert_eq!(store.mail_kinds_of(&user.id).await.unwrap(), NotificationKinds::NEEDING_ACTION);
    let only = [NotificationKind::CacheRecovered].into_iter().collect();
    store.set_mail_kinds(&user.id, only).await.unwrap();
    let entries = store.audit_length().await.unwrap();
    store.set_mail_kinds(&user.id, only).await.unwrap();
    assert_eq!(store.audit_length().await.unwrap(), entries, "the same again writes nothing");
    assert_eq!(store.mail_kinds_of(&user.id).await.unwrap(), only);
    set_state(&store, &user, InstanceState::Failed).await;
    detect(&store).await;
    assert_eq!(store.waiting_mails().await.unwrap(), 0);
    for _ in 0..7 {
        set_state(&store, &user, InstanceState::Running).await;
        detect(&store).await;
        set_state(&store, &user, InstanceState::Failed).await;
        detect(&store).await;
    }
    assert_eq!(store.waiting_mails().await.unwrap(), 5, "an hour's");
    assert_eq!(notified(&store, &user).await.len(), 15);
    assert!(matches!(store.set_mail_kinds("nobody", only).await, Err(store::StoreError::NotFound("user"))));
}

// W-31, W-32.
async fn notifications_are_bounded_and_end_with_the_account(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    let webhook = store.create_webhook(&user.id, &WEBHOOK).await.unwrap();
    for _ in 0..205 {
        store.send_test(&webhook).await.unwrap();
        // Of tests fewer are kept.
        db.execute("UPDATE notifications SET kind = 'cache_failed'").await.unwrap();
    }
    let notifications = notified(&store, &user).await;
    assert_eq!(notifications.len(), 200);
    assert_eq!(
        store.webhook_deliveries(&webhook, None, 1_000).await.unwrap().len(),
        200,
        "deliveries go with them"
    );
    // In pages, without gaps.
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = store
            .notifications_of(&user.id, before.as_ref().map(|(at, id): &(_, String)| (*at, &**id)), 70)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        before = Some((last.created_at, last.id.clone()));
        seen.extend(page);
    }
    assert_eq!(seen, notifications);
    db.execute("UPDATE notifications SET created_at = 1 WHERE id IN (SELECT id FROM notifications LIMIT 50)")
        .await
        .unwrap();
    assert_eq!(store.delete_old_notifications().await.unwrap(), 50);
    store.delete_user(&user.id).await.unwrap();
    for table in ["notifications", "webhooks", "webhook_deliveries", "notification_preferences"] {
        assert_eq!(db.number(&format!("SELECT COUNT(*) FROM {table}")).await, 0, "{table}");
    }
}

on_both! {
    a_leak_is_notified_once_by_several_processes,
    expiry_is_notified_a_week_before,
    many_that_expire_at_the_same_time_are_all_notified,
    failures_and_recoveries_are_notified_in_turn,
    repairs_that_lost_contents_are_notified,
    a_repeated_event_that_lost_contents_is_notified_as_both,
    limits_of_a_plan_are_notified_once_an_hour,
    refused_values_are_notified,
    mail_goes_to_those_who_want_it_within_limits,
    notifications_are_bounded_and_end_with_the_account,
}
