//! Mail that waits, and links for one use: claimed and used once, whatever happens at the same time.

use std::time::Duration;

use store::{
    LinkKind, MailKind, MailLimits, MailOutcome, NewMail, NewPassword, SignUpRoom, Store, StoreError, now,
};
use tokio::task::JoinSet;

use crate::test_db::{TestDb, new_token, new_user, sign_up, token_key};

const LIMITS: MailLimits = MailLimits { to_recipient_per_hour: 5, in_total_per_hour: 100 };
const LEASE: Duration = Duration::from_secs(60);

fn notice<'a>(recipient: &'a str, user_id: &'a str) -> NewMail<'a> {
    NewMail { kind: MailKind::PasswordChanged, user_id: Some(user_id), recipient, link_id: None }
}

/// The link of the only mail that waits for an address.
async fn claim_link(store: &Store, recipient: &str) -> String {
    while let Some(mail) = store.claim_mail(LEASE).await.unwrap() {
        store.finish_mail(&mail, &MailOutcome::Sent).await.unwrap();
        if let Some(link) = mail.link_id
            && mail.recipient == recipient
        {
            return link;
        }
    }
    panic!("no link for {recipient}");
}

fn password(hash: &str) -> NewPassword<'_> {
    NewPassword { hash, replaces: None, revoke_tokens: false }
}

// W-19.
async fn each_mail_is_claimed_once(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    for n in 0..20 {
        store.add_mail(&notice(&format!("{n}@example.org"), &ada.id), &LIMITS).await.unwrap();
    }
    assert_eq!(store.waiting_mails().await.unwrap(), 20);
    // Several web UIs.
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let store = db.open_existing().await.unwrap();
        tasks.spawn(async move {
            let mut claimed = Vec::new();
            // A claim that meets another's finds nothing, and is made again.
            for _ in 0..40 {
                claimed.extend(store.claim_mail(LEASE).await.unwrap());
            }
            claimed
        });
    }
    let mut claimed: Vec<String> = tasks.join_all().await.into_iter().flatten().map(|mail| mail.id).collect();
    claimed.sort();
    claimed.dedup();
    assert_eq!(claimed.len(), 20);
    assert_eq!(store.claim_mail(LEASE).await.unwrap(), None);
    // The lease ends: the process that had it may have crashed.
    db.execute("UPDATE mails SET next_attempt_at = 1 WHERE recipient = '7@example.org'").await.unwrap();
    let again = store.claim_mail(LEASE).await.unwrap().unwrap();
    assert_eq!((again.recipient.as_str(), again.attempts), ("7@example.org", 2));
    let stale = store::ClaimedMail { attempts: 1, ..again.clone() };
    store.finish_mail(&stale, &MailOutcome::Failed { error: "x" }).await.unwrap();
    assert_eq!(store.waiting_mails().await.unwrap(), 20, "the former claim counts no more");
    let at = now().saturating_add(LEASE);
    let error = "x".repeat(1000);
    store.finish_mail(&again, &MailOutcome::Retry { at, error: &error }).await.unwrap();
    assert_eq!(store.claim_mail(LEASE).await.unwrap(), None);
    assert_eq!(db.number("SELECT CAST(MAX(LENGTH(error)) AS BIGINT) FROM mails").await, 200);
    db.execute("UPDATE mails SET next_attempt_at = 1 WHERE recipient = '7@example.org'").await.unwrap();
    let third = store.claim_mail(LEASE).await.unwrap().unwrap();
    store.finish_mail(&third, &MailOutcome::Sent).await.unwrap();
    assert_eq!(store.waiting_mails().await.unwrap(), 19);
}

