//! How many requests a key, and all keys of a user, may make.

use store::ApiScopes;

use super::{Client, require_problem, start_with};

// W-25.
#[tokio::test]
async fn requests_are_limited_per_key_and_per_user() {
    // Few requests: all of them have to be within one minute.
    let (site, first) = start_with(|config| config.limits.api_requests_per_minute = 4).await;
    let second = first.with_scopes(&site, ApiScopes::ALL).await;
    let third = first.with_scopes(&site, ApiScopes::ALL).await;
    let bob = Client::of(&site, "bob@example.com", ApiScopes::ALL).await;
    let answer = first.get("/account").await;
    assert_eq!(answer.header("ratelimit-policy"), Some("\"requests\";q=4;w=60"));
    assert!(answer.header("ratelimit").unwrap().starts_with("\"requests\";r=3;t="), "{:?}", answer.headers);
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(first.get("/nothing").await.status);
    }
    assert_eq!(statuses, [[404; 3].as_slice(), &[429; 2]].concat(), "whatever is asked for");
    let refused = first.get("/account").await;
    require_problem(&refused, 429, "rate_limited");
    assert!(refused.header("ratelimit").unwrap().starts_with("\"requests\";r=0;t="));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() <= 60);

    for _ in 0..4 {
        assert_eq!(second.get("/account").await.status, 200, "another key");
    }
    assert_eq!(third.get("/account").await.status, 429, "the user has twice as many");
    assert_eq!(bob.get("/account").await.status, 200);
    assert!(site.limited("api_requests") >= 4);
    // Pages have limits of their own.
    let mut browser = site.visitor();
    browser.sign_in("ann@example.com", crate::harness::PASSWORD).await;
    assert_eq!(browser.get("/account").await.status, 200);
}
