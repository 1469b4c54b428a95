//! What administrators list: users, caches, denials and the audit log of all users.

use std::time::Duration;

use store::{
    AuditFilter, DenialCause, DenialRecord, HostCapacity, InstanceState, NewOperation, Observed,
    OperationError, OperationProgress, OperationState, Store, StoreError, Timestamp, UserChange, UserFilter,
    UserState, now,
};

use crate::test_db::{TestDb, first_cache, new_session, sign_up};

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn emails(store: &Store, filter: &UserFilter, after: &str, limit: i64) -> Vec<String> {
    let found = store.find_users(filter, after, limit).await.unwrap();
    found.into_iter().map(|user| user.email).collect()
}

fn named(email: &str) -> UserFilter {
    UserFilter { email: email.to_owned(), ..UserFilter::default() }
}

async fn users_are_found_by_a_part_of_their_address(db: TestDb) {
    let store = db.open().await;
    for email in
        ["ada@example.org", "a_b@example.org", "axb@example.net", "a%b@example.net", "zoe@example.org"]
    {
        sign_up(&store, email).await;
    }
    assert_eq!(emails(&store, &named("EXAMPLE.NET"), "", 9).await, ["a%b@example.net", "axb@example.net"]);
    // What means more to LIKE stands for itself.
    assert_eq!(emails(&store, &named("a_b"), "", 9).await, ["a_b@example.org"]);
    assert_eq!(emails(&store, &named("%b"), "", 9).await, ["a%b@example.net"]);
    for nothing in ["\\", "a\\%", "' OR ''='", "_da"] {
        assert_eq!(emails(&store, &named(nothing), "", 9).await, [""; 0], "{nothing}");
    }
}

async fn users_are_listed_by_state_plan_and_mark(db: TestDb) {
    let store = db.open().await;
    let plan = store.plan("default").await.unwrap().unwrap();
    store.create_plan(&store::Plan { name: "small".to_owned(), ..plan }).await.unwrap();
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let (bob, _) = sign_up(&store, "bob@example.org").await;
    let (eve, _) = sign_up(&store, "eve@example.org").await;
    let (gone, _) = sign_up(&store, "gone@example.org").await;
    store.delete_user(&gone.id).await.unwrap();
    let small = UserChange { plan: Some("small"), ..UserChange::default() };
    store.update_user(&ada.id, &small).await.unwrap();
    store.update_user(&bob.id, &UserChange { is_admin: Some(true), ..UserChange::default() }).await.unwrap();
    store.set_user_state(&eve.id, UserState::Suspended).await.unwrap();
    let all = UserFilter::default();
    assert_eq!(emails(&store, &all, "", 9).await, ["ada@example.org", "bob@example.org", "eve@example.org"]);
    for (filter, expected) in [
        (UserFilter { plan: "small".to_owned(), ..all.clone() }, vec!["ada@example.org"]),
        (UserFilter { is_admin: Some(true), ..all.clone() }, vec!["bob@example.org"]),
        (UserFilter { state: Some(UserState::Suspended), ..all.clone() }, vec!["eve@example.org"]),
        (UserFilter { state: Some(UserState::Suspended), is_admin: Some(true), ..all.clone() }, vec![]),
    ] {
        assert_eq!(emails(&store, &filter, "", 9).await, expected, "{filter:?}");
    }
    let figures = store.user_figures().await.unwrap();
    assert_eq!((figures.users, figures.suspended, figures.admins), (3, 1, 1));
}

async fn pages_of_users_stay_while_others_sign_up(db: TestDb) {
    let store = db.open().await;
    for email in ["b@example.org", "d@example.org", "f@example.org", "h@example.org"] {
        sign_up(&store, email).await;
    }
    let all = UserFilter::default();
    let first = emails(&store, &all, "", 2).await;
    assert_eq!(first, ["b@example.org", "d@example.org"]);
    for email in ["a@example.org", "c@example.org", "e@example.org"] {
        sign_up(&store, email).await;
    }
    let second = emails(&store, &all, "d@example.org", 2).await;
    assert_eq!(
        second,
        ["e@example.org", "f@example.org"],
        "none twice, and none left out behind the first page"
    );
}