// W-17.
async fn mails_are_limited(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let limits = MailLimits { to_recipient_per_hour: 2, in_total_per_hour: 12 };
    let add = async |recipient: &str| store.add_mail(&notice(recipient, &ada.id), &limits).await;
    for recipient in ["a@x.org", "a@x.org", "b@x.org"] {
        add(recipient).await.unwrap();
    }
    assert!(matches!(add("a@x.org").await, Err(StoreError::LimitReached("mail"))));
    let other = NewMail { kind: MailKind::EmailChanged, ..notice("a@x.org", &ada.id) };
    store.add_mail(&other, &limits).await.unwrap();
    // Sign-ups end at half of the total, what accounts' owners ask for at three quarters. Notices don't count.
    let sign_up_mail = async |email: &str| store.send_sign_up_link(email, &limits).await;
    for name in ["c", "d", "e", "f", "g", "h"] {
        sign_up_mail(&format!("{name}@x.org")).await.unwrap();
    }
    assert!(matches!(sign_up_mail("i@x.org").await, Err(StoreError::LimitReached("mail"))));
    sign_up(&store, "bob@example.org").await;
    sign_up(&store, "eve@example.org").await;
    for (email, is_sent) in [("ada", true), ("ada", true), ("ada", false), ("bob", true), ("eve", false)] {
        let email = format!("{email}@example.org");
        assert_eq!(store.send_reset_link(&email, &limits).await.unwrap(), is_sent, "{email}");
    }
    assert_eq!(db.number("SELECT COUNT(*) FROM account_links").await, 9, "no link without its mail");
    for recipient in ["e@x.org", "f@x.org", "g@x.org"] {
        add(recipient).await.unwrap();
    }
    // What tells of a change isn't refused, however much mail is asked for, unless much of it waits.
    add("h@x.org").await.unwrap();
    db.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) \
         INSERT INTO mails (id, kind, recipient, state, created_at, next_attempt_at, attempts, error) \
         SELECT 'many' || i, 'sign_up', 'a@x.org', 'waiting', 1, 1, 0, '' FROM n",
    )
    .await
    .unwrap();
    assert!(matches!(add("i@x.org").await, Err(StoreError::LimitReached("mail"))));
    db.execute("DELETE FROM mails WHERE created_at = 1").await.unwrap();
    db.execute("UPDATE mails SET created_at = created_at - 3600001").await.unwrap();
    add("a@x.org").await.unwrap();
    db.execute("UPDATE mails SET created_at = 1 WHERE recipient <> 'a@x.org'").await.unwrap();
    assert_eq!(store.delete_old_mails().await.unwrap(), 14);
    let unknown = notice("a@x.org", "unknown");
    assert!(store.add_mail(&unknown, &LIMITS).await.is_err());
}

// W-17: whatever a few accounts have mailed to themselves, others get theirs.
async fn a_few_accounts_take_no_mail_from_others(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let add = async |kind: MailKind, recipient: &str| {
        store.add_mail(&NewMail { kind, ..notice(recipient, &ada.id) }, &LIMITS).await
    };
    for _ in 0..5 {
        for n in 0..20 {
            let recipient = format!("{n}@x.org");
            add(MailKind::TokenLeaked, &recipient).await.unwrap();
            let _ = add(MailKind::Notification, &recipient).await;
        }
    }
    let notifications = db.number("SELECT COUNT(*) FROM mails WHERE kind = 'notification'").await;
    assert!((20..50).contains(&notifications), "a second one has half of the room: {notifications}");
    for kind in [MailKind::Notification, MailKind::SignUp, MailKind::ResetPassword, MailKind::PasswordChanged]
    {
        add(kind, "bob@example.org").await.unwrap();
    }
    // While the mail server is away, notifications leave half of the queue.
    db.execute("UPDATE mails SET created_at = 1, state = 'sent'").await.unwrap();
    db.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
         INSERT INTO mails (id, kind, recipient, state, created_at, next_attempt_at, attempts, error) \
         SELECT 'many' || i, 'notification', 'a@x.org', 'waiting', 1, 1, 0, '' FROM n",
    )
    .await
    .unwrap();
    let refused = add(MailKind::Notification, "eve@example.org").await;
    assert!(matches!(refused, Err(StoreError::LimitReached("mail"))));
    add(MailKind::ResetPassword, "eve@example.org").await.unwrap();
}

