//! `memgate user update`: another plan, or administrator or not.

use serde::Serialize;
use store::{StoreError, UserChange};

use super::UserView;
use crate::cli::context::Context;
use crate::cli::lookup::{find_user, plan_error};
use crate::output::CliError;

pub(super) const EXAMPLES: &str = "\
Examples:
  memgate user update ada@example.org --plan small
  memgate user update ada@example.org --admin yes

The user's caches that have the former plan get the new one, and so do caches that are created later. The new rates
(operations and bytes a second) apply within a second. Caches get the new memory without a restart; a smaller one keeps
the items that fit. Those of a warm plan restart: they keep their contents if the new plan is warm and has more memory;
any other memory empties them, which needs --force. Connections and item size of an existing cache stay: to change them,
delete the cache and create it again.";

/// Change a user's plan
#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    /// The user's e-mail address
    email: String,
    /// The new plan, as `memgate plan list` shows it
    #[arg(long, value_name = "PLAN")]
    plan: Option<String>,
    /// Also empty warm caches, which keep nothing with less memory, or if the new plan isn't warm
    #[arg(long, requires = "plan")]
    force: bool,
    /// Mark the user as an administrator who may open the pages under /admin of the web UI
    #[arg(long, value_name = "yes|no", value_parser = parse_yes_or_no)]
    admin: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Updated {
    #[serde(flatten)]
    user: UserView,
    /// Names of the user's caches that keep another memory, item size or number of connections than the plan says.
    keep_their_size: Vec<String>,
}

impl Update {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let store = &context.store;
        if self.plan.is_none() && self.admin.is_none() {
            return Err(CliError::usage("nothing to update", "name --plan or --admin"));
        }
        let user = find_user(store, &self.email).await?;
        let plan = self.plan.as_deref();
        let change = UserChange { plan, is_admin: self.admin, may_empty: self.force };
        let updated = store.update_user(&user.id, &change).await;
        updated.map_err(|error| update_error(error, plan.unwrap_or_default()))?;
        let user = find_user(store, &self.email).await?;
        let of_other_size = store.caches_of_other_size(&user.plan).await?;
        let caches = store.caches_of(&user.id).await?.into_iter();
        let keep_their_size =
            caches.filter(|cache| of_other_size.contains(&cache.id)).map(|cache| cache.name);
        let updated = Updated {
            keep_their_size: keep_their_size.collect(),
            user: UserView::read(context, user).await?,
        };
        context.print(&updated, || updated.text())
    }
}

impl Updated {
    fn text(&self) -> String {
        let mut text = self.user.text();
        for cache in &self.keep_their_size {
            text.push_str(&format!(
                "\nCache {cache} differs from its plan: connections and item size stay until it is deleted and created \
                 again, and a memory that its items don't fit into."
            ));
        }
        text
    }
}

fn update_error(error: StoreError, plan: &str) -> CliError {
    match error {
        StoreError::PlanEmpties { caches } => CliError::new(
            format!("the plan {plan} empties the user's warm caches: {caches} of them"),
            "empty them with --force, or choose a warm plan with more memory",
        ),
        other => plan_error(other, plan),
    }
}

fn parse_yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("use yes or no".to_owned()),
    }
}