async fn record(store: &Store, cache: &str, state: InstanceState, message: Option<&str>) {
    let instance = store.instance_of_cache(cache).await.unwrap().unwrap();
    let seen = Observed {
        state,
        generation: 1,
        address: None,
        container: None,
        version: None,
        message: message.map(str::to_owned),
    };
    store.record_route(&instance.id, &seen).await.unwrap();
}

async fn caches_are_listed_newest_first_and_by_state(db: TestDb) {
    let store = db.open().await;
    let mut caches = Vec::new();
    for email in ["ada@example.org", "bob@example.org", "eve@example.org"] {
        let (user, _) = sign_up(&store, email).await;
        caches.push(first_cache(&store, &user).await);
        // Two of the same time.
        let later = "UPDATE caches SET created_at = created_at - 1000 WHERE name <> 'x'";
        db.execute(if email.starts_with('b') { "SELECT 1" } else { later }).await.unwrap();
    }
    db.execute("UPDATE caches SET created_at = 1000").await.unwrap();
    record(&store, &caches[0], InstanceState::Running, None).await;
    record(&store, &caches[1], InstanceState::Failed, Some("no image")).await;
    let mut ids = caches.clone();
    ids.sort_unstable();
    ids.reverse();
    let page = store.find_caches(None, None, 2).await.unwrap();
    assert_eq!(page.iter().map(|it| &it.id).collect::<Vec<_>>(), [&ids[0], &ids[1]]);
    sign_up(&store, "new@example.org").await;
    let before = (page[1].created_at, page[1].id.as_str());
    let rest = store.find_caches(None, Some(before), 9).await.unwrap();
    assert_eq!(
        rest.iter().map(|it| &it.id).collect::<Vec<_>>(),
        [&ids[2]],
        "the new one is on no later page"
    );
    let failed = store.failed_caches(9).await.unwrap();
    assert_eq!(failed.len(), 1);
    assert_eq!((&*failed[0].email, failed[0].message.as_deref()), ("bob@example.org", Some("no image")));
    assert_eq!(store.find_caches(Some(InstanceState::Failed), None, 9).await.unwrap(), failed);
    assert_eq!(store.find_caches(Some(InstanceState::Pending), None, 9).await.unwrap().len(), 2);
    assert_eq!(
        store.cache_states().await.unwrap(),
        [(InstanceState::Failed, 1), (InstanceState::Pending, 2), (InstanceState::Running, 1)]
    );
    store.delete_cache(&caches[1]).await.unwrap();
    assert_eq!(store.failed_caches(9).await.unwrap(), []);
    let user = store.user_by_email("ada@example.org").await.unwrap().unwrap();
    assert_eq!(store.listed_caches_of(&user.id, 9).await.unwrap()[0].state, InstanceState::Running);
}

