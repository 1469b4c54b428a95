//! `memgate user reset-password`, and passwords from stdin.

use std::io::Read as _;

use identity::password::{self, Password};
use serde::Serialize;
use store::{MailKind, NewPassword};

use super::mail;
use crate::cli::context::Context;
use crate::cli::lookup::find_user;
use crate::output::CliError;
use crate::output::table;

pub(super) const EXAMPLES: &str = "\
Examples:
  memgate user reset-password ada@example.org --json | jq -r .password
  echo 'correct horse battery' | memgate user reset-password ada@example.org --password-stdin --revoke-tokens

The user is signed out of the web UI. Applications stay connected unless --revoke-tokens is given.";

/// Bytes. Far more than any password may have.
const INPUT_MAX: u64 = 4096;

/// Set a new password for the web UI
#[derive(Debug, clap::Args)]
pub(crate) struct ResetPassword {
    /// The user's e-mail address
    email: String,
    /// Read the password from stdin, without a final line break; otherwise one is generated and shown
    #[arg(long)]
    password_stdin: bool,
    /// Also revoke all of the user's tokens and API keys, which closes the connections of all applications
    #[arg(long)]
    revoke_tokens: bool,
}

/// No `Debug`: that would print the password.
#[derive(Serialize)]
struct NewPasswordView {
    email: String,
    /// The generated password, shown only once.
    password: Option<String>,
    tokens_revoked: usize,
}

impl ResetPassword {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let store = &context.store;
        let user = find_user(store, &self.email).await?;
        let generated = (!self.password_stdin).then(password::generate);
        let hash = match &generated {
            Some(generated) => hash(generated)?,
            None => hash_from_stdin()?,
        };
        let new = NewPassword { hash: &hash, replaces: None, revoke_tokens: self.revoke_tokens };
        let tokens_revoked = store.change_password(&user.id, &new).await?;
        let password = generated.map(|generated| generated.reveal().to_owned());
        let changed = NewPasswordView { email: user.email.clone(), password, tokens_revoked };
        context.print(&changed, || describe(&changed))?;
        mail::tell(context, &user, MailKind::PasswordChanged).await
    }
}

fn describe(changed: &NewPasswordView) -> String {
    let mut pairs = vec![("email", changed.email.clone())];
    pairs.extend(changed.password.clone().map(|password| ("password", password)));
    pairs.push(("tokens revoked", changed.tokens_revoked.to_string()));
    let note =
        if changed.password.is_some() { "Save the password now: it is not shown again.\n" } else { "" };
    format!("{}\n{note}", table::pairs(&pairs))
}

/// Reads a password from stdin and hashes it.
///
/// # Errors
/// If it isn't UTF-8, or too short or long.
pub(super) fn hash_from_stdin() -> Result<String, CliError> {
    let mut password = String::new();
    std::io::stdin()
        .take(INPUT_MAX)
        .read_to_string(&mut password)
        .map_err(|error| CliError::new(format!("can't read the password ({error})"), "send it as UTF-8"))?;
    let password = password.strip_suffix('\n').unwrap_or(&password);
    let password = password.strip_suffix('\r').unwrap_or(password);
    hash(&Password::parse(password.to_owned())?)
}

fn hash(password: &Password) -> Result<String, CliError> {
    password::hash(password, &mut password::HashMemory::default()).map_err(|error| {
        let what = format!("failed to hash the password ({error})");
        CliError::new(what, "check that the system has random numbers")
    })
}
