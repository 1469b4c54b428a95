//! What users and the store say is text on each page of the area, and nothing else.

use store::{
    CheckResult, DenialCause, DenialRecord, EventAction, EventCause, InstanceState, IsolationCheck,
    NewInstanceEvent, NewOperation, NewToken, NewUser, Observed, OperationProgress, OperationState, Plan,
    Proxy, TokenKey, now,
};

use super::{cache, id, site_with};

const HOSTILE: &str = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'{{7*7}}\u{202e}";
/// Passes for an address wherever one is only kept.
const EMAIL: &str = "\"><script>alert(1)</script>@example.com";

// M-6, W-12.
#[tokio::test]
async fn hostile_texts_are_texts_everywhere() {
    let (site, mut admin, _) = site_with(|config| config.limits.pages_per_minute = 100_000).await;
    let store = site.store.acting_as(HOSTILE);
    let folder = tempfile::tempdir().unwrap();
    let key = TokenKey::load_or_create(&folder.path().join("token.key")).unwrap();
    let default = store.plan("default").await.unwrap().unwrap();
    store
        .create_plan(&Plan { price_label: Some(HOSTILE.into()), name: HOSTILE.into(), ..default })
        .await
        .unwrap();
    let new = NewUser { email: EMAIL, password_hash: None, plan: HOSTILE, is_admin: false };
    let token = NewToken::generate(&key, HOSTILE);
    let user = store.sign_up(&new, &token).await.unwrap();
    let cache = cache(&site, EMAIL).await;
    let instance = store.instance_of_cache(&cache.id).await.unwrap().unwrap();
    let seen = Observed {
        state: InstanceState::Failed,
        generation: 1,
        address: Some(HOSTILE.into()),
        container: Some("c0ffee".into()),
        version: Some(HOSTILE.into()),
        message: Some(HOSTILE.into()),
    };
    store.record_route(&instance.id, &seen).await.unwrap();
    let check = IsolationCheck {
        instance_id: instance.id.clone(),
        container: "c0ffee".into(),
        ports: CheckResult::Failed,
        restrictions: CheckResult::Passed,
        reachability: CheckResult::Passed,
        login: CheckResult::Passed,
        image: HOSTILE.into(),
        outdated: true,
        detail: HOSTILE.into(),
        checked_at: now(),
    };
    store.set_isolation_checks(&[check]).await.unwrap();
    let event = NewInstanceEvent {
        instance_id: instance.id.clone(),
        cause: EventCause::Crashed,
        action: EventAction::Restarted,
        contents_lost: true,
        detail: HOSTILE.into(),
        at: now(),
    };
    store.add_instance_events(&[event]).await.unwrap();
    let asked = store.request_operation(&cache.id, NewOperation::Restart).await.unwrap();
    let progress = OperationProgress {
        state: OperationState::Running,
        progress: 1,
        message: Some(HOSTILE.into()),
        checkpoint: None,
    };
    store.record_operation(&asked.id, &progress).await.unwrap();
    let denial = DenialRecord {
        token_id: token.token.id().to_string(),
        cause: DenialCause::Rate,
        source: Some(HOSTILE.into()),
        detail: HOSTILE.into(),
        protocol: "text".into(),
        tls: false,
        count: 1,
        first_at: now(),
        last_at: now(),
    };
    store.add_denials(&[denial]).await.unwrap();
    let proxy = Proxy {
        id: "a".into(),
        name: HOSTILE.into(),
        version: HOSTILE.into(),
        started_at: now(),
        seen_at: now().saturating_sub(std::time::Duration::from_secs(20)),
        applied: 1,
    };
    store.renew_proxy(&proxy).await.unwrap();
    store.note("test.hostile", HOSTILE, HOSTILE).await.unwrap();

    let user = id_of(&user.id);
    let mut paths = vec!["/admin".to_owned(), "/admin/audit".to_owned(), "/admin/settings".to_owned()];
    for list in ["users", "caches", "plans", "proxies", "denials"] {
        paths.push(format!("/admin/{list}"));
    }
    paths.push(user.clone());
    for action in ["plan", "suspend", "end-sessions", "reset-password", "delete"] {
        paths.push(format!("{user}/{action}"));
    }
    paths.push(format!("/admin/caches/{}", cache.id));
    for action in ["restart", "flush", "suspend"] {
        paths.push(format!("/admin/caches/{}/{action}", cache.id));
    }
    for query in [
        "users?email=",
        "users?plan=",
        "users?after=",
        "users?state=",
        "audit?actor=",
        "audit?subject=",
        "audit?within=",
        "caches?state=",
        "denials?cause=",
        "denials?within=",
    ] {
        paths.push(format!("/admin/{query}{}", percent(HOSTILE)));
    }
    let mut seen = 0;
    for path in &paths {
        let page = admin.get(path).await;
        assert_eq!(page.status, 200, "{path}");
        assert!(!page.body.contains("<script>") && !page.body.contains("<img"), "{path}: {}", page.body);
        assert!(!page.body.contains("49\u{202e}"), "{path}");
        seen += page.body.matches("&#60;script&#62;").count();
        for (at, _) in page.body.match_indices('\u{202e}') {
            let (_, tag) = page.body[..at].rsplit_once('<').unwrap();
            let is_inside = ["bdi", "option", "input", "code", "title"].iter().any(|it| tag.starts_with(it));
            assert!(is_inside, "{path}: a mark of direction isn't inside an element of its own: {tag}");
        }
    }
    assert!(seen > 50, "they are shown: {seen}");
    for (path, fields) in [
        (format!("{user}/delete"), vec![("typed", HOSTILE), ("password", HOSTILE)]),
        (format!("{user}/plan"), vec![("plan", HOSTILE), ("password", HOSTILE), ("tick", HOSTILE)]),
        (
            "/admin/plans/new".to_owned(),
            vec![("name", HOSTILE), ("memory_mb", HOSTILE), ("price_label", HOSTILE)],
        ),
    ] {
        admin.get(&path).await;
        let page = admin.post(&path, &fields).await;
        assert!(!page.body.contains("<script>") && !page.body.contains("<img"), "{path}: {}", page.body);
    }
    drop(id(&site, EMAIL).await);
}

fn id_of(user: &str) -> String {
    format!("/admin/users/{user}")
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