async fn an_administrator_acts_as_an_operator(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let cache = first_cache(&store, &ada).await;
    // Also if it is their own cache.
    let (admin, user) = (store.acting_as_admin(&ada.id), store.acting_as(&format!("user {}", ada.id)));
    let asked = admin.request_operation(&cache, NewOperation::Suspend).await.unwrap();
    assert_eq!(asked.requested_by, format!("admin {}", ada.id));
    let refused = user.request_operation(&cache, NewOperation::Resume).await.unwrap_err();
    assert!(matches!(refused, StoreError::Operation(OperationError::SuspendedByOperator)), "{refused:?}");
    let begun =
        OperationProgress { state: OperationState::Running, progress: 40, message: None, checkpoint: None };
    store.record_operation(&asked.id, &begun).await.unwrap();
    let open = store.operations_in_progress(9).await.unwrap();
    assert_eq!((open.len(), &*open[0].email, open[0].operation.progress), (1, "ada@example.org", 40));
    for n in 0..30 {
        let new = if n % 2 == 0 { NewOperation::Resume } else { NewOperation::Suspend };
        let asked = admin.request_operation(&cache, new).await.unwrap();
        let ended =
            OperationProgress { state: OperationState::Done, progress: 100, message: None, checkpoint: None };
        store.record_operation(&asked.id, &ended).await.unwrap();
    }
    let of_user = store.audit_of_user(&ada.id, 50).await.unwrap();
    assert_eq!(of_user.first().map(|it| &*it.entry.actor), Some(&*format!("admin {}", ada.id)));
    let address = Some("ada@example.org".to_owned());
    assert_eq!(of_user.first().map(|it| (&it.actor_email, &it.subject_email)), Some((&address, &None)));
    assert_eq!(of_user.last().map(|it| (&it.actor_email, &it.subject_email)), Some((&None, &address)));
    assert_eq!(of_user.last().map(|it| &*it.entry.action), Some("user.create"));
}

async fn audit_log_is_searched_a_page_at_a_time(db: TestDb) {
    let store = db.open().await;
    for n in 0..60 {
        let actor = store.acting_as(if n % 2 == 0 { "user a" } else { "operator" });
        actor
            .note(if n % 3 == 0 { "x.three" } else { "x.other" }, &format!("token {}", n % 4), "")
            .await
            .unwrap();
    }
    let find = async |filter: &AuditFilter, before| store.find_audit(filter, before, 10).await.unwrap();
    let seqs = |page: &store::AuditPage| page.entries.iter().map(|it| it.entry.seq).collect::<Vec<_>>();
    let page = find(&AuditFilter::default(), None).await;
    assert_eq!((seqs(&page), page.before), ((51..=60).rev().collect(), Some(51)));
    store.note("x.late", "token 9", "").await.unwrap();
    assert_eq!(seqs(&find(&AuditFilter::default(), page.before).await), (41..=50).rev().collect::<Vec<_>>());
    let of_actor = AuditFilter { actor: "user a".to_owned(), ..AuditFilter::default() };
    assert!(find(&of_actor, None).await.entries.iter().all(|it| it.entry.actor == "user a"));
    let of_subject =
        AuditFilter { subject: "token 2".to_owned(), action: "x.three".to_owned(), ..of_actor.clone() };
    let found = find(&of_subject, None).await;
    assert_eq!((seqs(&found), found.before), (vec![55, 43, 31, 19, 7], None));
    let none = AuditFilter { actor: "' OR ''='".to_owned(), ..AuditFilter::default() };
    assert_eq!(find(&none, None).await, store::AuditPage::default());
    db.execute("UPDATE audit SET at = at - 90000000 WHERE seq <= 58").await.unwrap();
    let of_a_day = AuditFilter { within: Some(DAY), ..AuditFilter::default() };
    let found = find(&of_a_day, None).await;
    assert_eq!((seqs(&found), found.before), (vec![61, 60, 59], None));
    // 50,000 entries are looked at, and then the caller is asked whether to go on.
    let many = if db.is_postgres() {
        "generate_series(62, 60061) n"
    } else {
        "(WITH RECURSIVE s (n) AS (SELECT 62 UNION ALL SELECT n + 1 FROM s WHERE n < 60061) SELECT n FROM s)"
    };
    db.execute(&format!("INSERT INTO audit SELECT n, 1, 'z', 'z', 'z', '', '' FROM {many}")).await.unwrap();
    let found = find(&of_actor, None).await;
    assert_eq!((found.entries.len(), found.before), (0, Some(10_062)));
    assert_eq!(find(&of_actor, found.before).await.entries.len(), 10);
}

