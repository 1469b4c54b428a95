//! Webhooks and their deliveries: claimed once, few of a user's and a host's at a time, tried again, given up.

use std::time::Duration;

use store::{
    ClaimedDelivery, DeliveryOutcome, DeliveryState, DisabledReason, Finished, NotificationKind,
    NotificationKinds, Store, StoreError, UserState, WebhookFields, now,
};
use tokio::task::JoinSet;

use crate::test_db::{TestDb, sign_up, token_key};

const LEASE: Duration = Duration::from_secs(60);

fn fields(host: &str) -> WebhookFields<'_> {
    WebhookFields {
        url: "https://hooks.example/a",
        host,
        description: "web shop",
        kinds: NotificationKinds::ALL,
    }
}

/// A user's webhook with a delivery that is due.
async fn webhook(store: &Store, user_id: &str, host: &str) -> String {
    let id = store.create_webhook(user_id, &fields(host)).await.unwrap();
    store.send_test(&id).await.unwrap();
    id
}

async fn user(store: &Store, email: &str) -> String {
    sign_up(store, email).await.0.id
}

/// Claims until nothing is due: a claim that meets another's finds nothing, and is made again.
async fn claim_all(store: &Store) -> Vec<ClaimedDelivery> {
    let mut claimed = Vec::new();
    for _ in 0..20 {
        claimed.extend(store.claim_delivery(LEASE).await.unwrap());
    }
    claimed
}

// W-23, W-32.
async fn webhooks_are_few_and_without_their_secret(db: TestDb) {
    let store = db.open().await;
    let ada = user(&store, "ada@example.org").await;
    for n in 0..5 {
        store.create_webhook(&ada, &fields(&format!("{n}.example"))).await.unwrap();
    }
    assert!(matches!(
        store.create_webhook(&ada, &fields("x")).await,
        Err(StoreError::LimitReached("webhook"))
    ));
    assert!(matches!(store.create_webhook("nobody", &fields("x")).await, Err(StoreError::NotFound("user"))));
    let webhooks = store.webhooks_of(&ada).await.unwrap();
    assert_eq!(webhooks.len(), 5);
    let it = &webhooks[0];
    assert_eq!(
        (it.url.as_str(), it.description.as_str(), it.kinds),
        ("https://hooks.example/a", "web shop", NotificationKinds::ALL)
    );
    assert_eq!((it.disabled, it.generation, it.generations(now())), (None, 1, vec![1]));
    // Each webhook and each generation has another secret, which isn't in the store.
    let key = token_key();
    assert_ne!(key.webhook_secret(&it.id, 1), key.webhook_secret(&it.id, 2));
    assert_ne!(key.webhook_secret(&it.id, 1), key.webhook_secret(&webhooks[1].id, 1));
    assert_eq!(store.rotate_webhook(&it.id).await.unwrap(), 2);
    let rotated = store.webhook(&it.id).await.unwrap().unwrap();
    assert_eq!(rotated.generations(now()), [2, 1], "both for a day");
    assert_eq!(rotated.generations(now().saturating_add(Duration::from_hours(24))), [2]);
    let kinds = [NotificationKind::CacheFailed].into_iter().collect();
    let other = WebhookFields { url: "https://b.example/", kinds, ..fields("b.example") };
    store.change_webhook(&it.id, Some(&other), Some(false)).await.unwrap();
    let changed = store.webhook(&it.id).await.unwrap().unwrap();
    assert_eq!((changed.url.as_str(), changed.kinds), ("https://b.example/", kinds));
    assert_eq!(changed.disabled, Some(DisabledReason::User));
    let (entries, revision) = (store.audit_length().await.unwrap(), store.revision().await.unwrap());
    store.change_webhook(&it.id, None, Some(false)).await.unwrap();
    store.change_webhook(&it.id, None, None).await.unwrap();
    let after = (store.audit_length().await.unwrap(), store.revision().await.unwrap());
    assert_eq!(after, (entries, revision), "the same again writes nothing");
    store.delete_webhook(&it.id).await.unwrap();
    assert_eq!(store.webhook(&it.id).await.unwrap(), None);
    let fields = fields("x");
    for gone in
        [store.delete_webhook(&it.id).await, store.change_webhook(&it.id, Some(&fields), Some(true)).await]
    {
        assert!(matches!(gone, Err(StoreError::NotFound("webhook"))));
    }
    let entries = store.audit_after(0, 1_000).await.unwrap();
    let noted: Vec<&str> = entries
        .iter()
        .map(|entry| entry.action.as_str())
        .filter(|action| action.starts_with("webhook."))
        .collect();
    assert_eq!(noted[5..], ["webhook.rotate", "webhook.update", "webhook.disable", "webhook.delete"]);
    // A path may be a credential of the receiver's.
    assert!(!format!("{entries:?}").contains("hooks.example/a"));
}

