//! Sign-up: validation, and what it creates.

use store::{HostCapacity, InstanceState, Token};

use crate::harness::{PASSWORD, Response, Site};

#[tokio::test]
async fn invalid_fields_show_an_error_and_keep_the_email() {
    let site = Site::start().await;
    site.sign_up_user("taken@example.com").await;
    let (short, long) = ("123456789".to_owned(), "ü".repeat(257));
    let cases = [
        ("", PASSWORD, 422, "The e-mail address is missing. Enter your e-mail address."),
        ("not-an-address", PASSWORD, 422, "This is not an e-mail address."),
        ("a@localhost", PASSWORD, 422, "This is not an e-mail address."),
        ("new@example.com", "", 422, "The password is missing. Choose one of at least 10 characters."),
        ("new@example.com", &short, 422, "This password is too short."),
        ("new@example.com", &long, 422, "This password is too long."),
        ("taken@example.com", PASSWORD, 409, "This address already has an account."),
        (" TAKEN@Example.com", PASSWORD, 409, "This address already has an account."),
    ];
    for (email, password, status, says) in cases {
        let mut visitor = site.visitor();
        visitor.get("/sign-up").await;
        let response = visitor.post("/sign-up", &[("email", email), ("password", password)]).await;
        assert_eq!(response.status, status, "{email} {password}");
        assert!(response.body.contains(says), "{email} {password}: {}", response.body);
        assert_eq!(response.field("email").as_deref(), Some(email));
        assert_eq!(response.field("password"), None, "a password is never sent back");
        assert!(password.is_empty() || !response.body.contains(password));
        assert!(!visitor.cookies.contains_key("memgate"));
    }
    assert_eq!(site.store.users().await.unwrap().len(), 1);
    assert_eq!(site.store.instances().await.unwrap().len(), 1);
}

// W-8.
#[tokio::test]
async fn closed_sign_up_creates_nothing_and_says_whom_to_ask() {
    let site = Site::start_with(|config| config.sign_up = webui::SignUp::Closed).await;
    let mut visitor = site.visitor();
    let page = visitor.get("/sign-up").await;
    assert_eq!((page.status, page.field("email")), (200, None));
    assert!(page.body.contains("Sign-up is closed. Ask the operator"), "{}", page.body);
    // The form of a page that was open before.
    visitor.get("/sign-in").await;
    let answer = visitor.post("/sign-up", &[("email", "new@example.com"), ("password", PASSWORD)]).await;
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("Sign-up is closed"), "{}", answer.body);
    assert!(site.store.users().await.unwrap().is_empty() && !visitor.cookies.contains_key("memgate"));
}

#[tokio::test]
async fn sign_up_creates_user_cache_and_token() {
    let site = Site::start().await;
    let (mut visitor, response) = site.sign_up_user("Ada@Example.com").await;
    let token = Token::parse(response.text("token").unwrap()).unwrap();
    assert_eq!(response.text("token-username"), Some(token.id().username().as_str()));
    assert_eq!(response.text("token-password"), Some(token.secret().reveal()));
    assert_eq!(response.text("state"), Some("Pending"));
    for language in
        ["shell-printf", "python-bmemcached", "php-memcached", "ruby-dalli4", "go-mc", "laravel-memcached"]
    {
        let snippet = response.text(&format!("plain-{language}")).unwrap();
        for expected in ["cache.example.com", "11999", &token.id().username(), token.secret().reveal()] {
            assert!(snippet.contains(expected), "{language} has no {expected}: {snippet}");
        }
    }

    site.set_state("ada@example.com", InstanceState::Running).await;
    let again = visitor.get("/caches/{cache}").await;
    assert_eq!(again.status, 200);
    assert_eq!(again.text("state"), Some("Running"));
    assert_eq!(again.text("version"), Some("1.6.18"));
    assert!(!again.body.contains(token.secret().reveal()), "shown once");
    assert_eq!(again.text("endpoint"), Some("cache.example.com:11999"));
    assert_eq!(again.text("memory"), Some("64 MB"));
    let connect = visitor.get("/caches/{cache}/connect").await;
    assert!(connect.text("plain-shell-printf").unwrap().contains("YOUR_PASSWORD"));
    for hidden in ["10.213.7.99", "c0ffee"] {
        assert!(!again.body.contains(hidden), "{hidden} is not for users' eyes");
    }
    let user = site.store.user_by_email("ada@example.com").await.unwrap().unwrap();
    assert_eq!(site.store.tokens_of_user(&user.id).await.unwrap()[0].id, token.id().as_str());
    assert!(site.store.password_hash(&user.id).await.unwrap().unwrap().starts_with("$argon2id$"));
}

//
#[tokio::test]
async fn accounts_are_limited() {
    let site = Site::start_with(|config| config.limits.accounts = 2).await;
    let (mut first, _) = site.sign_up_user("a@example.com").await;
    site.sign_up_user("b@example.com").await;
    for email in ["c@example.com", "a@example.com"] {
        let mut visitor = site.visitor();
        visitor.get("/sign-up").await;
        let refused = visitor.post("/sign-up", &[("email", email), ("password", PASSWORD)]).await;
        assert_eq!(refused.status, 503, "{email}: nothing tells that it is taken");
        assert!(refused.body.contains("no room for new accounts"), "{}", refused.body);
        assert!(refused.header("retry-after").is_some());
    }
    assert_eq!(site.limited("accounts"), 2);
    assert_eq!(site.store.users().await.unwrap().len(), 2);
    first.get("/account").await;
    assert_eq!(first.post("/account/delete", &[("password", PASSWORD)]).await.status, 303);
    site.sign_up_user("c@example.com").await;
}