// W-18.
async fn taken_address_counts_as_a_free_one(db: TestDb) {
    let store = db.open().await;
    let limits = MailLimits { to_recipient_per_hour: 2, in_total_per_hour: 16 };
    let mut ids = Vec::new();
    for email in ["ada@example.org", "bob@example.org", "eve@example.org"] {
        ids.push(sign_up(&store, email).await.0.id);
    }
    // Sign-ups to a taken address, up to their limit, don't count; nor do others that were asked for.
    for _ in 0..2 {
        store.send_sign_up_link("bob@example.org", &limits).await.unwrap();
    }
    for n in 0..6 {
        let invitation = NewMail { kind: MailKind::Invitation, ..notice("x@x.org", &ids[0]) };
        let recipient = format!("{n}@x.org");
        store.add_mail(&NewMail { recipient: &recipient, ..invitation }, &limits).await.unwrap();
    }
    for n in 0..2 {
        let recipient = format!("{n}@example.org");
        store
            .add_mail(&NewMail { kind: MailKind::Invitation, ..notice(&recipient, &ids[0]) }, &limits)
            .await
            .unwrap();
    }
    for new in ["bob@example.org", "free@example.org"] {
        store.send_email_link(&ids[0], new, &limits).await.unwrap();
    }
    // Three quarters.
    for new in ["bob@example.org", "free@example.org"] {
        let result = store.send_email_link(&ids[2], new, &limits).await;
        assert!(matches!(result, Err(StoreError::LimitReached("mail"))), "{new}");
    }
    // An address that is taken meanwhile has no other number of mails left.
    db.execute("DELETE FROM mails").await.unwrap();
    for _ in 0..2 {
        store.send_email_link(&ids[0], "new@example.org", &limits).await.unwrap();
    }
    sign_up(&store, "new@example.org").await;
    let result = store.send_email_link(&ids[1], "new@example.org", &limits).await;
    assert!(matches!(result, Err(StoreError::LimitReached("mail"))));
}

// W-20.
async fn visitors_links_leave_room_to_invitations(db: TestDb) {
    let store = db.open().await;
    let limits = MailLimits { to_recipient_per_hour: 100, in_total_per_hour: 1_000 };
    for _ in 0..20 {
        store.send_sign_up_link("ada@example.org", &limits).await.unwrap();
    }
    let refused = store.send_sign_up_link("ada@example.org", &limits).await;
    assert!(matches!(refused, Err(StoreError::LimitReached("mail"))));
    let age = Duration::from_secs(60);
    for sent in [None, Some(&limits)].into_iter().cycle().take(20) {
        store.invite("ada@example.org", age, sent).await.unwrap();
    }
    let refused = store.invite("ada@example.org", age, None).await;
    assert!(matches!(refused, Err(StoreError::LimitReached("mail"))));
}

