//! Sign-in and sign-out.

use std::process::Command;

use store::{NewToken, NewUser, TokenKey};

use crate::harness::{PASSWORD, Site};

// W-15, R-5.
#[tokio::test]
async fn wrong_password_and_unknown_user_are_indistinguishable() {
    let site = Site::start().await;
    site.sign_up_user("known@example.com").await;
    let folder = tempfile::tempdir().unwrap();
    let key = TokenKey::load_or_create(&folder.path().join("key")).unwrap();
    let locked =
        NewUser { email: "locked@example.com", password_hash: None, plan: "default", is_admin: false };
    site.store.sign_up(&locked, &NewToken::generate(&key, "first")).await.unwrap();

    let mut pages = Vec::new();
    for (email, password) in [
        ("known@example.com", "wrong horse battery"),
        ("unknown@example.com", PASSWORD),
        ("locked@example.com", PASSWORD),
        ("not an address \0", PASSWORD),
        ("", ""),
    ] {
        let mut visitor = site.visitor();
        let checks = site.metric("memgate_webui_password_checks_total");
        let response = visitor.sign_in(email, password).await;
        assert_eq!(response.status, 401, "{email}");
        // Unknown users cost a password check too, so response times don't tell them apart.
        assert_eq!(site.metric("memgate_webui_password_checks_total"), checks + 1, "{email}");
        assert!(!visitor.cookies.contains_key("memgate"));
        let page = response
            .body
            .replace(&visitor.csrf_token, "TOKEN")
            .replace(&format!("value=\"{email}\""), "EMAIL");
        if !email.is_empty() {
            pages.push(page);
        }
    }
    assert!(pages.windows(2).all(|pair| pair[0] == pair[1]), "{pages:#?}");
}

// W-7, R-22.
#[tokio::test]
async fn next_redirects_to_local_paths_only() {
    let site = Site::start().await;
    site.sign_up_user("a@example.com").await;
    for (next, leads) in [
        ("/tokens/abcdefghijkl/revoke", "/tokens/abcdefghijkl/revoke"),
        ("", "/caches"),
        ("//evil.example/", "/caches"),
        ("/\\evil.example", "/caches"),
        ("https://evil.example", "/caches"),
    ] {
        let site = &site;
        let mut visitor = site.visitor();
        let page = visitor.get(&format!("/sign-in?next={next}")).await;
        assert_eq!(page.field("next").as_deref(), Some(leads));
        let fields = [("email", "a@example.com"), ("password", PASSWORD), ("next", next)];
        let response = visitor.post("/sign-in", &fields).await;
        assert_eq!((response.status, response.location()), (303, leads), "{next}");
    }
    let mut anonymous = site.visitor();
    assert_eq!(anonymous.get("/caches").await.location(), "/sign-in?next=/caches");
}

#[tokio::test]
async fn sign_out_ends_the_session() {
    let site = Site::start().await;
    let (mut visitor, _) = site.sign_up_user("a@example.com").await;
    let stolen = visitor.clone();
    visitor.get("/caches").await;
    let response = visitor.post("/sign-out", &[]).await;
    assert_eq!((response.status, response.location()), (303, "/sign-in?signed-out"));
    assert!(!visitor.cookies.contains_key("memgate"));
    for mut gone in [visitor, stolen] {
        assert_eq!(gone.get("/caches").await.location(), "/sign-in?next=/caches");
    }
    assert_eq!(site.visitor().get("/sign-out").await.status, 405, "POST only");
}

//
/// Runs [`concurrent_sign_ins`] in a separate process, without the memory of other tests.
#[test]
fn concurrent_sign_ins_use_bounded_memory() {
    let this = std::env::current_exe().unwrap();
    let run =
        Command::new(this).args(["--ignored", "--exact", "sign_in::concurrent_sign_ins"]).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "concurrent_sign_ins_use_bounded_memory runs it alone"]
async fn concurrent_sign_ins() {
    let site = Site::start_with(|config| config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()]).await;
    site.sign_up_user("a@example.com").await;
    let mut visitor = site.visitor();
    visitor.get("/sign-in").await;
    let mut requests = tokio::task::JoinSet::new();
    for i in 0..500 {
        let mut visitor = visitor.clone();
        visitor.headers.push(("X-Forwarded-For".into(), format!("198.18.{}.{}", i / 2, i % 2)));
        let password = if i % 50 == 0 { PASSWORD } else { "wrong horse battery" };
        requests.spawn(async move {
            let response =
                visitor.post("/sign-in", &[("email", "a@example.com"), ("password", password)]).await;
            assert!([303, 401, 429, 503].contains(&response.status), "{}", response.status);
        });
    }
    let mut peak = 0;
    while let Some(done) = requests.join_next().await {
        done.unwrap();
        peak = peak.max(resident_mib());
    }
    // Without a limit it would be 500 times 19 MiB. This allows for four workers and a thousand sockets.
    assert!(peak < 300, "{peak} MiB");
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
