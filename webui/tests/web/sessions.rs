//! Sessions: new ids, hashes in the store, idle timeout and maximum age.

use std::time::Duration;

use crate::harness::{PASSWORD, Response, Site, eventually};

// W-3, R-22.
#[tokio::test]
async fn sign_in_creates_a_new_session_id() {
    let site = Site::start().await;
    let (first, _) = site.sign_up_user("a@example.com").await;
    let fixed = "ab".repeat(32);
    let mut visitor = site.visitor();
    visitor.cookies.insert("memgate".into(), fixed.clone());
    assert_eq!(visitor.sign_in("a@example.com", PASSWORD).await.status, 303);
    assert_ne!(visitor.cookies["memgate"], fixed);
    assert_ne!(visitor.cookies["memgate"], first.cookies["memgate"]);
    let mut planted = site.visitor();
    planted.cookies.insert("memgate".into(), fixed);
    assert_eq!(planted.get("/account").await.status, 303, "the planted id has no session");
    for nonsense in ["", "x", "\"", &"0".repeat(64), &"0".repeat(5000)] {
        planted.cookies.insert("memgate".into(), nonsense.to_owned());
        assert_eq!(planted.get("/account").await.status, 303, "{nonsense}");
    }
}

// R-31, W-5.
#[tokio::test]
async fn sessions_per_user_are_limited() {
    let site = Site::start_with(|config| config.limits.sign_ins_per_minute = 100).await;
    let (mut first, _) = site.sign_up_user("a@example.com").await;
    let (mut other, _) = site.sign_up_user("b@example.com").await;
    let mut last = site.visitor();
    for _ in 0..20 {
        last = site.visitor();
        assert_eq!(last.sign_in("a@example.com", PASSWORD).await.status, 303);
    }
    assert_eq!(first.get("/account").await.location(), "/sign-in?next=/account", "the oldest has ended");
    assert_eq!(last.get("/account").await.status, 200);
    assert_eq!(other.get("/account").await.status, 200, "another user's");
}

// W-3.
#[tokio::test]
async fn the_store_contains_no_cookie_value() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let site = Site::start_in(folder, |_| {}).await;
    let (visitor, page) = site.sign_up_user("a@example.com").await;
    let secrets = [&visitor.cookies["memgate"], page.text("token-password").unwrap(), PASSWORD];
    for file in std::fs::read_dir(path).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for secret in secrets {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
        }
    }
}

// W-5.
#[tokio::test]
async fn an_idle_session_ends() {
    let site = Site::start_with(|config| config.session_idle_seconds = 5).await;
    let (mut visitor, _) = site.sign_up_user("a@example.com").await;
    // A browser of its own: a sign-in ends the session that its browser had.
    let mut used = site.visitor();
    assert_eq!(used.sign_in("a@example.com", PASSWORD).await.status, 303);
    let started = std::time::Instant::now();
    // One session is used all the time, the other is idle.
    while started.elapsed() < Duration::from_millis(5500) {
        assert_eq!(used.get("/account").await.status, 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(visitor.get("/account").await.location(), "/sign-in?next=/account");
}

// W-5: an open page that nobody looks at signs nobody in for ever.
#[tokio::test]
async fn an_open_page_does_not_keep_a_session() {
    let site = Site::start_with(|config| config.session_idle_seconds = 2).await;
    let (mut visitor, page) = site.sign_up_user("a@example.com").await;
    let first_use = format!("/tokens/{}/first-use", page.tokens()[0]);
    // Without scripts, three pages reload themselves.
    let paths = [
        "/caches/{cache}/state",
        "/caches/{cache}/figures",
        "/caches/{cache}?range=hour&reloaded",
        "/caches/{cache}/activity?reloaded",
        "/caches/{cache}/settings?requested=restart&reloaded",
        first_use.as_str(),
        "/nowhere",
    ];
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_millis(2500) {
        for path in paths {
            visitor.get(path).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(visitor.get("/account").await.location(), "/sign-in?next=/account");
}

// W-5.
#[tokio::test]
async fn pages_that_reload_themselves_say_so() {
    let site = Site::start().await;
    let (mut visitor, _) = site.sign_up_user("a@example.com").await;
    let reload = |page: &Response| {
        let (_, rest) = page.body.split_once("http-equiv=\"refresh\" content=\"")?;
        Some(rest.split_once("; url=")?.1.split('"').next()?.replace("&amp;", "&"))
    };
    let starting = visitor.get("/caches/{cache}?range=day").await;
    let expected = visitor.path("/caches/{cache}?range=day&reloaded");
    assert_eq!(reload(&starting).as_deref(), Some(&*expected), "its cache starts");
    assert_eq!(reload(&visitor.get(&expected).await), Some(expected), "again and again");
    site.set_state("a@example.com", store::InstanceState::Running).await;
    visitor.get("/caches/{cache}/settings").await;
    assert_eq!(visitor.post("/caches/{cache}/flush", &[("confirmed", "1")]).await.status, 303);
    for (path, expected) in [
        ("/caches/{cache}/settings?requested=flush", "/caches/{cache}/settings?requested=flush&reloaded"),
        ("/caches/{cache}/activity", "/caches/{cache}/activity?reloaded"),
    ] {
        assert_eq!(reload(&visitor.get(path).await), Some(visitor.path(expected)), "{path}");
    }
}

// W-5.
#[tokio::test]
async fn a_session_ends_at_its_maximum_age() {
    let site = Site::start_with(|config| config.session_seconds = 1).await;
    let (visitor, _) = site.sign_up_user("a@example.com").await;
    eventually("the session's end", || {
        let mut visitor = visitor.clone();
        async move { visitor.get("/account").await.status == 303 }
    })
    .await;
    // A form of the ended session redirects to the sign-in page and changes nothing.
    let mut visitor = visitor;
    assert_eq!(
        visitor.post("/caches/{cache}/tokens", &[("name", "late")]).await.location(),
        "/sign-in?next=/caches"
    );
}

// otherwise a flood with cookies would hold up the store.
#[tokio::test]
async fn made_up_sessions_cost_no_look_up() {
    let site = Site::start().await;
    let (signed_in, _) = site.sign_up_user("a@example.com").await;
    let real = &signed_in.cookies["memgate"];
    site.store.close().await;
    let sign_in = async |cookie: &str| {
        let mut visitor = site.visitor();
        visitor.cookies.insert("memgate".into(), cookie.to_owned());
        visitor.get("/sign-in").await.status
    };
    assert_eq!(sign_in(real).await, 503, "the store is asked, and unavailable");
    let changed = if real.ends_with('0') { "1" } else { "0" };
    for made_up in ["a".repeat(64), format!("{}{changed}", &real[..63]), format!("{changed}{}", &real[..63])]
    {
        assert_eq!(sign_in(&made_up).await, 200, "{made_up}");
    }
}
