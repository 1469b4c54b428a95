//! Passwords in the address of a PostgreSQL database.

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
