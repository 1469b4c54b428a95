//! Sign-in and sign-out.

use std::process::Command;

use store::{NewToken, NewUser, TokenKey};

use crate::harness::{PASSWORD, Site};

// W-15, R-5.
#[tokio::test]
async fn wrong_and_unknown_look_alike_and_take_as_long() {
    let site = Site::start().await;
    site.newcomer("known@example.com").await;
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
        let answer = visitor.sign_in(email, password).await;
        assert_eq!(answer.status, 401, "{email}");
        // What takes long is done for nobody, too: the clock doesn't tell.
        assert_eq!(site.metric("memgate_webui_password_checks_total"), checks + 1, "{email}");
        assert!(!visitor.cookies.contains_key("memgate"));
        let page =
            answer.body.replace(&visitor.form_token, "TOKEN").replace(&format!("value=\"{email}\""), "EMAIL");
        if !email.is_empty() {
            pages.push(page);
        }
    }
    assert!(pages.windows(2).all(|pair| pair[0] == pair[1]), "{pages:#?}");
}

// W-7, R-22.
#[tokio::test]
async fn next_leads_to_own_pages_only() {
    let site = Site::start().await;
    site.newcomer("a@example.com").await;
    for (next, leads) in [
        ("/tokens/abcdefghijkl/revoke", "/tokens/abcdefghijkl/revoke"),
        ("", "/cache"),
        ("//evil.example/", "/cache"),
        ("/\\evil.example", "/cache"),
        ("https://evil.example", "/cache"),
    ] {
        let site = &site;
        let mut visitor = site.visitor();
        let page = visitor.get(&format!("/sign-in?next={next}")).await;
        assert_eq!(page.field("next").as_deref(), Some(leads));
        let fields = [("email", "a@example.com"), ("password", PASSWORD), ("next", next)];
        let answer = visitor.post("/sign-in", &fields).await;
        assert_eq!((answer.status, answer.location()), (303, leads), "{next}");
    }
    let mut stranger = site.visitor();
    assert_eq!(stranger.get("/cache").await.location(), "/sign-in?next=/cache");
}

#[tokio::test]
async fn signed_out_is_signed_out() {
    let site = Site::start().await;
    let (mut visitor, _) = site.newcomer("a@example.com").await;
    let stolen = visitor.clone();
    visitor.get("/cache").await;
    let answer = visitor.post("/sign-out", &[]).await;
    assert_eq!((answer.status, answer.location()), (303, "/sign-in?signed-out"));
    assert!(!visitor.cookies.contains_key("memgate"));
    for mut gone in [visitor, stolen] {
        assert_eq!(gone.get("/cache").await.location(), "/sign-in?next=/cache");
    }
    assert_eq!(site.visitor().get("/sign-out").await.status, 405, "POST only");
}

//
/// Runs [`a_crowd`] in a process of its own: other tests' memory isn't its.
#[test]
fn five_hundred_sign_ins_at_a_time_are_all_answered_in_little_memory() {
    let this = std::env::current_exe().unwrap();
    let run = Command::new(this).args(["--ignored", "--exact", "sign_in::a_crowd"]).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "five_hundred_sign_ins_at_a_time_are_all_answered_in_little_memory runs it alone"]
async fn a_crowd() {
    let site = Site::start_with(|config| config.limits.sign_ins_per_minute = 1000).await;
    site.newcomer("a@example.com").await;
    let mut visitor = site.visitor();
    visitor.get("/sign-in").await;
    let mut crowd = tokio::task::JoinSet::new();
    for i in 0..500 {
        let mut visitor = visitor.clone();
        let password = if i % 50 == 0 { PASSWORD } else { "wrong horse battery" };
        crowd.spawn(async move {
            let answer =
                visitor.post("/sign-in", &[("email", "a@example.com"), ("password", password)]).await;
            assert!([303, 401, 503].contains(&answer.status), "{}", answer.status);
        });
    }
    let mut most = 0;
    while let Some(done) = crowd.join_next().await {
        done.unwrap();
        most = most.max(resident_mib());
    }
    // Without turns it would be 500 times 19 MiB. Four turns, a thousand sockets, and room.
    assert!(most < 300, "{most} MiB");
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
