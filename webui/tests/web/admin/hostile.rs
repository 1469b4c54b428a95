//! What users and the store say is text on each page of the area, and nothing else.

use store::{
    CheckResult, DenialCause, DenialRecord, EventAction, EventCause, InstanceState, IsolationCheck,
    NewInstanceEvent, NewOperation, NewToken, NewUser, Observed, OperationProgress, OperationState, Plan,
    Proxy, Store, TokenKey, now,
};

use super::{cache, site_with};
use crate::harness::Site;

const HOSTILE: &str = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'{{7*7}}\u{202e}";
/// Passes for an address wherever one is only kept.
const EMAIL: &str = "\"><script>alert(1)</script>@example.com";

/// A user and a cache about whom everything is hostile. Returns the address of the user's page and the cache's.
async fn add_hostile(site: &Site) -> (String, String) {
    let store = site.store.acting_as(HOSTILE);
    let folder = tempfile::tempdir().unwrap();
    let key = TokenKey::load_or_create(&folder.path().join("token.key")).unwrap();
    let default = store.plan("default").await.unwrap().unwrap();
    let plan = Plan { price_label: Some(HOSTILE.into()), name: HOSTILE.into(), ..default };
    store.create_plan(&plan).await.unwrap();
    let new = NewUser { email: EMAIL, password_hash: None, plan: HOSTILE, is_admin: false };
    let token = NewToken::generate(&key, HOSTILE);
    let user = store.sign_up(&new, &token).await.unwrap();
    let cache = cache(site, EMAIL).await;
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
    add_hostile_instance(&store, &cache.id).await;
    (format!("/admin/users/{}", user.id), format!("/admin/caches/{}", cache.id))
}

async fn add_hostile_instance(store: &Store, cache: &str) {
    let instance = store.instance_of_cache(cache).await.unwrap().unwrap();
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
    let asked = store.request_operation(cache, NewOperation::Restart).await.unwrap();
    let progress = OperationProgress {
        state: OperationState::Running,
        progress: 1,
        message: Some(HOSTILE.into()),
        checkpoint: None,
    };
    store.record_operation(&asked.id, &progress).await.unwrap();
}

/// All pages that show something of them, and searches for hostile texts.
fn pages(user: &str, cache: &str) -> Vec<String> {
    let lists = ["", "/users", "/caches", "/plans", "/proxies", "/denials", "/audit", "/settings"];
    let of_user = ["", "/plan", "/suspend", "/end-sessions", "/reset-password", "/delete"];
    let of_cache = ["", "/restart", "/flush", "/suspend"];
    let searches = [
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
    ];
    let percent: String = HOSTILE.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let lists = lists.iter().map(|list| format!("/admin{list}"));
    let of_user = of_user.iter().map(|page| format!("{user}{page}"));
    let of_cache = of_cache.iter().map(|page| format!("{cache}{page}"));
    let searches = searches.iter().map(|search| format!("/admin/{search}{percent}"));
    lists.chain(of_user).chain(of_cache).chain(searches).collect()
}

fn assert_is_text(path: &str, body: &str) {
    assert!(!body.contains("<script>") && !body.contains("<img"), "{path}: {body}");
    assert!(!body.contains("'49\u{202e}"), "{path}: a template in a text");
    for (at, _) in body.match_indices('\u{202e}') {
        let (_, tag) = body[..at].rsplit_once('<').unwrap();
        let is_inside = ["bdi", "option", "input", "code", "title"].iter().any(|it| tag.starts_with(it));
        assert!(is_inside, "{path}: a mark of direction isn't inside an element of its own: {tag}");
    }
}

// M-6, W-12.
#[tokio::test]
async fn hostile_texts_are_texts_everywhere() {
    let (site, mut admin, _) = site_with(|config| config.limits.pages_per_minute = 100_000).await;
    let (user, cache) = add_hostile(&site).await;
    let mut shown = 0;
    for path in pages(&user, &cache) {
        let page = admin.get(&path).await;
        assert_eq!(page.status, 200, "{path}");
        assert_is_text(&path, &page.body);
        shown += page.body.matches("&#60;script&#62;").count();
    }
    assert!(shown > 50, "they are shown: {shown}");
    let all = [
        ("typed", HOSTILE),
        ("password", HOSTILE),
        ("plan", HOSTILE),
        ("tick", HOSTILE),
        ("name", HOSTILE),
        ("memory_mb", HOSTILE),
        ("price_label", HOSTILE),
    ];
    for path in [format!("{user}/delete"), format!("{user}/plan"), "/admin/plans/new".to_owned()] {
        admin.get(&path).await;
        assert_is_text(&path, &admin.post(&path, &all).await.body);
    }
}
