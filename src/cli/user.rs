//! `memgate user`: manages users.

mod add;
mod delete;
mod invite;
mod mail;
mod password;
mod second_factor;
mod update;

use serde::Serialize;
use store::{TokenRow, User, UserState};

use super::cache::CacheView;
use super::context::{self, Context};
use super::lookup::find_user;
use super::token;
use crate::global_args::GlobalArgs;
use crate::output::CliError;
use crate::output::table::{self, table};
use crate::output::time;

/// Manage users
#[derive(Debug, clap::Subcommand)]
pub(crate) enum UserCommand {
    /// Create a user with a cache and a first token, and wait until the cache is running
    #[command(after_help = add::EXAMPLES)]
    Add(add::Add),
    /// Make a link with which somebody creates an account, and send it if there is a mail server
    #[command(after_help = invite::EXAMPLES)]
    Invite(invite::Invite),
    /// List all users, sorted by e-mail address
    #[command(after_help = "\
Examples:
  memgate user list
  memgate user list --json | jq -r '.users[].email'")]
    List,
    /// Show a user with all caches and tokens
    #[command(after_help = "\
Example:
  memgate user show ada@example.org")]
    Show {
        /// The user's e-mail address
        email: String,
    },
    /// Change a user's plan, or mark the user as an administrator
    #[command(after_help = update::EXAMPLES)]
    Update(update::Update),
    /// Suspend a user: logins are denied, connections are closed, and all caches are stopped, which empties them
    #[command(after_help = "\
Example:
  memgate user suspend ada@example.org")]
    Suspend {
        /// The user's e-mail address
        email: String,
    },
    /// Resume a suspended user
    #[command(after_help = "\
Example:
  memgate user resume ada@example.org")]
    Resume {
        /// The user's e-mail address
        email: String,
    },
    /// Delete a user with all tokens and all caches
    #[command(after_help = delete::EXAMPLES)]
    Delete(delete::Delete),
    /// Set a new password for the web UI, and end the user's web sessions
    #[command(after_help = password::EXAMPLES)]
    ResetPassword(password::ResetPassword),
    /// Switch a user's second factor off, if the device and the recovery codes are lost
    #[command(after_help = second_factor::EXAMPLES)]
    ResetSecondFactor(second_factor::ResetSecondFactor),
}

#[derive(Debug, Serialize)]
struct UserList {
    users: Vec<User>,
}

#[derive(Debug, Serialize)]
struct UserView {
    #[serde(flatten)]
    user: User,
    caches: Vec<CacheView>,
    tokens: Vec<TokenRow>,
}

impl UserCommand {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        context::with_store(global, async |context: &Context| {
            let store = &context.store;
            match self {
                Self::Add(add) => add.run(context).await,
                Self::Invite(invite) => invite.run(context).await,
                Self::List => {
                    let list = UserList { users: store.users().await? };
                    context.print(&list, || rows(&list.users))
                }
                Self::Show { email } => {
                    let view = UserView::read(context, find_user(store, &email).await?).await?;
                    context.print(&view, || view.text())
                }
                Self::Suspend { email } => set_state(context, &email, UserState::Suspended).await,
                Self::Resume { email } => set_state(context, &email, UserState::Active).await,
                Self::Update(update) => update.run(context).await,
                Self::Delete(delete) => delete.run(context).await,
                Self::ResetPassword(reset) => reset.run(context).await,
                Self::ResetSecondFactor(reset) => reset.run(context).await,
            }
        })
    }
}

async fn set_state(context: &Context, email: &str, state: UserState) -> Result<(), CliError> {
    let store = &context.store;
    let user = find_user(store, email).await?;
    store.set_user_state(&user.id, state).await?;
    let view = UserView::read(context, User { state, ..user }).await?;
    context.print(&view, || view.text())
}

impl UserView {
    async fn read(context: &Context, user: User) -> Result<Self, CliError> {
        let caches = CacheView::all_of(context, &user).await?;
        let tokens = context.store.tokens_of_user(&user.id).await?;
        Ok(Self { user, caches, tokens })
    }

    fn text(&self) -> String {
        let user = &self.user;
        let pairs = table::pairs(&[
            ("email", user.email.clone()),
            ("plan", user.plan.clone()),
            ("state", state_name(user)),
            ("admin", if user.is_admin { "yes" } else { "no" }.to_owned()),
            ("created", time::past(user.created_at)),
        ]);
        let caches: Vec<_> = self.caches.iter().map(CacheView::text).collect();
        format!("{pairs}\n{}\n{}", caches.join("\n"), token::rows(&self.tokens))
    }
}

fn state_name(user: &User) -> String {
    match user.state {
        UserState::Active => "active".to_owned(),
        UserState::Suspended => "suspended".to_owned(),
    }
}

fn rows(users: &[User]) -> String {
    let row = |user: &User| {
        let admin = if user.is_admin { "yes" } else { "" };
        let created = table::time_since(user.created_at);
        [user.email.clone(), user.plan.clone(), state_name(user), admin.to_owned(), created]
    };
    let rows: Vec<_> = users.iter().map(row).collect();
    table(["EMAIL", "PLAN", "STATE", "ADMIN", "CREATED"], &rows)
}
