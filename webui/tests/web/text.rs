//! What people type comes back as text, whatever it is.

use crate::harness::{PASSWORD, Site};

const NASTY: &[&str] = &[
    "\"><script>alert(1)</script>",
    "' onmouseover='alert(1)",
    "</title></textarea><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}${7*7}",
    "\u{202e}gnp.exe\u{202c}\u{200f}",
    "&lt;b&gt;&amp;",
];

fn is_harmless(body: &str, typed: &str) {
    let is_markup = typed.contains(['<', '>', '"', '\'', '&']);
    assert!(!is_markup || !body.contains(typed), "{typed} came back raw");
    assert!(!body.contains("<script>") && !body.contains("<img"), "{typed} became an element");
}

// W-12, R-22.
#[tokio::test]
async fn in_every_field() {
    let site = Site::start_with(|config| config.limits.sign_ins_per_minute = 100).await;
    let (mut user, _) = site.newcomer("a@example.com").await;
    let long = "x".repeat(10_000);
    for typed in NASTY.iter().copied().chain([long.as_str()]) {
        let mut visitor = site.visitor();
        visitor.get("/sign-up").await;
        let answer = visitor.post("/sign-up", &[("email", typed), ("password", "short")]).await;
        assert_eq!(answer.status, 422);
        is_harmless(&answer.body, typed);
        let answer = visitor.sign_in(typed, PASSWORD).await;
        assert_eq!(answer.status, 401);
        is_harmless(&answer.body, typed);
        let answer = visitor.post("/sign-in", &[("email", "x"), ("password", "x"), ("next", typed)]).await;
        is_harmless(&answer.body, typed);

        user.get("/cache").await;
        let made = user.post("/tokens", &[("name", typed)]).await;
        assert_eq!(made.status, if typed.len() > 60 { 422 } else { 200 });
        is_harmless(&made.body, typed);
        let page = user.get("/cache").await;
        is_harmless(&page.body, typed);
    }
    let page = user.get("/cache").await;
    assert!(page.body.contains("&#34;&#62;&#60;script&#62;alert(1)&#60;/script&#62;"), "kept as typed");
    assert!(page.body.contains("<bdi class=\"name\">\u{202e}gnp.exe"), "marks stay inside");
    let last = page.tokens().pop().unwrap();
    is_harmless(&user.get(&format!("/tokens/{last}/revoke")).await.body, NASTY[0]);
}

#[tokio::test]
async fn in_addresses() {
    let site = Site::start().await;
    let mut visitor = site.visitor();
    for path in [
        "/%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        "/sign-in?next=%22%3E%3Cscript%3Ealert(1)",
        "/sign-in?signed-out=%3Cscript%3Ealert",
    ] {
        is_harmless(&visitor.get(path).await.body, NASTY[0]);
    }
}
