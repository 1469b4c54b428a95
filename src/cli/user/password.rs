//! `memgate user reset-password`, and where commands get passwords from.

use std::io::Read as _;

use serde::Serialize;
use store::{NewPassword, Store};
use webui::account;

use crate::cli::lookup::find_user;
use crate::output::table;
use crate::output::{self, CliError};

pub(super) const EXAMPLES: &str = "\
Examples:
  memgate user reset-password ada@example.org --json | jq -r .password
  echo 'correct horse battery' | memgate user reset-password ada@example.org --password-stdin --end-all

Whoever is signed in to the web UI is signed out. Applications go on, unless --end-all is given.";

/// Far above the longest password.
const LONGEST_INPUT: u64 = 4096;

/// Give an account another password for the web UI
#[derive(Debug, clap::Args)]
pub(crate) struct Reset {
    /// Whose
    email: String,
    /// Read the password from stdin (its last line end is left out); without this one is made and shown
    #[arg(long)]
    password_stdin: bool,
    /// Revoke all of the user's tokens too: every application is cut off within a second
    #[arg(long)]
    end_all: bool,
}

#[derive(Debug, Serialize)]
struct Changed {
    email: String,
    /// The one that was made: shown this once.
    password: Option<String>,
    tokens_revoked: usize,
}

impl Reset {
    pub(super) async fn run(self, store: &Store, json: bool) -> Result<(), CliError> {
        let user = find_user(store, &self.email).await?;
        let made = (!self.password_stdin).then(account::make_password);
        let hash = match &made {
            Some(password) => account::hash_password(password)?,
            None => hash_of_stdin()?,
        };
        let new = NewPassword { hash: &hash, replaces: None, end_tokens: self.end_all };
        let tokens_revoked = store.change_password(&user.id, &new).await?;
        let changed = Changed { email: user.email, password: made, tokens_revoked };
        output::print(json, &changed, || describe(&changed))
    }
}

fn describe(changed: &Changed) -> String {
    let mut pairs = vec![("email", changed.email.clone())];
    pairs.extend(changed.password.clone().map(|password| ("password", password)));
    pairs.push(("tokens revoked", changed.tokens_revoked.to_string()));
    let keep =
        if changed.password.is_some() { "Keep the password now: it is not shown again.\n" } else { "" };
    format!("{}\n{keep}", table::pairs(&pairs))
}

/// Reads a password from stdin, and hashes it if it may be one.
pub(super) fn hash_of_stdin() -> Result<String, CliError> {
    let mut password = String::new();
    std::io::stdin()
        .take(LONGEST_INPUT)
        .read_to_string(&mut password)
        .map_err(|error| CliError::new(format!("can't read the password ({error})"), "send it as UTF-8"))?;
    let password = password.strip_suffix('\n').unwrap_or(&password);
    let password = password.strip_suffix('\r').unwrap_or(password);
    account::check_password(password).map_err(as_failure)?;
    Ok(account::hash_password(password)?)
}

/// The web UI's sentences: what is wrong, then what to do.
pub(super) fn as_failure(said: &str) -> CliError {
    let (what, fix) = said.split_once(". ").unwrap_or(("that can't be used", said));
    CliError::new(what, fix.trim_end_matches('.'))
}