// W-30.
async fn each_delivery_is_claimed_once(db: TestDb) {
    let store = db.open().await;
    for n in 0..10 {
        let id = user(&store, &format!("{n}@example.org")).await;
        webhook(&store, &id, &format!("{n}.example")).await;
    }
    assert_eq!(store.due_deliveries().await.unwrap(), 10);
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let store = db.open_existing().await.unwrap();
        tasks.spawn(async move { claim_all(&store).await });
    }
    let claimed: Vec<ClaimedDelivery> = tasks.join_all().await.into_iter().flatten().collect();
    let mut ids: Vec<&str> = claimed.iter().map(|it| it.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((claimed.len(), ids.len()), (10, 10));
    assert!(claimed.iter().all(|it| it.attempts == 1 && it.notification.kind == NotificationKind::Test));
    // The process that had it may have crashed: once the lease is over, it is claimed again.
    let it = &claimed[0];
    db.execute(&format!(
        "UPDATE webhooks SET leased_until = 1, next_attempt_at = 1 WHERE id = '{}'",
        it.webhook.id
    ))
    .await
    .unwrap();
    db.execute(&format!("UPDATE webhook_deliveries SET next_attempt_at = 1 WHERE id = '{}'", it.id))
        .await
        .unwrap();
    let again = store.claim_delivery(LEASE).await.unwrap().unwrap();
    assert_eq!((&again.id, again.attempts), (&it.id, 2));
    store.finish_delivery(it, &DeliveryOutcome::Failed { status: Some(500), error: "x" }).await.unwrap();
    let listed = store.webhook_deliveries(&it.webhook.id, None, 10).await.unwrap();
    assert_eq!(listed[0].state, DeliveryState::Waiting, "the former claim counts no more");
    assert_eq!(store.claim_delivery(LEASE).await.unwrap(), None, "and doesn't end the new one");
    store.finish_delivery(&again, &DeliveryOutcome::Delivered(204)).await.unwrap();
    let listed = store.webhook_deliveries(&it.webhook.id, None, 10).await.unwrap();
    assert_eq!(
        (listed[0].state, listed[0].status, listed[0].attempts),
        (DeliveryState::Delivered, Some(204), 2)
    );
}

// W-30: however slow a receiver is, others are sent to.
async fn few_deliveries_of_a_user_and_of_a_host_are_made_at_a_time(db: TestDb) {
    let store = db.open().await;
    let ada = user(&store, "ada@example.org").await;
    for n in 0..5 {
        webhook(&store, &ada, &format!("{n}.example")).await;
    }
    let claimed = claim_all(&store).await;
    assert_eq!(claimed.len(), 2, "of a user");
    for n in 0..8 {
        let id = user(&store, &format!("{n}@example.org")).await;
        webhook(&store, &id, "victim.example").await;
    }
    let of_host = claim_all(&store).await;
    assert_eq!(of_host.len(), 6, "to a host");
    // Of a webhook one at a time.
    let bob = user(&store, "bob@example.org").await;
    let own = webhook(&store, &bob, "bob.example").await;
    store.send_test(&own).await.unwrap();
    let first = claim_all(&store).await;
    assert_eq!(first.len(), 1);
    store.finish_delivery(&first[0], &DeliveryOutcome::Delivered(200)).await.unwrap();
    let second = claim_all(&store).await;
    assert_eq!(second.len(), 1);
    assert_ne!(first[0].id, second[0].id);
    // A suspended user's aren't sent.
    store.finish_delivery(&second[0], &DeliveryOutcome::Delivered(200)).await.unwrap();
    store.send_test(&own).await.unwrap();
    store.set_user_state(&bob, UserState::Suspended).await.unwrap();
    let due = store.due_deliveries().await.unwrap();
    assert!(claim_all(&store).await.is_empty());
    store.set_user_state(&bob, UserState::Active).await.unwrap();
    assert_eq!(store.due_deliveries().await.unwrap(), due + 1, "nor counted");
    assert_eq!(claim_all(&store).await.len(), 1);
}

/// Claims one, and ends it as a slow receiver would.
async fn serve(store: &Store) -> Option<String> {
    let claimed = store.claim_delivery(LEASE).await.unwrap()?;
    store.finish_delivery(&claimed, &DeliveryOutcome::Delivered(200)).await.unwrap();
    Some(claimed.webhook.user_id)
}

