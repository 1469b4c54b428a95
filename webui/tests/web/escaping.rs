//! User input is escaped on every page.

use crate::harness::{PASSWORD, Site};

const HOSTILE: &[&str] = &[
    "\"><script>alert(1)</script>",
    "' onmouseover='alert(1)",
    "</title></textarea><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}${7*7}",
    "\u{202e}gnp.exe\u{202c}\u{200f}",
    "&lt;b&gt;&amp;",
];

fn assert_escaped(body: &str, input: &str) {
    let is_markup = input.contains(['<', '>', '"', '\'', '&']);
    assert!(!is_markup || !body.contains(input), "{input} came back raw");
    assert!(!body.contains("<script>") && !body.contains("<img"), "{input} became an element");
}

// W-12, R-22.
#[tokio::test]
async fn form_fields_are_escaped() {
    let site = Site::start_with(|config| config.limits.sign_ins_per_minute = 100).await;
    let (mut user, _) = site.sign_up_user("a@example.com").await;
    let long = "x".repeat(10_000);
    for input in HOSTILE.iter().copied().chain([long.as_str()]) {
        let mut visitor = site.visitor();
        visitor.get("/sign-up").await;
        let response = visitor.post("/sign-up", &[("email", input), ("password", "short")]).await;
        assert_eq!(response.status, 422);
        assert_escaped(&response.body, input);
        let response = visitor.sign_in(input, PASSWORD).await;
        assert_eq!(response.status, 401);
        assert_escaped(&response.body, input);
        let response = visitor.post("/sign-in", &[("email", "x"), ("password", "x"), ("next", input)]).await;
        assert_escaped(&response.body, input);

        user.get("/caches/{cache}/tokens").await;
        let created = user.post("/caches/{cache}/tokens", &[("name", input)]).await;
        assert_eq!(created.status, if input.len() > 60 { 422 } else { 200 });
        assert_escaped(&created.body, input);
        let page = user.get("/caches/{cache}/tokens").await;
        assert_escaped(&page.body, input);
        user.get("/account/webhooks").await;
        let start: String = input.chars().take(200).collect();
        let fields = [("url", input), ("description", &*start), ("cache_failed", &*start)];
        let response = user.post("/account/webhooks", &fields).await;
        assert_eq!(response.status, 422);
        assert_escaped(&response.body, input);
    }
    let page = user.get("/caches/{cache}/tokens").await;
    assert!(page.body.contains("&#34;&#62;&#60;script&#62;alert(1)&#60;/script&#62;"), "kept as input");
    assert!(page.body.contains("<bdi class=\"name\">\u{202e}gnp.exe"), "marks stay inside");
    let last = page.tokens().pop().unwrap();
    assert_escaped(&user.get(&format!("/tokens/{last}/revoke")).await.body, HOSTILE[0]);
}

#[tokio::test]
async fn urls_are_escaped() {
    let site = Site::start().await;
    let mut visitor = site.visitor();
    for path in [
        "/%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        "/sign-in?next=%22%3E%3Cscript%3Ealert(1)",
        "/sign-in?signed-out=%3Cscript%3Ealert",
    ] {
        assert_escaped(&visitor.get(path).await.body, HOSTILE[0]);
    }
}
