//! Lists of users, caches, denials and proxies: what they show, filters, and pages.

use store::{
    ApiKey, ApiScopes, CheckResult, DenialCause, DenialRecord, InstanceState, IsolationCheck, NewApiKey,
    NewToken, NewUser, Observed, Proxy, TokenKey, UserState, now,
};

use super::{ADA, ADMIN, cache, id, set_admin, site};
use crate::harness::{Response, Site};

async fn add_users(site: &Site, emails: impl Iterator<Item = String>) {
    let folder = tempfile::tempdir().unwrap();
    let key = TokenKey::load_or_create(&folder.path().join("token.key")).unwrap();
    for email in emails {
        let new = NewUser { email: &email, password_hash: None, plan: "default", is_admin: false };
        site.store.sign_up(&new, &NewToken::generate(&key, "first")).await.unwrap();
    }
}

/// The texts of all row headings of a table.
fn rows(page: &Response, table: &str) -> Vec<String> {
    let Some((_, rest)) = page.body.split_once(&format!("<table id=\"{table}\">")) else { return Vec::new() };
    let (table, _) = rest.split_once("</table>").unwrap();
    let heading = |row: &str| {
        let (heading, _) = row.split_once("</th>").unwrap();
        let text: String = heading.split('<').map(|part| part.rsplit('>').next().unwrap()).collect();
        text
    };
    table.split("<th scope=\"row\">").skip(1).map(heading).collect()
}

/// Where the link with this id leads.
fn link(page: &Response, id: &str) -> Option<String> {
    let (_, rest) = page.body.split_once(&format!("id=\"{id}\" href=\""))?;
    Some(rest.split('"').next().unwrap().replace("&amp;", "&"))
}

#[tokio::test]
async fn users_are_searched_by_address_plan_state_and_mark() {
    let (site, mut admin, _) = site().await;
    add_users(&site, ["x_y@example.com", "xzy@example.com"].map(str::to_owned).into_iter()).await;
    site.store.set_user_state(&id(&site, "xzy@example.com").await, UserState::Suspended).await.unwrap();
    for (query, expected) in [
        ("", vec![ADA, ADMIN, "x_y@example.com", "xzy@example.com"]),
        ("?email=ADA%40", vec![ADA]),
        ("?email=%20ada%20", vec![ADA]),
        ("?email=x_y", vec!["x_y@example.com"]),
        ("?email=%25", vec![]),
        ("?state=suspended", vec!["xzy@example.com"]),
        ("?state=active&admin=no&email=x", vec![ADA, "x_y@example.com"]),
        ("?admin=yes", vec![ADMIN]),
        ("?plan=nothing", vec![]),
        ("?state=nonsense&admin=nonsense&unknown=1", vec![ADA, ADMIN, "x_y@example.com", "xzy@example.com"]),
    ] {
        let page = admin.get(&format!("/admin/users{query}")).await;
        assert_eq!(
            (page.status, rows(&page, "users")),
            (200, expected.iter().map(|&it| it.to_owned()).collect()),
            "{query}"
        );
        assert_eq!(page.text("no-users").is_some(), expected.is_empty(), "{query}");
    }
}