// W-30: who has many deliveries that wait holds up nobody who has one.
async fn webhooks_are_sent_to_in_turn(db: TestDb) {
    let store = db.open().await;
    let mut of_many = Vec::new();
    for n in 0..3 {
        let id = user(&store, &format!("{n}@example.org")).await;
        // At one host, with paths that take long.
        for _ in 0..2 {
            let own = webhook(&store, &id, "shared.example").await;
            for _ in 0..4 {
                store.send_test(&own).await.unwrap();
            }
        }
        of_many.push(id);
    }
    let claimed = claim_all(&store).await;
    assert_eq!(claimed.len(), 6, "all places of the host");
    // They have been due for longer.
    let bob = user(&store, "bob@example.org").await;
    webhook(&store, &bob, "shared.example").await;
    assert_eq!(store.claim_delivery(LEASE).await.unwrap(), None);
    store.finish_delivery(&claimed[0], &DeliveryOutcome::Delivered(200)).await.unwrap();
    assert_eq!(serve(&store).await, Some(bob), "the first place that is free is bob's");
    for it in &claimed[1..] {
        store.finish_delivery(it, &DeliveryOutcome::Delivered(200)).await.unwrap();
    }
    let mut served = Vec::new();
    for _ in 0..6 {
        served.push(serve(&store).await.unwrap());
        // Times are in milliseconds.
        db.execute("UPDATE webhooks SET served_at = served_at - 10").await.unwrap();
    }
    for id in &of_many {
        assert_eq!(served.iter().filter(|it| *it == id).count(), 2, "{served:?}");
    }
}

// W-30: places that webhooks don't get whose receivers fail.
async fn working_webhooks_are_told_from_failing_ones(db: TestDb) {
    let store = db.open().await;
    let ada = user(&store, "ada@example.org").await;
    let failing = webhook(&store, &ada, "slow.example").await;
    let claimed = store.claim_delivery(LEASE).await.unwrap().unwrap();
    let failed = DeliveryOutcome::Failed { status: None, error: "x" };
    store.finish_delivery(&claimed, &failed).await.unwrap();
    store.send_test(&failing).await.unwrap();
    assert_eq!(store.claim_working_delivery(LEASE).await.unwrap(), None);
    let bob = user(&store, "bob@example.org").await;
    let works = webhook(&store, &bob, "bob.example").await;
    assert_eq!(store.claim_working_delivery(LEASE).await.unwrap().unwrap().webhook.id, works);
    assert_eq!(store.claim_delivery(LEASE).await.unwrap().unwrap().webhook.id, failing);
}

// W-30: a webhook whose delivery went with its notification doesn't hold up those that are due.
async fn webhook_without_its_delivery_holds_up_no_other(db: TestDb) {
    let store = db.open().await;
    let ada = user(&store, "ada@example.org").await;
    webhook(&store, &ada, "a.example").await;
    db.execute("DELETE FROM webhook_deliveries").await.unwrap();
    let bob = user(&store, "bob@example.org").await;
    let own = webhook(&store, &bob, "bob.example").await;
    let claimed = store.claim_delivery(LEASE).await.unwrap();
    assert_eq!(claimed.map(|it| it.webhook.id), Some(own));
}

