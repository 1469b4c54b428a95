//! The page Connect: one snippet at a time, by its address and by what the browser looked at last.

use std::collections::BTreeSet;

use crate::harness::{Response, Site, Visitor};

/// A page stays smaller, in bytes.
const PAGE_MAX: usize = 100 * 1024;

async fn site(has_tls: bool) -> Site {
    Site::start_with(|config| config.ca_certificate = has_tls.then(|| "ca.pem".into())).await
}

async fn connect(visitor: &mut Visitor, query: &str) -> Response {
    let page = visitor.get(&format!("/caches/{{cache}}/connect{query}")).await;
    assert_eq!(page.status, 200, "{query}");
    page
}

/// The snippets to which a page links.
fn links(page: &Response) -> BTreeSet<String> {
    let found = page.body.split("/connect?with=").skip(1);
    found.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

/// All snippets: those to which the pages of all languages and frameworks link.
async fn all(visitor: &mut Visitor) -> BTreeSet<String> {
    let mut found = links(&connect(visitor, "").await);
    for id in found.clone() {
        found.extend(links(&connect(visitor, &format!("?with={id}")).await));
    }
    found
}

#[tokio::test]
async fn each_snippet_has_an_address() {
    for has_tls in [true, false] {
        let site = site(has_tls).await;
        let (mut visitor, _) = site.sign_up_user("a@example.com").await;
        let ids = all(&mut visitor).await;
        assert!(ids.len() > 20, "{ids:?}");
        for id in &ids {
            let page = connect(&mut visitor, &format!("?with={id}")).await;
            assert!(page.body.len() < PAGE_MAX, "{id}: {} bytes", page.body.len());
            let ways: Vec<_> = ["tls", "certificate", "stunnel", "stunnel-certificate", "plain"]
                .iter()
                .filter(|way| page.text(&format!("{way}-{id}")).is_some())
                .collect();
            assert!(if has_tls { *ways[0] != "plain" } else { ways == [&"plain"] }, "{id}: {ways:?}");
            assert_eq!(page.body.contains("ca.pem"), has_tls, "{id}");
            let current =
                page.body.split("aria-current=").nth(2).unwrap_or_else(|| panic!("{id} isn't marked"));
            assert!(current.starts_with("\"true\"") || current.starts_with("\"page\""), "{id}");
            let others = ids.iter().filter(|other| *other != id);
            assert!(others.into_iter().all(|other| page.text(&format!("plain-{other}")).is_none()), "{id}");
        }
    }
}

#[tokio::test]
async fn the_browser_remembers_the_choice() {
    let site = site(true).await;
    let (mut visitor, _) = site.sign_up_user("a@example.com").await;
    assert!(connect(&mut visitor, "").await.text("tls-shell-printf").is_some());
    assert!(connect(&mut visitor, "?with=python-emcache").await.text("tls-python-emcache").is_some());
    assert!(connect(&mut visitor, "").await.text("tls-python-emcache").is_some());
    assert_eq!(visitor.cookies.get("memgate-snippet").map(String::as_str), Some("python-emcache"));
    // What isn't the id of a snippet is shown nowhere and kept nowhere.
    for wrong in ["?with=python", "?with=%22%3Cb%3E", "?with=a&with=b", "?with="] {
        let page = connect(&mut visitor, wrong).await;
        assert!(page.text("tls-python-emcache").is_some() && !page.body.contains("<b>"), "{wrong}");
    }
    assert_eq!(visitor.cookies.get("memgate-snippet").map(String::as_str), Some("python-emcache"));
    visitor.cookies.insert("memgate-snippet".into(), "no-such".into());
    assert!(connect(&mut visitor, "").await.text("tls-shell-printf").is_some());
}

#[tokio::test]
async fn a_snippet_that_needs_tls_is_not_shown_where_there_is_none() {
    let site = site(false).await;
    let (mut visitor, _) = site.sign_up_user("a@example.com").await;
    let page = connect(&mut visitor, "?with=ruby-dalli5").await;
    assert!(page.text("plain-shell-printf").is_some() && !visitor.cookies.contains_key("memgate-snippet"));
    assert!(
        !all(&mut visitor)
            .await
            .iter()
            .any(|id| ["ruby-dalli5", "go-gomemcache", "rails-dalli5"].contains(&id.as_str()))
    );
}

#[tokio::test]
async fn libraries_without_tls_get_a_configuration_of_stunnel() {
    let site = site(true).await;
    let (mut visitor, _) = site.sign_up_user("a@example.com").await;
    for id in ["php-memcached", "go-mc", "node-memjs", "java-spymemcached", "laravel-memcached"] {
        let page = connect(&mut visitor, &format!("?with={id}")).await;
        let stunnel = page.text(&format!("stunnel-conf-{id}")).unwrap();
        for line in [
            "client = yes",
            "connect = cache.example.com:11999",
            "verifyChain = yes",
            "checkHost = cache.example.com",
        ] {
            assert!(stunnel.lines().any(|it| it == line), "{id}: {stunnel}");
        }
        let code = page.text(&format!("stunnel-{id}")).unwrap();
        assert!(code.contains("127.0.0.1") && code.contains("11210"), "{id}: {code}");
    }
}

#[tokio::test]
async fn libraries_that_cannot_log_in_connect_through_stunnel_where_there_is_tls() {
    for has_tls in [true, false] {
        let site = site(has_tls).await;
        let (mut visitor, _) = site.sign_up_user("a@example.com").await;
        for (id, library, instead, own) in [
            ("python-bmemcached", "python-memcached", "python-binary-memcached", "python-python-memcached"),
            ("node-memjs", "npm’s memcached", "memjs", "node-memcached"),
        ] {
            let page = connect(&mut visitor, &format!("?with={id}")).await;
            let sentence = format!("{library} has neither a login nor TLS: use {instead} instead");
            let (_, rest) = page.body.split_once(&sentence).unwrap_or_else(|| panic!("{id}"));
            assert_eq!(rest.starts_with(", or <a href="), has_tls, "{id}");
            assert_eq!(links(&page).contains(own), has_tls, "{id}");
            let page = connect(&mut visitor, &format!("?with={own}")).await;
            let code = page.text(&format!("stunnel-certificate-{own}"));
            assert_eq!(code.is_some(), has_tls, "{own}");
            let Some(code) = code else { continue };
            assert!(code.contains("127.0.0.1:11210"), "{own}: {code}");
            let stunnel = page.text(&format!("stunnel-certificate-conf-{own}")).unwrap();
            for line in [
                "connect = cache.example.com:11999",
                "verifyChain = yes",
                "cert = client.pem",
                "key = client.key",
            ] {
                assert!(stunnel.lines().any(|it| it == line), "{own}: {stunnel}");
            }
            assert!(page.body.contains("every program that connects to its port"), "{own}");
        }
    }
}

#[tokio::test]
async fn the_page_of_a_new_token_has_each_language_with_the_token_filled_in() {
    let site = site(true).await;
    let (mut visitor, created) = site.sign_up_user("a@example.com").await;
    let password = created.text("token-password").unwrap();
    for way in ["tls-shell-printf", "tls-python-bmemcached", "stunnel-php-memcached", "tls-django-bmemcached"]
    {
        assert!(created.text(way).unwrap().contains(password), "{way}");
    }
    assert!(created.body.len() < PAGE_MAX, "{} bytes", created.body.len());
    assert_eq!(created.body.matches(" checked>").count(), 1);
    let connect = connect(&mut visitor, "").await;
    assert!(!connect.body.contains(password) && connect.body.contains("YOUR_PASSWORD"));
}
