//! `memgate config`: what the settings come to.

use serde_json::Value;

use crate::global_args::GlobalArgs;
use crate::output::table;
use crate::output::{self, CliError};
use crate::settings::{Settings, flat};

/// Settings
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read file, environment and --set as every command does, and print what they come to
    Check,
}

impl ConfigCommand {
    pub(crate) fn run(&self, global: &GlobalArgs) -> Result<(), CliError> {
        let Self::Check = self;
        let mut settings = Settings::load(global)?;
        settings.store.url = settings.store.url.as_deref().map(without_password);
        let keys = flat(&settings);
        output::print(global.json, &settings, || {
            let shown = |value: &Value| match value {
                Value::Null => String::new(),
                value => value.to_string(),
            };
            let pairs: Vec<_> = keys.iter().map(|(key, value)| (key.as_str(), shown(value))).collect();
            format!("{}\nthe settings can be used\n", table::pairs(&pairs))
        })
    }
}

/// `postgres://user:password@host/db?password=password` with the passwords hidden.
fn without_password(url: &str) -> String {
    let url = without_parameter(url);
    let Some((scheme, rest)) = url.split_once("://") else { return url };
    let Some((login, host)) = rest.rsplit_once('@') else { return url };
    match login.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:***@{host}"),
        None => url,
    }
}

/// With the value of `?password=` hidden.
fn without_parameter(url: &str) -> String {
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
    fn passwords_are_hidden() {
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
            assert_eq!(without_password(url), shown);
        }
    }
}