// M-6.
#[tokio::test]
async fn what_is_searched_for_is_bounded() {
    let (_site, mut admin, _) = site().await;
    let long = "a".repeat(255);
    for query in
        [format!("email={long}"), "email=a%00b".to_owned(), format!("plan={long}"), "after=a%00b".to_owned()]
    {
        let page = admin.get(&format!("/admin/users?{query}")).await;
        assert_eq!(page.status, 422, "{query}");
        assert!(page.text("search-error").unwrap().starts_with("Search for"), "{query}");
    }
    for query in [format!("actor={long}"), "subject=%00".to_owned(), "action=%1b".to_owned()] {
        let page = admin.get(&format!("/admin/audit?{query}")).await;
        assert_eq!(page.status, 422, "{query}");
    }
    // What isn't a number or an id is as if it weren't there.
    for path in [
        "/admin/caches?before=x&id=%00",
        "/admin/caches?before=9&id=%27",
        "/admin/audit?before=x",
        "/admin/audit?before=-1",
        "/admin/audit?before=9223372036854775807",
        "/admin/denials?within=%00&cause=%00",
        "/admin/users?email=%ff",
    ] {
        assert_eq!(admin.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn pages_of_users_go_on_while_others_sign_up() {
    let (site, mut admin, _) = site().await;
    add_users(&site, (0..60).map(|n| format!("u{n:03}@example.com"))).await;
    let first = admin.get("/admin/users?email=u0").await;
    let shown = rows(&first, "users");
    assert_eq!((shown.len(), &*shown[0], &*shown[49]), (50, "u000@example.com", "u049@example.com"));
    assert_eq!(link(&first, "first-page"), None);
    add_users(&site, ["u0005@example.com".to_owned(), "u049z@example.com".to_owned()].into_iter()).await;
    let second = admin.get(&link(&first, "next-page").unwrap()).await;
    let expected: Vec<String> = ["u049z@example.com".to_owned()]
        .into_iter()
        .chain((50..60).map(|n| format!("u{n:03}@example.com")))
        .collect();
    assert_eq!(rows(&second, "users"), expected, "none twice, none left out");
    assert_eq!(link(&second, "next-page"), None);
    assert_eq!(rows(&admin.get(&link(&second, "first-page").unwrap()).await, "users").len(), 50);
}

#[tokio::test]
async fn caches_are_listed_with_failed_ones_first() {
    let (site, mut admin, _) = site().await;
    let instance = site.store.instance_of_cache(&cache(&site, ADA).await.id).await.unwrap().unwrap();
    let seen = Observed {
        state: InstanceState::Failed,
        generation: 3,
        address: Some("10.213.7.99".into()),
        container: Some("c0ffee".into()),
        version: None,
        message: Some("the image is missing: build it".into()),
    };
    site.store.record_route(&instance.id, &seen).await.unwrap();
    let check = IsolationCheck {
        instance_id: instance.id.clone(),
        container: "c0ffee".into(),
        ports: CheckResult::Failed,
        restrictions: CheckResult::Passed,
        reachability: CheckResult::Unknown,
        login: CheckResult::Passed,
        image: "sha256:1234".into(),
        outdated: true,
        detail: "port 11211 is published".into(),
        checked_at: now(),
    };
    site.store.set_isolation_checks(&[check]).await.unwrap();
    add_users(&site, (0..55).map(|n| format!("u{n:03}@example.com"))).await;
    let page = admin.get("/admin/caches").await;
    assert_eq!(rows(&page, "caches").len(), 50);
    assert!(
        page.body.contains("data-failed=\"default\"") && page.body.contains("the image is missing: build it")
    );
    let rest = admin.get(&link(&page, "next-page").unwrap()).await;
    assert_eq!((rows(&rest, "caches").len(), rest.body.contains("id=\"failed\"")), (7, false));
    let failed = admin.get("/admin/caches?state=failed").await;
    assert_eq!(rows(&failed, "caches").len(), 1);
    assert!(failed.body.contains("<strong>failed</strong>"), "the isolation check: {}", failed.body);
    assert!(failed.body.contains("10.213.7.99"));
    let one = admin.get(&format!("/admin/caches/{}", cache(&site, ADA).await.id)).await;
    for text in ["10.213.7.99", "port 11211 is published", "sha256:1234", "<dd><bdi>3</bdi></dd>", "unknown"]
    {
        assert!(one.body.contains(text), "{text}: {}", one.body);
    }
    assert_eq!(one.text("state"), Some("failed"));
}

#[tokio::test]
async fn denials_of_all_users_are_shown_by_cause() {
    let (site, mut admin, _) = site().await;
    assert!(admin.get("/admin/denials").await.text("no-denials").is_some());
    let token = site.store.tokens_of_user(&id(&site, ADA).await).await.unwrap().remove(0);
    let denial = |cause, source: &str| DenialRecord {
        token_id: token.id.clone(),
        cause,
        source: Some(source.into()),
        detail: "get".into(),
        protocol: "text".into(),
        tls: false,
        count: 1234,
        first_at: now(),
        last_at: now(),
    };
    let denials = [denial(DenialCause::Rate, "192.0.2.1"), denial(DenialCause::WrongSecret, "192.0.2.2")];
    site.store.add_denials(&denials).await.unwrap();
    let page = admin.get("/admin/denials").await;
    assert!(page.body.contains("data-total=\"rate\"") && page.body.contains("data-total=\"wrong_secret\""));
    assert!(page.body.contains(ADA) && page.body.contains("1,234") && page.body.contains("192.0.2.1, get"));
    let wrong = admin.get("/admin/denials?within=day&cause=wrong_secret").await;
    assert!(wrong.body.contains("192.0.2.2") && !wrong.body.contains("192.0.2.1"));
    let user = admin.get(&format!("/admin/users/{}", id(&site, ADA).await)).await;
    assert!(user.body.contains("192.0.2.1"), "on the user's page, too");
    let overview = admin.get("/admin").await;
    assert_eq!((overview.text("throttled"), overview.text("denied")), (Some("1"), Some("1")));
}

#[tokio::test]
async fn proxies_are_shown_with_their_lag() {
    let (site, mut admin, _) = site().await;
    assert!(admin.get("/admin/proxies").await.text("no-proxies").is_some());
    let proxy = |name: &str, applied, age| Proxy {
        id: name.into(),
        name: name.into(),
        version: "1.2.3".into(),
        started_at: now(),
        seen_at: now().saturating_sub(std::time::Duration::from_secs(age)),
        applied,
    };
    for n in 0..200 {
        set_admin(&site, ADA, n % 2 == 0).await;
    }
    let revision = site.store.revision().await.unwrap();
    for it in [
        proxy("ready:1", revision, 0),
        proxy("lags:1", 1, 0),
        proxy("silent:1", revision, 20),
        proxy("gone:1", revision, 90),
    ] {
        site.store.renew_proxy(&it).await.unwrap();
    }
    let page = admin.get("/admin/proxies").await;
    assert_eq!(rows(&page, "proxies"), ["gone:1", "lags:1", "ready:1", "silent:1"]);
    for state in ["ready", "lags", "silent", "gone"] {
        assert_eq!(page.body.matches(&format!("data-proxy-state=\"{state}\"")).count(), 1, "{state}");
    }
    let overview = admin.get("/admin").await;
    assert!(overview.body.contains("The proxy lags:1 lags."), "{}", overview.body);
    assert!(overview.body.contains("The proxy silent:1 is silent.") && !overview.body.contains("gone:1"));
}

#[tokio::test]
async fn settings_are_those_of_the_web_ui() {
    let (_site, mut admin, _) = site().await;
    let page = admin.get("/admin/settings").await;
    for text in
        ["webui.endpoint", "cache.example.com:11999", "webui.limits.sign_ups_per_hour", "<bdi>100</bdi>"]
    {
        assert!(page.body.contains(text), "{text}");
    }
    assert!(page.body.contains("A web UI knows neither the settings of proxies"));
}

// M-7.
#[tokio::test]
async fn no_secret_is_shown() {
    let (site, mut admin, mut ada) = site().await;
    ada.get("/caches?all").await;
    let page = ada.get(&format!("/caches/{}/tokens", cache(&site, ADA).await.id)).await;
    let created =
        ada.post(&format!("/caches/{}/tokens", cache(&site, ADA).await.id), &[("name", "shop")]).await;
    assert_eq!((page.status, created.status), (200, 200));
    let (secret, token) = (created.text("token-password").unwrap(), created.text("token").unwrap());
    let hash = site.store.password_hash(&id(&site, ADA).await).await.unwrap().unwrap();
    let session = ada.cookies["memgate"].clone();
    let secrets = [secret, token, &hash, &session, &ada.csrf_token];
    let (user, cache) = (id(&site, ADA).await, cache(&site, ADA).await.id);
    let lists = ["", "/users", "/caches", "/plans", "/proxies", "/denials", "/audit", "/settings"];
    let paths = lists.map(|list| format!("/admin{list}"));
    for path in paths.iter().chain([&format!("/admin/users/{user}"), &format!("/admin/caches/{cache}")]) {
        let page = admin.get(path).await;
        assert_eq!(page.status, 200, "{path}");
        assert!(secrets.iter().all(|secret| !page.body.contains(secret)), "{path}");
    }
    let shown = admin.get(&format!("/admin/users/{user}")).await;
    assert!(shown.body.contains("shop") && shown.body.contains("never used"), "{}", shown.body);
}

#[tokio::test]
async fn user_page_shows_api_keys_and_the_second_factor() {
    let (site, mut admin, _) = site().await;
    let ada = id(&site, ADA).await;
    let path = format!("/admin/users/{ada}");
    let page = admin.get(&path).await;
    assert_eq!((page.text("user-api-keys"), page.text("user-second-factor")), (Some("0"), Some("off")));
    let folder = tempfile::tempdir().unwrap();
    let token_key = TokenKey::load_or_create(&folder.path().join("token.key")).unwrap();
    let mut ids = Vec::new();
    for name in ["<b>deploy", "unused", "revoked"] {
        let new = NewApiKey { key: ApiKey::generate(), name, scopes: ApiScopes::ALL, expires_at: None };
        site.store.create_api_key(&token_key, &ada, &new).await.unwrap();
        ids.push(new.key.id());
    }
    site.store.touch_api_key(&ids[0]).await.unwrap();
    site.store.revoke_api_key(&ids[2]).await.unwrap();
    site.store.begin_second_factor(&ada, "session").await.unwrap();
    assert_eq!(admin.get(&path).await.text("user-second-factor"), Some("off"), "it is only set up");
    let seed = site.store.second_factor(&ada).await.unwrap().unwrap().seed;
    site.store.confirm_second_factor(&ada, &seed, 1, &[]).await.unwrap();
    let page = admin.get(&path).await;
    assert_eq!(page.text("user-api-keys"), Some("2"));
    assert!(page.text("user-second-factor").unwrap().starts_with("on since "), "{}", page.body);
    let shown = rows(&page, "api-keys");
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown.iter().any(|name| name == "unused") && !page.body.contains("<b>deploy"));
    let (_, table) = page.body.split_once("<table id=\"api-keys\">").unwrap();
    let (table, _) = table.split_once("</table>").unwrap();
    assert!(table.contains("never used") && table.contains("last used"), "{table}");
}
