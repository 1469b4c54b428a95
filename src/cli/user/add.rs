//! `memgate user add`: what signing up in the web UI does, from a shell.

use std::time::Duration;

use serde::Serialize;
use store::{Instance, InstanceState, NewToken, NewUser, Store, TokenKey, User};
use webui::account;

use super::password::{as_failure, hash_of_stdin};
use crate::cli::token::Credentials;
use crate::output::table;
use crate::output::{self, CliError};
use crate::settings::Settings;

pub(super) const EXAMPLES: &str = "\
Examples:
  memgate user add ada@example.org --json
  echo 'correct horse battery' | memgate user add ada@example.org --password-stdin

Without --password-stdin the account can't sign in to the web UI; its token works all the same.
Exit status 3: the account is made and its token is good, but its cache isn't running yet.";

const WAIT: Duration = Duration::from_secs(30);
const FIRST_TOKEN: &str = "first";

/// Make an account with a cache and a first token
#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// The account's e-mail address
    email: String,
    /// What its cache may use
    #[arg(long, value_name = "PLAN", default_value = "default")]
    plan: String,
    /// Mark as an administrator (shown in lists; nothing depends on it yet)
    #[arg(long)]
    admin: bool,
    /// Read the password for the web UI from stdin (its last line end is left out)
    #[arg(long)]
    password_stdin: bool,
    /// Don't wait for the cache to run
    #[arg(long)]
    no_wait: bool,
}

/// What the new user needs, and how the cache is.
#[derive(Debug, Serialize)]
struct Added {
    #[serde(flatten)]
    credentials: Credentials,
    plan: String,
    state: InstanceState,
}

impl Add {
    pub(super) async fn run(
        self,
        store: &Store,
        key: &TokenKey,
        settings: &Settings,
        json: bool,
    ) -> Result<(), CliError> {
        let email = account::parse_email(&self.email).map_err(as_failure)?;
        let hash = if self.password_stdin { Some(hash_of_stdin()?) } else { None };
        let new =
            NewUser { email: &email, password_hash: hash.as_deref(), plan: &self.plan, is_admin: self.admin };
        let token = NewToken::generate(key, FIRST_TOKEN);
        let user = store.sign_up(&new, &token).await?;
        // Whatever comes of it, the token is good, and is shown now or never.
        let waited = if self.no_wait { Ok(None) } else { wait_for_cache(store, &user).await };
        let instance = waited.as_ref().ok().and_then(Option::as_ref);
        let state = instance.map_or(InstanceState::Pending, Instance::state);
        let credentials = Credentials::of(&user.email, &settings.webui.endpoint, &token.token);
        let added = Added { credentials, plan: user.plan.clone(), state };
        output::print(json, &added, || describe(&added))?;
        if self.no_wait || state == InstanceState::Running {
            return Ok(());
        }
        Err(unfinished(&user.email, waited))
    }
}

/// Follows the store until the cache runs or has failed, 30 s at most.
async fn wait_for_cache(store: &Store, user: &User) -> Result<Option<Instance>, CliError> {
    eprintln!("waiting for the cache of {} ...", user.email);
    let mut feed = store.feed().await?;
    let settled = async {
        loop {
            let instance = store.instance_of(&user.id).await?;
            let state = instance.as_ref().map(Instance::state);
            if matches!(state, Some(InstanceState::Running | InstanceState::Failed)) {
                return Ok::<_, CliError>(instance);
            }
            feed.next().await?;
        }
    };
    match tokio::time::timeout(WAIT, settled).await {
        Ok(settled) => settled,
        Err(_) => Ok(store.instance_of(&user.id).await?),
    }
}

fn unfinished(email: &str, waited: Result<Option<Instance>, CliError>) -> CliError {
    let fix = format!("the account is made; see `memgate status` and `memgate instance show {email}`");
    let instance = match waited {
        Ok(instance) => instance,
        Err(error) => {
            let what = format!("the cache is still being made, and can't be waited for ({error})");
            return CliError::pending(what, fix);
        }
    };
    let message = instance.as_ref().and_then(|instance| instance.route.as_ref()?.message.clone());
    let why = message.map_or_else(String::new, |message| format!(" ({message})"));
    match instance.as_ref().map(Instance::state) {
        Some(InstanceState::Failed) => CliError::new(format!("the cache can't be started{why}"), fix),
        _ => CliError::pending(format!("the cache isn't running after {} s{why}", WAIT.as_secs()), fix),
    }
}

fn describe(added: &Added) -> String {
    let mut pairs = added.credentials.pairs().to_vec();
    pairs.push(("cache", added.state.as_str().to_owned()));
    format!("{}\nKeep the token now: it is not shown again.\n", table::pairs(&pairs))
}

#[cfg(test)]
mod tests {
    use store::Database;

    use super::*;

    #[tokio::test]
    async fn a_store_that_goes_away_means_not_yet() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&Database::Sqlite(folder.path().join("memgate.db"))).await.unwrap();
        let key = TokenKey::load_or_create(&folder.path().join("token.key")).unwrap();
        let new = NewUser { email: "ada@example.org", password_hash: None, plan: "default", is_admin: false };
        let user = store.sign_up(&new, &NewToken::generate(&key, FIRST_TOKEN)).await.unwrap();
        store.close().await;
        let said = unfinished(&user.email, wait_for_cache(&store, &user).await);
        let words = said.to_string();
        assert!(
            words.starts_with("the cache is still being made") && words.contains("the account is made"),
            "{words}"
        );
        assert_eq!(format!("{:?}", said.report(false)), format!("{:?}", std::process::ExitCode::from(3)));
    }
}
