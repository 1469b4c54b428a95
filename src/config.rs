//! `memgate config`: what the settings come to.

use serde_json::Value;

use crate::args::Global;
use crate::report::{self, Failure};
use crate::settings::{Settings, flat};
use crate::table;

/// Settings
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read file, environment and --set as every command does, and print what they come to
    Check,
}

impl ConfigCommand {
    pub(crate) fn run(&self, global: &Global) -> Result<(), Failure> {
        let Self::Check = self;
        let mut settings = Settings::load(global)?;
        settings.store.url = settings.store.url.as_deref().map(without_password);
        let keys = flat(&settings);
        report::print(global.json, &settings, || {
            let shown = |value: &Value| match value {
                Value::Null => String::new(),
                value => value.to_string(),
            };
            let pairs: Vec<_> = keys.iter().map(|(key, value)| (key.as_str(), shown(value))).collect();
            format!("{}\nthe settings can be used\n", table::pairs(&pairs))
        })
    }
}

/// `postgres://user:password@host/db` with the password hidden.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let Some((login, host)) = rest.rsplit_once('@') else { return url.to_owned() };
    match login.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:***@{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden() {
        assert_eq!(without_password("postgres://a:b@c@h/d"), "postgres://a:***@h/d");
        assert_eq!(without_password("postgres://a@h/d"), "postgres://a@h/d");
    }
}
