//! `memgate config`: checks the settings.

use serde_json::Value;

use crate::global_args::GlobalArgs;
use crate::output::table;
use crate::output::{self, CliError};
use crate::settings::{Settings, flat};

/// Check settings
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the effective configuration (file, environment and --set merged)
    Check,
}

impl ConfigCommand {
    pub(crate) fn run(&self, global: &GlobalArgs) -> Result<(), CliError> {
        let Self::Check = self;
        let mut settings = Settings::load(global)?;
        settings.store.url = settings.store.url.as_deref().map(redact_url);
        let keys = flat(&settings);
        for warning in warnings(&settings) {
            eprintln!("warning: {warning}");
        }
        output::print(global.json, &settings, || {
            let shown = |value: &Value| match value {
                Value::Null => String::new(),
                value => value.to_string(),
            };
            let pairs: Vec<_> = keys.iter().map(|(key, value)| (key.as_str(), shown(value))).collect();
            format!("{}\nthe settings are valid\n", table::pairs(&pairs))
        })
    }
}

/// What is valid, and not what everybody wants.
fn warnings(settings: &Settings) -> Vec<&'static str> {
    let mut warnings = Vec::new();
    if settings.proxy.scram {
        warnings.push(
            "proxy.scram locks out libmemcached 1.0.x, which pylibmc's wheel contains: it chooses SCRAM and can't finish it. \
             Set it only if no such clients are in use",
        );
    }
    warnings
}

/// Hides both passwords of `postgres://user:password@host/db?password=password`.
fn redact_url(url: &str) -> String {
    let url = redact_query(url);
    let Some((scheme, rest)) = url.split_once("://") else { return url };
    let Some((login, host)) = rest.rsplit_once('@') else { return url };
    match login.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:***@{host}"),
        None => url,
    }
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
    fn scram_is_warned_about() {
        let mut settings = Settings::default();
        assert!(warnings(&settings).is_empty());
        settings.proxy.scram = true;
        assert!(warnings(&settings)[0].contains("libmemcached 1.0.x"));
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
            assert_eq!(redact_url(url), shown);
        }
    }
}