//
#[tokio::test]
async fn sign_ups_in_total_are_limited() {
    let site = Site::start_with(|config| {
        config.limits.sign_ups_in_total_per_hour = 2;
        config.limits.accounts = 0;
    })
    .await;
    let sign_up = async |host: u8| {
        let mut visitor = site.visitor_from([127, host, 0, 1]);
        visitor.get("/sign-up").await;
        let email = format!("user{host}@example.com");
        visitor.post("/sign-up", &[("email", &email), ("password", PASSWORD)]).await
    };
    assert_eq!(sign_up(1).await.status, 200);
    for _ in 0..3 {
        assert_eq!(sign_up(1).await.status, 409, "creates no account, and doesn't count");
    }
    assert_eq!(sign_up(2).await.status, 200);
    let refused = sign_up(3).await;
    assert_eq!(refused.status, 503);
    assert!(refused.body.contains("Too many people are signing up"), "{}", refused.body);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(site.limited("sign_up_total"), 1);
}

/// Signs up through a proxy, as a client with this address.
async fn sign_up_from(site: &Site, client: &str) -> Response {
    let mut visitor = site.visitor();
    visitor.get("/sign-up").await;
    visitor.headers.push(("X-Forwarded-For".into(), client.into()));
    let email = format!("user-{}@example.com", client.replace(':', "-"));
    visitor.post("/sign-up", &[("email", &email), ("password", PASSWORD)]).await
}

// R-31, W-8.
#[tokio::test]
async fn one_region_does_not_close_sign_up() {
    let site = Site::start_with(|config| {
        config.limits.sign_ups_in_total_per_hour = 8;
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    for network in 0..2 {
        assert_eq!(sign_up_from(&site, &format!("198.51.{network}.1")).await.status, 200);
    }
    let refused = sign_up_from(&site, "198.51.2.1").await;
    assert_eq!(refused.status, 429);
    assert!(refused.body.contains("Too many sign-ups from your network."), "{}", refused.body);
    assert_eq!(site.limited("sign_up_region"), 1);
    assert_eq!(sign_up_from(&site, "203.0.113.1").await.status, 200, "another region");
}

// R-31, W-8.
#[tokio::test]
async fn one_region_does_not_take_most_accounts() {
    let site = Site::start_with(|config| {
        config.limits.sign_ups_in_total_per_hour = 0;
        config.limits.accounts = 8;
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    for network in 0..5 {
        assert_eq!(sign_up_from(&site, &format!("198.51.{network}.1")).await.status, 200);
    }
    let refused = sign_up_from(&site, "198.51.5.1").await;
    assert_eq!(refused.status, 503);
    assert!(refused.body.contains("no room for new accounts from your network"), "{}", refused.body);
    assert_eq!(site.limited("accounts_region"), 1);
    for client in ["203.0.113.1", "2001:db8::1"] {
        assert_eq!(sign_up_from(&site, client).await.status, 200, "another region");
    }
    let near = "memgate_webui_sign_ups_near_limit_total{cause=\"accounts\"}";
    assert_eq!(site.find_metric(near), Some(1), "the seventh of eight");
}

//
#[tokio::test]
async fn sign_up_is_refused_without_memory_for_a_cache() {
    let site = Site::start().await;
    let machine_has = async |budget_bytes: i64| {
        let changed_at = store::now();
        let capacity = HostCapacity { budget_bytes, reserved_bytes: 0, growth_mb: 0, waiting: 0, changed_at };
        site.store.set_host_capacity(&capacity).await.unwrap();
    };
    // A cache of the default plan has a limit of 140 MB.
    machine_has(140 << 20).await;
    site.sign_up_user("a@example.com").await;
    let mut visitor = site.visitor();
    visitor.get("/sign-up").await;
    let refused = visitor.post("/sign-up", &[("email", "b@example.com"), ("password", PASSWORD)]).await;
    assert_eq!(refused.status, 503);
    assert!(refused.body.contains("no memory for another cache now"), "{}", refused.body);
    assert!(refused.header("retry-after").is_some());
    assert_eq!((site.limited("memory"), site.store.users().await.unwrap().len()), (1, 1));
    machine_has(280 << 20).await;
    site.sign_up_user("b@example.com").await;
}

// W-13.
#[tokio::test]
async fn passwords_may_contain_any_character() {
    let site = Site::start().await;
    for (i, password) in
        ["🦀".repeat(256), "пароль с пробелом ".into(), "\"><script>&=+%00".into()].iter().enumerate()
    {
        let email = format!("user{i}@example.com");
        let mut visitor = site.visitor();
        visitor.get("/sign-up").await;
        assert_eq!(visitor.post("/sign-up", &[("email", &email), ("password", password)]).await.status, 200);
        assert_eq!(site.visitor().sign_in(&email, password).await.status, 303, "{password}");
        assert_eq!(
            site.visitor().sign_in(&email, password.trim_end_matches(' ')).await.status,
            if password.ends_with(' ') { 401 } else { 303 }
        );
    }
}

#[tokio::test]
async fn resubmitted_sign_up_changes_nothing() {
    let site = Site::start().await;
    let mut visitor = site.visitor();
    visitor.get("/sign-up").await;
    let fields =
        [("email", "a@example.com"), ("password", PASSWORD), ("csrf_token", &visitor.csrf_token.clone())];
    assert_eq!(visitor.post_without_token("/sign-up", &fields).await.status, 200);
    let again = visitor.post_without_token("/sign-up", &fields).await;
    assert_eq!((again.status, again.location()), (303, "/caches"));
    assert_eq!(visitor.get("/sign-up").await.location(), "/caches");
    assert_eq!(site.store.users().await.unwrap().len(), 1);
}
