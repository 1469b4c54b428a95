//! W-1: the security headers of every response.

use crate::harness::{Response, Site, Visitor};

const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const GETS: &[(&str, u16)] = &[
    ("/", 200),
    ("/sign-up", 200),
    ("/sign-in", 200),
    ("/sign-in?next=%ff&next=2", 200),
    ("/forgot-password", 200),
    ("/sign-in/code", 303),
    ("/account/email", 303),
    ("/account/notifications", 303),
    ("/account/webhooks", 303),
    ("/account/webhooks/aaaaaaaaaaaaaaaaaaaaaaaa", 303),
    ("/account/webhooks/aaaaaaaaaaaaaaaaaaaaaaaa/test", 405),
    ("/account/second-factor", 303),
    ("/account/second-factor/qr.svg", 303),
    ("/account/data.json", 303),
    ("/caches", 303),
    ("/account", 303),
    ("/account/password", 405),
    ("/caches/{cache}/state", 303),
    ("/caches/{cache}/events", 303),
    ("/caches/{cache}/tokens", 303),
    ("/caches/{cache}/settings", 303),
    ("/caches/{cache}/activity", 303),
    ("/caches/{cache}/restart", 303),
    ("/caches/{cache}/delete", 303),
    ("/tokens/aaaaaaaaaaaa/revoke", 303),
    ("/sign-out", 405),
    ("/ca.pem", 404),
    ("/nothing", 404),
    ("/assets/nothing", 404),
    ("/assets/..%2fCargo.toml", 404),
    ("/assets/style.css", 200),
    ("/assets/page.js", 200),
    ("/assets/icon.svg", 200),
];

fn check(path: &str, response: &Response, https: bool) {
    for (name, value) in [
        ("content-security-policy", CONTENT_SECURITY_POLICY),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(response.header_values(name), [value], "{path}");
    }
    assert_eq!(response.header("strict-transport-security").is_some(), https, "{path}");
    let kept = response.header("cache-control").unwrap();
    if path.starts_with("/assets/") && response.status == 200 {
        let named = path.contains("?v=");
        assert_eq!(kept, if named { "public, max-age=31536000, immutable" } else { "no-cache" }, "{path}");
    } else {
        assert!(kept == "no-store" || path.ends_with("/events"), "{path}");
    }
    // Pages contain no inline script or style, which the policy would block.
    if !path.starts_with("/assets/") {
        for inline in ["<style", "style=", "<script>", "onclick", "onload", "javascript:"] {
            assert!(!response.body.contains(inline), "{path} has {inline}");
        }
    }
}

async fn check_every_route(visitor: &mut Visitor, https: bool) {
    for (path, status) in GETS {
        let response = visitor.get(path).await;
        assert_eq!(response.status, *status, "{path}");
        check(path, &response, https);
    }
    for path in [
        "/",
        "/sign-up",
        "/sign-in",
        "/sign-out",
        "/caches",
        "/caches/{cache}/tokens",
        "/caches/{cache}/resize",
        "/caches/{cache}/sleep",
        "/nothing",
        "/assets/style.css",
    ] {
        check(path, &visitor.post(path, &[]).await, https);
        visitor.headers = vec![("Sec-Fetch-Site".into(), "cross-site".into())];
        let refused = visitor.post(path, &[]).await;
        assert_eq!(refused.status, 403);
        check(path, &refused, https);
        visitor.headers = vec![];
        check(path, &visitor.post(path, &[("name", &"x".repeat(20_000))]).await, https);
    }
}

// W-1.
#[tokio::test]
async fn every_response_has_security_headers() {
    let site = Site::start().await;
    check_every_route(&mut site.visitor(), false).await;
    let (mut user, first) = site.sign_up_user("a@example.com").await;
    check("/sign-up", &first, false);
    let revoke = format!("/tokens/{}/revoke", first.tokens()[0]);
    let tabs = [
        "",
        "/connect",
        "/tokens",
        "/connections",
        "/denials",
        "/activity",
        "/usage",
        "/usage.csv",
        "/settings",
        "/figures",
        "/state",
    ];
    let tabs = tabs.map(|tab| format!("/caches/{}{tab}", user.cache));
    let asks =
        ["restart", "flush", "suspend", "delete"].map(|action| format!("/caches/{}/{action}", user.cache));
    let others = [
        "/",
        "/account",
        "/account/email",
        "/account/second-factor",
        "/account/data.json",
        "/caches?all",
        "/account/notifications",
        "/account/webhooks",
    ];
    let others = others.map(str::to_owned).into_iter().chain([revoke]).collect::<Vec<_>>();
    for path in tabs.iter().chain(&asks).chain(&others) {
        let response = user.get(path).await;
        assert_eq!(response.status, 200, "{path}");
        check(path, &response, false);
    }
}

// W-1, W-2.
#[tokio::test]
async fn https_adds_hsts_and_host_cookies() {
    let site = Site::start_with(|config| config.base_url = Some("https://cache.example.com".into())).await;
    let mut visitor = site.visitor();
    check_every_route(&mut visitor, true).await;
    let (visitor, response) = site.sign_up_user("a@example.com").await;
    assert!(
        visitor.cookies.contains_key("__Host-memgate") && visitor.cookies.contains_key("__Host-memgate-csrf")
    );
    let cookie = response.header("set-cookie").unwrap();
    assert!(cookie.ends_with("; Path=/; Max-Age=604800; HttpOnly; SameSite=Lax; Secure"), "{cookie}");
}

// W-1, W-2.
#[tokio::test]
async fn cookies_without_tls_are_not_secure() {
    let site = Site::start().await;
    let (visitor, response) = site.sign_up_user("a@example.com").await;
    let cookie = response.header("set-cookie").unwrap();
    let value = &visitor.cookies["memgate"];
    assert_eq!(value.len(), 64);
    assert_eq!(cookie, format!("memgate={value}; Path=/; Max-Age=604800; HttpOnly; SameSite=Lax"));
}

#[tokio::test]
async fn asset_urls_contain_a_content_hash() {
    let site = Site::start().await;
    let mut visitor = site.visitor();
    let page = visitor.get("/").await.body;
    let assets: Vec<&str> = page.split('"').filter(|text| text.starts_with("/assets/")).collect();
    assert_eq!(assets.len(), 3);
    for asset in assets {
        let response = visitor.get(asset).await;
        assert_eq!(response.status, 200);
        check(asset, &response, false);
    }
}

#[tokio::test]
async fn error_pages_of_signed_in_users_have_their_navigation() {
    let site = Site::start().await;
    let (mut user, _) = site.sign_up_user("a@example.com").await;
    let sign_out = "id=\"sign-out\"";
    for (path, status) in [("/nothing", 404), ("/caches/none", 404), ("/account/password", 405)] {
        let page = user.get(path).await;
        assert_eq!(page.status, status, "{path}");
        assert!(page.body.contains(sign_out) && page.body.contains("a@example.com"), "{path}");
        check(path, &page, false);
        assert!(!site.visitor().get(path).await.body.contains(sign_out), "{path}");
    }
    // Not in answer to a form that may come from another site.
    assert_eq!(user.post_without_token("/account/delete", &[]).await.status, 403);
    assert_eq!(user.get("/robots.txt").await.status, 200);
    assert!(user.get("/favicon.ico").await.location().starts_with("/assets/icon.svg"));
}
