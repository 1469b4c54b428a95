//! `memgate user add`: signs a user up, like the web UI does.

use identity::Email;
use serde::Serialize;
use store::{CacheName, InstanceState, NewToken, NewUser, SignUpRoom};

use super::password::hash_from_stdin;
use crate::cli::context::Context;
use crate::cli::lookup::plan_error;
use crate::cli::readiness::{self, Readiness};
use crate::cli::token::Credentials;
use crate::output::CliError;
use crate::output::table;

pub(super) const EXAMPLES: &str = "\
Examples:
  memgate user add ada@example.org --json
  echo 'correct horse battery' | memgate user add ada@example.org --password-stdin

Without --password-stdin the user can't sign in to the web UI, but the token works.
Exit status 3: user and token are created, but the cache isn't running yet.";

/// Create a user with a cache and a first token
#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// The user's e-mail address
    email: String,
    /// The user's plan, which the cache gets
    #[arg(long, value_name = "PLAN", default_value = "default")]
    plan: String,
    /// Mark the user as an administrator who may open the pages under /admin of the web UI
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
#[derive(Serialize)]
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
        let token = NewToken::generate(&context.token_key().await?, identity::FIRST_TOKEN_NAME);
        let room = SignUpRoom { memory_of: Some(&self.plan), ..SignUpRoom::default() };
        let user = store.sign_up_within(&new, &token, &room).await;
        let user = user.map_err(|error| plan_error(error, &self.plan))?;
        // The token exists now and must be shown, whatever happens to the cache.
        let cache = store.first_cache_of(&user.id).await;
        let readiness = match &cache {
            Ok(Some(cache)) if !self.no_wait => Some(readiness::wait(store, cache, &user.email).await),
            _ => None,
        };
        let cache_name = cache.ok().flatten().map_or_else(|| CacheName::default().to_string(), |it| it.name);
        let credentials = Credentials::new(&user.email, &cache_name, context.endpoint(), &token.token);
        let state = readiness.as_ref().map_or(InstanceState::Pending, Readiness::state);
        let added = Added { credentials, plan: user.plan, state };
        context.print(&added, || describe(&added))?;
        readiness.map_or(Ok(()), |readiness| readiness.into_result("the user is created"))
    }
}

fn describe(added: &Added) -> String {
    let mut pairs = added.credentials.pairs().to_vec();
    pairs.push(("state", added.state.as_str().to_owned()));
    format!("{}\nSave the token now: it is not shown again.\n", table::pairs(&pairs))
}