// W-30.
async fn deliveries_are_tried_again_and_sent_again(db: TestDb) {
    let store = db.open().await;
    let ada = user(&store, "ada@example.org").await;
    let id = webhook(&store, &ada, "a.example").await;
    let claimed = store.claim_delivery(LEASE).await.unwrap().unwrap();
    let (at, error) = (now().saturating_add(LEASE), "x".repeat(1_000));
    let retry = DeliveryOutcome::Retry { at, status: Some(500), error: &error };
    assert_eq!(store.finish_delivery(&claimed, &retry).await.unwrap(), Finished::Continue);
    assert_eq!(store.claim_delivery(LEASE).await.unwrap(), None, "not yet");
    assert_eq!(store.due_deliveries().await.unwrap(), 0);
    let listed = &store.webhook_deliveries(&id, None, 10).await.unwrap()[0];
    assert_eq!((listed.next_attempt_at, listed.status, listed.error.len()), (at, Some(500), 200));
    assert!(store.webhook(&id).await.unwrap().unwrap().failing_since.is_some());
    assert_eq!(store.failing_webhooks().await.unwrap(), 1);
    // Another one is sent meanwhile.
    store.send_test(&id).await.unwrap();
    let other = store.claim_delivery(LEASE).await.unwrap().unwrap();
    assert_ne!(other.id, claimed.id);
    store.finish_delivery(&other, &DeliveryOutcome::Failed { status: None, error: "x" }).await.unwrap();
    store.send_again(&id, &other.id).await.unwrap();
    store.send_again(&id, &claimed.id).await.unwrap();
    let again = store.claim_delivery(LEASE).await.unwrap().unwrap();
    assert_eq!((again.id, again.attempts), (other.id, 1), "from the first attempt on");
    store.change_webhook(&id, None, Some(false)).await.unwrap();
    assert_eq!(store.failing_webhooks().await.unwrap(), 0, "nothing is sent to it");
    assert!(matches!(store.send_again(&id, &claimed.id).await, Err(StoreError::NotFound("enabled webhook"))));
    assert!(matches!(store.send_test(&id).await, Err(StoreError::NotFound("enabled webhook"))));
    let listed = store.webhook_deliveries(&id, None, 10).await.unwrap();
    assert!(listed.iter().all(|it| it.state == DeliveryState::Failed), "{listed:?}");
    assert!(
        store
            .notifications_of(&ada, None, 10)
            .await
            .unwrap()
            .iter()
            .all(|it| it.kind == NotificationKind::Test)
    );
    store.change_webhook(&id, None, Some(true)).await.unwrap();
    assert_eq!(store.webhook(&id).await.unwrap().unwrap().failing_since, None);
    assert_eq!(store.claim_delivery(LEASE).await.unwrap(), None);
}

// W-30.
async fn a_webhook_that_fails_for_three_days_is_disabled(db: TestDb) {
    let store = db.open().await;
    let ada = user(&store, "ada@example.org").await;
    let id = webhook(&store, &ada, "a.example").await;
    let fail = async || {
        let claimed = store.claim_delivery(LEASE).await.unwrap().unwrap();
        let finished =
            store.finish_delivery(&claimed, &DeliveryOutcome::Failed { status: None, error: "x" }).await;
        store.send_test(&id).await.unwrap();
        finished.unwrap()
    };
    assert_eq!(fail().await, Finished::Continue);
    db.execute("UPDATE webhooks SET failing_since = failing_since - 250000000").await.unwrap();
    assert_eq!(fail().await, Finished::Continue, "not yet three days");
    db.execute("UPDATE webhooks SET failing_since = failing_since - 10000000").await.unwrap();
    // The first attempt after a quiet time isn't enough: the receiver may have worked in between.
    let claimed = store.claim_delivery(LEASE).await.unwrap().unwrap();
    let retry = DeliveryOutcome::Retry { at: now(), status: None, error: "x" };
    assert_eq!(store.finish_delivery(&claimed, &retry).await.unwrap(), Finished::Continue);
    assert_eq!(fail().await, Finished::Disable);
    let limits = store::MailLimits { to_recipient_per_hour: 5, in_total_per_hour: 100 };
    for _ in 0..2 {
        store.disable_webhook(&id, DisabledReason::Failing, Some(&limits)).await.unwrap();
    }
    assert_eq!(store.webhook(&id).await.unwrap().unwrap().disabled, Some(DisabledReason::Failing));
    let added = store.notifications_of(&ada, None, 10).await.unwrap();
    let added: Vec<_> = added.iter().filter(|it| it.kind == NotificationKind::WebhookDisabled).collect();
    assert_eq!((added.len(), &added[0].data["host"]), (1, &"a.example".into()));
    assert_eq!(store.claim_mail(LEASE).await.unwrap().unwrap().kind.as_str(), "notification");
    // A success in between starts the time again.
    store.change_webhook(&id, None, Some(true)).await.unwrap();
    store.send_test(&id).await.unwrap();
    let claimed = store.claim_delivery(LEASE).await.unwrap().unwrap();
    store.finish_delivery(&claimed, &DeliveryOutcome::Delivered(200)).await.unwrap();
    assert_eq!(store.webhook(&id).await.unwrap().unwrap().failing_since, None);
}

on_both! {
    webhooks_are_few_and_without_their_secret,
    each_delivery_is_claimed_once,
    few_deliveries_of_a_user_and_of_a_host_are_made_at_a_time,
    webhooks_are_sent_to_in_turn,
    working_webhooks_are_told_from_failing_ones,
    webhook_without_its_delivery_holds_up_no_other,
    deliveries_are_tried_again_and_sent_again,
    a_webhook_that_fails_for_three_days_is_disabled,
}
