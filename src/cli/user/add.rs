//! `memgate user add`: signs a user up, like the web UI does.

use std::time::Duration;

use identity::Email;
use serde::Serialize;
use store::{Instance, InstanceState, NewToken, NewUser, Store, User};

use super::password::hash_from_stdin;
use crate::cli::context::Context;
use crate::cli::token::Credentials;
use crate::output::CliError;
use crate::output::table;

pub(super) const EXAMPLES: &str = "\
Examples:
  memgate user add ada@example.org --json
  echo 'correct horse battery' | memgate user add ada@example.org --password-stdin

Without --password-stdin the user can't sign in to the web UI, but the token works.
Exit status 3: user and token are created, but the cache isn't running yet.";

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_TOKEN_NAME: &str = "first";

/// Create a user with a cache and a first token
#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// The user's e-mail address
    email: String,
    /// The cache's plan
    #[arg(long, value_name = "PLAN", default_value = "default")]
    plan: String,
    /// Mark the user as an administrator (shown in lists; grants nothing yet)
    #[arg(long)]
    admin: bool,
    /// Read the password for the web UI from stdin; a final line break is dropped
    #[arg(long)]
    password_stdin: bool,
    /// Don't wait until the cache is running
    #[arg(long)]
    no_wait: bool,
}

/// The first token, and the cache's state.
#[derive(Debug, Serialize)]
struct Added {
    #[serde(flatten)]
    credentials: Credentials,
    plan: String,
    state: InstanceState,
}

impl Add {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let store = &context.store;
        let email = Email::parse(&self.email)?;
        let hash = if self.password_stdin { Some(hash_from_stdin()?) } else { None };
        let new = NewUser {
            email: email.as_str(),
            password_hash: hash.as_deref(),
            plan: &self.plan,
            is_admin: self.admin,
        };
        let token = NewToken::generate(&context.data_dir.token_key()?, FIRST_TOKEN_NAME);
        let user = store.sign_up(&new, &token).await?;
        // The token exists now and must be shown, whatever happens to the cache.
        let waited = if self.no_wait { Ok(None) } else { wait_for_cache(store, &user).await };
        let instance = waited.as_ref().ok().and_then(Option::as_ref);
        let state = instance.map_or(InstanceState::Pending, Instance::state);
        let credentials = Credentials::new(&user.email, &context.settings.webui.endpoint, &token.token);
        let added = Added { credentials, plan: user.plan.clone(), state };
        context.print(&added, || describe(&added))?;
        if self.no_wait || state == InstanceState::Running {
            return Ok(());
        }
        Err(not_running(&user.email, waited))
    }
}

/// Waits until the cache is running or has failed, but not longer than 30 s.
async fn wait_for_cache(store: &Store, user: &User) -> Result<Option<Instance>, CliError> {
    eprintln!("waiting for the cache of {} ...", user.email);
    let mut feed = store.feed().await?;
    let finished = async {
        loop {
            let instance = store.first_instance_of(&user.id).await?;
            let state = instance.as_ref().map(Instance::state);
            if matches!(state, Some(InstanceState::Running | InstanceState::Failed)) {
                return Ok::<_, CliError>(instance);
            }
            feed.next().await?;
        }
    };
    match tokio::time::timeout(WAIT_TIMEOUT, finished).await {
        Ok(finished) => finished,
        Err(_) => Ok(store.first_instance_of(&user.id).await?),
    }
}

fn not_running(email: &str, waited: Result<Option<Instance>, CliError>) -> CliError {
    let fix = format!("the user is created; see `memgate status` and `memgate instance show {email}`");
    let instance = match waited {
        Ok(instance) => instance,
        Err(error) => {
            let what = format!("the cache is still being created, and its state can't be read ({error})");
            return CliError::pending(what, fix);
        }
    };
    let message = instance.as_ref().and_then(|instance| instance.route.as_ref()?.message.clone());
    let reason = message.map_or_else(String::new, |message| format!(" ({message})"));
    match instance.as_ref().map(Instance::state) {
        Some(InstanceState::Failed) => CliError::new(format!("the cache failed to start{reason}"), fix),
        _ => CliError::pending(
            format!("the cache isn't running after {} s{reason}", WAIT_TIMEOUT.as_secs()),
            fix,
        ),
    }
}

fn describe(added: &Added) -> String {
    let mut pairs = added.credentials.pairs().to_vec();
    pairs.push(("state", added.state.as_str().to_owned()));
    format!("{}\nSave the token now: it is not shown again.\n", table::pairs(&pairs))
}

#[cfg(test)]
mod tests {
    use store::{Database, TokenKey};

    use super::*;

    #[tokio::test]
    async fn store_failure_while_waiting_is_reported_as_pending() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Database::Sqlite(dir.path().join("memgate.db"))).await.unwrap();
        let key = TokenKey::load_or_create(&dir.path().join("token.key")).unwrap();
        let new = NewUser { email: "ada@example.org", password_hash: None, plan: "default", is_admin: false };
        let user = store.sign_up(&new, &NewToken::generate(&key, FIRST_TOKEN_NAME)).await.unwrap();
        store.close().await;
        let error = not_running(&user.email, wait_for_cache(&store, &user).await);
        let text = error.to_string();
        assert!(
            text.starts_with("the cache is still being created") && text.contains("the user is created"),
            "{text}"
        );
        assert_eq!(format!("{:?}", error.report(false)), format!("{:?}", std::process::ExitCode::from(3)));
    }
}
