//! Users and passwords in the address of a PostgreSQL database.

use url::{Url, form_urlencoded};

/// Hides both passwords of `postgres://user:password@host/db?password=password`.
pub(crate) fn redact(url: &str) -> String {
    let url = redact_query(url);
    let Some((scheme, rest)) = url.split_once("://") else { return url };
    let Some((login, host)) = rest.rsplit_once('@') else { return url };
    match login.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:***@{host}"),
        None => url,
    }
}

/// Whether the address contains a password.
pub(crate) fn has_password(url: &str) -> bool {
    redact(url) != url
}

/// User and password of an address that has both before its host, where [`with_login`] puts them.
pub(crate) fn login(url: &str) -> Option<(String, String)> {
    let url = Url::parse(url).ok()?;
    // Of our own users neither needs an escape, and others are none of ours.
    let is_plain = |text: &str| !text.is_empty() && !text.contains('%');
    let (user, password) = (url.username(), url.password()?);
    (is_plain(user) && is_plain(password)).then(|| (user.to_owned(), password.to_owned()))
}

/// The same database for another user; `None` if the address is malformed.
pub(crate) fn with_login(url: &str, user: &str, password: &str) -> Option<String> {
    let mut url = Url::parse(url).ok()?;
    url.set_username(user).ok()?;
    url.set_password(Some(password)).ok()?;
    keep_query(&mut url, |name| !matches!(name, "user" | "password"));
    Some(url.into())
}

/// Removes the parameters that aren't kept.
fn keep_query(url: &mut Url, is_kept: impl Fn(&str) -> bool) {
    let pairs = url.query_pairs().filter(|(name, _)| is_kept(name));
    let kept: Vec<(String, String)> = pairs.map(|(name, value)| (name.into(), value.into())).collect();
    url.set_query(None);
    if !kept.is_empty() {
        url.query_pairs_mut().extend_pairs(kept);
    }
}

/// The same address without its password, and the password; `None` if the address is malformed.
pub(crate) fn without_password(url: &str) -> Option<(String, Option<String>)> {
    let mut url = Url::parse(url).ok()?;
    let decode = |text: &str| {
        // As a value of a query, but for `+`, which is a plain character before the host.
        let pair = format!("p={}", text.replace('+', "%2B").replace('&', "%26"));
        form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned())
    };
    let before_host = url.password().and_then(decode);
    let of_query = url.query_pairs().filter(|(name, _)| name == "password").last();
    let password = of_query.map(|(_, value)| value.into_owned()).or(before_host);
    url.set_password(None).ok()?;
    keep_query(&mut url, |name| name != "password");
    Some((url.into(), password))
}

/// Hides the value of `?password=`.
fn redact_query(url: &str) -> String {
    let Some((address, query)) = url.split_once('?') else { return url.to_owned() };
    let hidden = |pair: &str| match pair.split_once('=') {
        Some(("password", _)) => "password=***".to_owned(),
        _ => pair.to_owned(),
    };
    let query: Vec<String> = query.split('&').map(hidden).collect();
    format!("{address}?{}", query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_user_gets_the_same_database() {
        for (url, expected) in [
            ("postgres://a:b@h:1/d", "postgres://me:secret@h:1/d"),
            ("postgres://h/d", "postgres://me:secret@h/d"),
            ("postgresql://a@[::1]/d?sslmode=require", "postgresql://me:secret@[::1]/d?sslmode=require"),
            (
                "postgres://h/d?user=a&password=b&host=%2Frun%2Fpg",
                "postgres://me:secret@h/d?host=%2Frun%2Fpg",
            ),
        ] {
            let url = with_login(url, "me", "secret").unwrap();
            assert_eq!(url, expected);
            assert_eq!(login(&url), Some(("me".to_owned(), "secret".to_owned())));
        }
        assert_eq!(with_login("h/d", "me", "secret"), None);
        for without in ["postgres://h/d", "postgres://a@h/d", "postgres://a%40:b@h/d", "h"] {
            assert_eq!(login(without), None, "{without}");
        }
    }

    #[test]
    fn password_is_taken_out_of_the_address() {
        for (url, bare, password) in [
            ("postgres://a:b%40%2Bc+d@h/d", "postgres://a@h/d", Some("b@+c+d")),
            ("postgres://a@h/d", "postgres://a@h/d", None),
            ("postgres://h/d?password=x%26y&sslmode=require", "postgres://h/d?sslmode=require", Some("x&y")),
        ] {
            assert_eq!(without_password(url), Some((bare.to_owned(), password.map(str::to_owned))));
        }
        assert_eq!(without_password("d"), None);
    }

    #[test]
    fn passwords_in_urls_are_hidden() {
        for (url, shown) in [
            ("postgres://a:b@c@h/d", "postgres://a:***@h/d"),
            ("postgres://a@h/d", "postgres://a@h/d"),
            ("postgres://a@h/d?password=b", "postgres://a@h/d?password=***"),
            (
                "postgres://h:1/d?user=a&password=b=c@d&sslmode=require",
                "postgres://h:1/d?user=a&password=***&sslmode=require",
            ),
            ("postgres://a:b@h/d?password=c&password=d", "postgres://a:***@h/d?password=***&password=***"),
            ("postgres://a:b?c@h/d", "postgres://a:***@h/d"),
        ] {
            assert_eq!(redact(url), shown);
            assert_eq!(has_password(url), shown.contains("***"));
        }
    }
}
