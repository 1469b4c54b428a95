//! Floods of sign-ins: other people's are answered, and an account is never locked out.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::harness::{PASSWORD, Site};

/// Time limit of a wait, however busy the machine is.
const DEADLINE: Duration = Duration::from_secs(20);

//
#[tokio::test]
async fn one_source_may_not_try_one_password_on_every_account() {
    let site = Site::start().await;
    site.sign_up_user("victim@example.com").await;
    let mut sprayer = site.visitor_from([127, 1, 0, 1]);
    sprayer.get("/sign-in").await;
    let mut statuses = Vec::new();
    for account in 0..40 {
        let email = format!("user{account}@example.com");
        let fields = [("email", &*email), ("password", "correct horse")];
        let response = sprayer.post("/sign-in", &fields).await;
        if response.status == 429 {
            assert!(response.body.contains("Too many attempts. Try again in "), "{}", response.body);
            assert!(response.header("retry-after").is_some());
        }
        statuses.push(response.status);
    }
    assert_eq!(statuses, [[401; 30].as_slice(), &[429; 10]].concat());
    assert_eq!(site.limited("sign_in_source"), 10);
    assert_eq!(site.metric("memgate_webui_password_checks_total"), 30, "the others cost no hash");
    let mut victim = site.visitor_from([127, 2, 0, 1]);
    assert_eq!(victim.sign_in("victim@example.com", PASSWORD).await.status, 303);
}

// W-15.
#[tokio::test]
async fn limits_do_not_tell_which_accounts_exist_and_leave_known_browsers_some_attempts() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user("ann@example.com").await;
    let mut sprayer = site.visitor();
    for account in 0..30 {
        let response = sprayer.sign_in(&format!("user{account}@example.com"), "wrong horse battery").await;
        assert_eq!(response.status, 401);
    }
    let checks = site.metric("memgate_webui_password_checks_total");
    for (email, password) in [
        ("unknown@example.com", "wrong horse battery"),
        ("ann@example.com", "wrong horse battery"),
        ("ann@example.com", PASSWORD),
    ] {
        assert_eq!(sprayer.sign_in(email, password).await.status, 429, "{email}");
    }
    assert_eq!(site.metric("memgate_webui_password_checks_total"), checks, "none takes longer");
    ann.cookies.remove("memgate");
    assert_eq!(ann.sign_in("bob@example.com", PASSWORD).await.status, 429, "another account");
    assert_eq!(ann.sign_in("ann@example.com", "wrong horse battery").await.status, 401);
    assert_eq!(ann.sign_in(" Ann@Example.com", PASSWORD).await.status, 303);
}

//
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_one_network_waits_longer_than_others() {
    let site = Site::start_with(|config| config.limits.sign_ins_per_source_per_minute = 10_000).await;
    site.sign_up_user("victim@example.com").await;
    let mut flood = JoinSet::new();
    for i in 0..400_u32 {
        let mut visitor = site.visitor_from([127, 1, 0, u8::try_from(i % 4).unwrap() + 1]);
        flood.spawn(async move {
            let started = Instant::now();
            let response = visitor.sign_in(&format!("user{i}@example.com"), "wrong horse battery").await;
            assert!(response.status != 503 || response.header("retry-after").is_some());
            (response.status, started.elapsed())
        });
    }
    // The flood has begun to be refused.
    let started = Instant::now();
    while site.metric("memgate_webui_password_refusals_total") == 0 {
        assert!(started.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let started = Instant::now();
    let mut victim = site.visitor_from([127, 2, 0, 1]);
    assert_eq!(victim.sign_in("victim@example.com", PASSWORD).await.status, 303);
    let victim_waited = started.elapsed();
    let answers = flood.join_all().await;
    assert!(answers.iter().any(|(status, _)| *status == 503));
    let checked = answers.iter().filter(|(status, _)| *status == 401);
    let longest = checked.map(|(_, waited)| *waited).max().unwrap();
    assert!(victim_waited < longest, "{victim_waited:?}, {longest:?} in the flood");
}

//
#[tokio::test]
async fn guesses_at_one_account_from_everywhere_delay_it_and_never_lock_it_out() {
    let proxy = |config: &mut webui::Config| config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    let site = Site::start_with(proxy).await;
    site.sign_up_user("victim@example.com").await;
    let sign_in = async |email: &str, password: &str, source: String| {
        let mut visitor = site.visitor();
        visitor.headers.push(("X-Forwarded-For".into(), source));
        visitor.sign_in(email, password).await.status
    };
    for email in ["victim@example.com", "unknown@example.com"] {
        let delayed = site.metric("memgate_webui_sign_in_delays_total");
        for source in 0..12 {
            let status = sign_in(email, "wrong horse battery", format!("198.18.{source}.1")).await;
            assert_eq!(status, 401, "{email}");
        }
        let delays = site.metric("memgate_webui_sign_in_delays_total") - delayed;
        assert_eq!(delays, 2, "{email}: the eleventh and the twelfth, whether it exists or not");
    }
    let before = site.metric("memgate_webui_sign_in_delays_total");
    assert_eq!(sign_in(" Victim@Example.com", PASSWORD, "198.18.99.1".into()).await, 303);
    assert_eq!(site.metric("memgate_webui_sign_in_delays_total"), before + 1);
}

//
#[tokio::test]
async fn delayed_attempts_of_a_source_hold_a_few_connections() {
    let site = Site::start_with(|config| {
        config.limits.sign_ins_per_minute = 1000;
        config.limits.sign_ins_per_source_per_minute = 1000;
    })
    .await;
    site.sign_up_user("victim@example.com").await;
    let attempt = || {
        let mut guesser = site.visitor_from([127, 1, 0, 1]);
        async move { guesser.sign_in("victim@example.com", "wrong horse battery").await }
    };
    for _ in 0..14 {
        assert_eq!(attempt().await.status, 401);
    }
    let flood: JoinSet<_> = (0..20).map(|_| attempt()).collect();
    let mut victim = site.visitor_from([127, 2, 0, 1]);
    assert_eq!(victim.sign_in("victim@example.com", PASSWORD).await.status, 303);
    let mut refused = 0;
    for response in flood.join_all().await {
        if response.status == 429 {
            assert_eq!(response.header("retry-after"), Some("6"));
            refused += 1;
        }
    }
    assert!(refused > 0 && site.limited("sign_in_delays") == refused, "eight may wait for the delay");
}