async fn denials_of_all_users_are_counted_by_cause(db: TestDb) {
    let store = db.open().await;
    let (ada, first) = sign_up(&store, "ada@example.org").await;
    let (_, second) = sign_up(&store, "bob@example.org").await;
    let denial = |token: &store::NewToken, cause, last_at| DenialRecord {
        token_id: token.token.id().to_string(),
        cause,
        source: None,
        detail: "x".into(),
        protocol: "text".into(),
        tls: false,
        count: 3,
        first_at: Timestamp::EPOCH,
        last_at,
    };
    let (at, old) = (now(), now().saturating_sub(DAY));
    store
        .add_denials(&[
            denial(&first, DenialCause::Rate, at),
            denial(&second, DenialCause::Rate, at),
            denial(&first, DenialCause::WrongSecret, old),
        ])
        .await
        .unwrap();
    let hour = now().saturating_sub(Duration::from_secs(3600));
    let totals = store.denial_totals(hour).await.unwrap();
    assert_eq!(totals.len(), 1);
    assert_eq!((totals[0].cause, totals[0].tokens, totals[0].last_at), (DenialCause::Rate, 2, at));
    assert_eq!(store.denial_totals(Timestamp::EPOCH).await.unwrap().len(), 2);
    assert_eq!(store.denials_since(hour, None, 9).await.unwrap().len(), 2);
    let wrong = store.denials_since(Timestamp::EPOCH, Some(DenialCause::WrongSecret), 9).await.unwrap();
    assert_eq!((wrong.len(), &*wrong[0].email, &*wrong[0].token), (1, "ada@example.org", "first"));
    assert_eq!(store.denials_of_user(&ada.id, 9).await.unwrap().len(), 2);
}

async fn sessions_know_when_the_password_was_entered(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    store.create_session(&new_session("one", &ada.id)).await.unwrap();
    db.execute("UPDATE sessions SET created_at = created_at - 1000").await.unwrap();
    let read = async || store.session("one", DAY, DAY).await.unwrap().unwrap();
    let session = read().await;
    assert_eq!((session.confirmed_at, session.password_entered_at()), (None, session.created_at));
    store.confirm_session(&session).await.unwrap();
    let session = read().await;
    assert_eq!(Some(session.password_entered_at()), session.confirmed_at);
    assert!(session.password_entered_at() > session.created_at);
    assert_eq!(store.end_sessions_of(&ada.id).await.unwrap(), 1);
    assert_eq!(store.session("one", DAY, DAY).await.unwrap(), None);
}

async fn memory_is_promised_to_caches_that_are_to_run(db: TestDb) {
    let store = db.open().await;
    assert_eq!(store.host_memory().await.unwrap(), None);
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let old = now().saturating_sub(DAY);
    let capacity =
        HostCapacity { budget_bytes: 1 << 30, reserved_bytes: 0, growth_mb: 0, waiting: 0, changed_at: old };
    store.set_host_capacity(&capacity).await.unwrap();
    let memory = store.host_memory().await.unwrap().unwrap();
    assert!(memory.promised_bytes > 64 << 20 && !memory.capacity.is_valid(), "also if it is old: {memory:?}");
    let plan = store.plan("default").await.unwrap().unwrap();
    assert_eq!(memory.caches_that_fit(&plan), (1 << 30) / memory.promised_bytes - 1);
    store.set_user_state(&ada.id, UserState::Suspended).await.unwrap();
    assert_eq!(store.host_memory().await.unwrap().unwrap().promised_bytes, 0);
}

on_both! {
    users_are_found_by_a_part_of_their_address,
    users_are_listed_by_state_plan_and_mark,
    pages_of_users_stay_while_others_sign_up,
    caches_are_listed_newest_first_and_by_state,
    an_administrator_acts_as_an_operator,
    audit_log_is_searched_a_page_at_a_time,
    denials_of_all_users_are_counted_by_cause,
    sessions_know_when_the_password_was_entered,
    memory_is_promised_to_caches_that_are_to_run
}