// W-16.
async fn reset_link_is_used_once(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    sign_up(&store, "bob@example.org").await;
    assert!(!store.send_reset_link("nobody@example.org", &LIMITS).await.unwrap());
    db.execute("UPDATE users SET password_hash = NULL WHERE email = 'bob@example.org'").await.unwrap();
    assert!(!store.send_reset_link("bob@example.org", &LIMITS).await.unwrap(), "has never had one");
    for _ in 0..2 {
        assert!(store.send_reset_link("Ada@example.org", &LIMITS).await.unwrap());
    }
    let id = claim_link(&store, "ada@example.org").await;
    let link = store.account_link(&id).await.unwrap().unwrap();
    assert_eq!((link.kind, link.user_id.as_deref()), (LinkKind::ResetPassword, Some(ada.id.as_str())));
    store.create_session(&crate::test_db::new_session("one", &ada.id)).await.unwrap();
    let mut tasks = JoinSet::new();
    for n in 0..4 {
        let (store, id) = (db.open_existing().await.unwrap(), id.clone());
        tasks.spawn(async move { store.reset_password(&id, &password(&format!("hash {n}")), &LIMITS).await });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    let refused = results.into_iter().filter_map(Result::err);
    assert!(refused.into_iter().all(|error| matches!(error, StoreError::NotFound("link"))));
    assert!(store.password_hash(&ada.id).await.unwrap().unwrap().starts_with("hash"));
    assert_eq!(db.number("SELECT COUNT(*) FROM account_links").await, 0, "the other link ends too");
    assert_eq!(db.number("SELECT COUNT(*) FROM sessions").await, 0);
    let told = "SELECT COUNT(*) FROM mails WHERE kind = 'password_changed'";
    assert_eq!(db.number(told).await, 1);
}

// W-16, W-18.
async fn links_expire_and_end_with_changes(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let link = async || {
        assert!(store.send_reset_link("ada@example.org", &LIMITS).await.unwrap());
        claim_link(&store, "ada@example.org").await
    };
    let expired = link().await;
    let hour = "SELECT MAX(expires_at - created_at) FROM account_links";
    assert_eq!(db.number(hour).await, 3_600_000);
    db.execute("UPDATE account_links SET expires_at = expires_at - 3600001").await.unwrap();
    assert_eq!(store.account_link(&expired).await.unwrap(), None);
    assert!(store.reset_password(&expired, &password("x"), &LIMITS).await.is_err());
    assert_eq!(store.delete_expired_links().await.unwrap(), 1);
    let before_change = link().await;
    store.change_password(&ada.id, &password("y")).await.unwrap();
    assert_eq!(store.account_link(&before_change).await.unwrap(), None);
    // Kinds aren't mixed up.
    store.send_email_link(&ada.id, "new@example.org", &LIMITS).await.unwrap();
    let confirm = claim_link(&store, "new@example.org").await;
    assert!(store.reset_password(&confirm, &password("z"), &LIMITS).await.is_err());
    let reset = link().await;
    assert!(store.change_email(&reset, &LIMITS).await.is_err());
    assert_eq!(store.change_email(&confirm, &LIMITS).await.unwrap(), ada.id);
    assert_eq!(store.user(&ada.id).await.unwrap().unwrap().email, "new@example.org");
    assert_eq!(store.account_link(&reset).await.unwrap(), None, "an address change ends it");
    // What is left goes with the account.
    store.send_reset_link("new@example.org", &LIMITS).await.unwrap();
    store.delete_user(&ada.id).await.unwrap();
    assert_eq!(db.number("SELECT COUNT(*) FROM account_links").await, 0);
    assert_eq!(db.number("SELECT COUNT(*) FROM mails").await, 0);
}

// W-20.
async fn sign_up_link_makes_one_account(db: TestDb) {
    let store = db.open().await;
    let age = Duration::from_secs(60);
    store.send_sign_up_link("Ada@example.org", &LIMITS).await.unwrap();
    let first = claim_link(&store, "ada@example.org").await;
    let second = store.invite("ada@example.org", age, None).await.unwrap();
    assert!(store.account_link(&second).await.unwrap().is_some());
    assert_eq!(store.claim_mail(LEASE).await.unwrap(), None, "no mail is wanted");
    store.invite("bob@example.org", age, Some(&LIMITS)).await.unwrap();
    assert_eq!(store.claim_mail(LEASE).await.unwrap().unwrap().kind, MailKind::Invitation);
    let sign_up_with = async |link: &str, email: &str| {
        let room = SignUpRoom { link_id: Some(link), ..SignUpRoom::default() };
        store.sign_up_within(&new_user(email), &new_token(), &room).await
    };
    let other = sign_up_with(&first, "bob@example.org").await;
    assert!(matches!(other, Err(StoreError::NotFound("link"))), "not for another address");
    sign_up_with(&first, "ada@example.org").await.unwrap();
    for used in [&first, &second] {
        let again = sign_up_with(used, "ada@example.org").await;
        assert!(matches!(again, Err(StoreError::NotFound("link"))));
    }
    store.send_sign_up_link("ada@example.org", &LIMITS).await.unwrap();
    let taken = store.invite("ada@example.org", age, None).await;
    assert!(matches!(taken, Err(StoreError::AlreadyExists(_))));
    for _ in 0..20 {
        store.invite("eve@example.org", age, None).await.unwrap();
    }
    assert!(matches!(
        store.invite("eve@example.org", age, None).await,
        Err(StoreError::LimitReached("mail"))
    ));
    assert_eq!(db.number("SELECT COUNT(*) FROM mails WHERE kind = 'address_taken'").await, 1);
}

on_both! {
    each_mail_is_claimed_once,
    mails_are_limited,
    a_few_accounts_take_no_mail_from_others,
    taken_address_counts_as_a_free_one,
    visitors_links_leave_room_to_invitations,
    reset_link_is_used_once,
    links_expire_and_end_with_changes,
    sign_up_link_makes_one_account,
}

// W-16.
#[test]
fn link_codes_are_not_guessed() {
    let (key, other) = (token_key(), token_key());
    let id = "a".repeat(24);
    let code = key.link_code(&id);
    assert_eq!((code.len(), key.link_id(&code)), (56, Some(id.as_str())));
    assert_eq!(other.link_id(&code), None);
    for bad in ["", "a", &id, &code[..55], &format!("{code}0"), &code.to_uppercase(), &"é".repeat(28)] {
        assert_eq!(key.link_id(bad), None, "{bad}");
    }
}
