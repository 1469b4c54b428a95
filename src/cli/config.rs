//! `memgate config`: checks the settings.

pub(super) mod check;

use serde::Serialize;
use serde_json::Value;

use self::check::Findings;
use crate::data_dir::DataDir;
use crate::database_url;
use crate::global_args::GlobalArgs;
use crate::output::table;
use crate::output::{self, CliError};
use crate::settings::{Settings, flat};

/// Check settings
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the effective configuration (file, environment and --set merged), and check it
    #[command(after_help = "\
Examples:
  memgate config check
  memgate config check --config /etc/memgate/memgate.toml --json

Checks values, addresses, certificates and keys, Docker's socket, that the plan of new accounts exists, and that
provisioner.subnets has the networks of existing caches; says what it couldn't look at. Exit status: 0 if the settings can be used, else 1. docs/settings.md explains each setting.")]
    Check,
}

#[derive(Debug, Serialize)]
struct Checked {
    #[serde(flatten)]
    settings: Settings,
    check: Findings,
}

impl ConfigCommand {
    pub(crate) fn run(&self, global: &GlobalArgs) -> Result<(), CliError> {
        let Self::Check = self;
        let mut settings = Settings::load(global)?;
        let check = Findings::of(&settings, &DataDir::of(global));
        settings.store.url = settings.store.url.as_deref().map(database_url::redact);
        settings.webui.mail.password = settings.webui.mail.password.map(|_| "***".to_owned());
        for warning in &check.warnings {
            eprintln!("warning: {warning}");
        }
        let checked = Checked { settings, check };
        output::print(global.json, &checked, || checked.text())?;
        let problems = checked.check.problems.into_iter();
        CliError::all(problems.map(|problem| (problem.error, problem.fix))).map_or(Ok(()), Err)
    }
}

impl Checked {
    fn text(&self) -> String {
        let shown = |value: &Value| match value {
            Value::Null => String::new(),
            value => value.to_string(),
        };
        let keys = flat(&self.settings);
        let pairs: Vec<_> = keys.iter().map(|(key, value)| (key.as_str(), shown(value))).collect();
        let mut text = format!("{}\n", table::pairs(&pairs));
        for unknown in &self.check.not_checked {
            text.push_str(&format!("not checked: {unknown}\n"));
        }
        if self.check.problems.is_empty() {
            text.push_str("the settings are valid\n");
        }
        text
    }
}
