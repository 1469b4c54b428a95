//! `memgate user delete`: the account with all its caches and tokens.

use serde::Serialize;
use store::Store;

use crate::cli::confirmation::Confirmation;
use crate::cli::context::Context;
use crate::cli::lookup::find_user;
use crate::output::CliError;

pub(super) const EXAMPLES: &str = "\
Examples:
  memgate user delete ada@example.org --dry-run
  memgate user delete ada@example.org --yes

The contents of the caches are lost, and connections close within a second. Entries of the audit log stay.";

/// Delete a user with all tokens and all caches
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// The user's e-mail address
    email: String,
    #[command(flatten)]
    confirmation: Confirmation,
}

#[derive(Debug, Serialize)]
struct Deleted {
    email: String,
    id: String,
    /// The names of the caches.
    caches: Vec<String>,
    /// How many tokens were active.
    tokens: usize,
    deleted: bool,
}

impl Delete {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let store = &context.store;
        let mut deleted = Deleted::find(store, &self.email).await?;
        self.confirmation.require(&format!("Delete {}?", deleted.what()))?;
        if !self.confirmation.is_dry_run() {
            store.delete_user(&deleted.id).await?;
            deleted.deleted = true;
        }
        context.print(&deleted, || {
            let verb = if deleted.deleted { "deleted" } else { "would delete" };
            format!("{verb} {}", deleted.what())
        })
    }
}

impl Deleted {
    async fn find(store: &Store, email: &str) -> Result<Self, CliError> {
        let user = find_user(store, email).await?;
        let caches = store.caches_of(&user.id).await?.into_iter().map(|cache| cache.name).collect();
        let tokens = store.tokens_of_user(&user.id).await?;
        let tokens = tokens.iter().filter(|token| token.is_active(store::now())).count();
        Ok(Self { email: user.email, id: user.id, caches, tokens, deleted: false })
    }

    fn what(&self) -> String {
        let caches = if self.caches.is_empty() { "none".to_owned() } else { self.caches.join(", ") };
        format!("{} (caches: {caches}; active tokens: {})", self.email, self.tokens)
    }
}
