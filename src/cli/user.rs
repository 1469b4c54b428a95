//! `memgate user`: accounts, each with one cache.

mod add;
mod password;

use serde::Serialize;
use store::{Store, TokenRow, User, UserState};

use super::instance::{self, InstanceView};
use super::lookup::find_user;
use super::token;
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::table::{self, table};
use crate::output::{self, CliError};
use crate::role::runtime;
use crate::settings::Settings;

/// SystemUsers
#[derive(Debug, clap::Subcommand)]
pub(crate) enum UserCommand {
    /// Make an account with a cache and a first token, and wait for the cache
    #[command(after_help = add::EXAMPLES)]
    Add(add::Add),
    /// All accounts, by e-mail address
    List,
    /// One account, with its cache and tokens
    Show {
        /// Whose
        email: String,
    },
    /// Stop an account for now: its tokens let nobody in, its connections end, its cache is stopped and emptied
    Suspend {
        /// Whose
        email: String,
    },
    /// Let a suspended account go on
    Resume {
        /// Whose
        email: String,
    },
    /// End an account for good, with its tokens, its cache and all that is in it
    Delete {
        /// Whose
        email: String,
    },
    /// Give an account another password for the web UI, and end its sessions
    #[command(after_help = password::EXAMPLES)]
    ResetPassword(password::Reset),
}

#[derive(Debug, Serialize)]
struct Users {
    users: Vec<User>,
}

#[derive(Debug, Serialize)]
struct UserView {
    #[serde(flatten)]
    user: User,
    instance: Option<InstanceView>,
    tokens: Vec<TokenRow>,
}

#[derive(Debug, Serialize)]
struct Deleted {
    email: String,
    id: String,
    deleted: bool,
}

impl UserCommand {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        let settings = Settings::load(global)?;
        let folder = DataDir::of(global);
        runtime()?.block_on(async {
            let store = folder.open_store(&settings).await?;
            match self {
                Self::Add(add) => add.run(&store, &folder.token_key()?, &settings, global.json).await,
                Self::List => {
                    let list = Users { users: store.users().await? };
                    output::print(global.json, &list, || rows(&list.users))
                }
                Self::Show { email } => {
                    let view = view(&store, find_user(&store, &email).await?).await?;
                    output::print(global.json, &view, || details(&view))
                }
                Self::Suspend { email } => set_state(&store, &email, UserState::Suspended, global.json).await,
                Self::Resume { email } => set_state(&store, &email, UserState::Active, global.json).await,
                Self::Delete { email } => {
                    let user = find_user(&store, &email).await?;
                    store.delete_user(&user.id).await?;
                    let deleted = Deleted { email: user.email, id: user.id, deleted: true };
                    output::print(global.json, &deleted, || format!("{} is deleted", deleted.email))
                }
                Self::ResetPassword(reset) => reset.run(&store, global.json).await,
            }
        })
    }
}

async fn set_state(store: &Store, email: &str, state: UserState, json: bool) -> Result<(), CliError> {
    let user = find_user(store, email).await?;
    store.set_user_state(&user.id, state).await?;
    let view = view(store, User { state, ..user }).await?;
    output::print(json, &view, || details(&view))
}

async fn view(store: &Store, user: User) -> Result<UserView, CliError> {
    let instance = store.instance_of(&user.id).await?.map(InstanceView::of);
    let tokens = store.tokens_of(&user.id).await?;
    Ok(UserView { user, instance, tokens })
}

fn state(user: &User) -> String {
    match user.state {
        UserState::Active => "active".to_owned(),
        UserState::Suspended => "suspended".to_owned(),
    }
}

fn rows(users: &[User]) -> String {
    let rows: Vec<_> = users
        .iter()
        .map(|user| {
            let admin = if user.is_admin { "yes" } else { "" };
            let made = table::ago(user.created_at);
            [user.email.clone(), user.plan.clone(), state(user), admin.to_owned(), made]
        })
        .collect();
    table(["EMAIL", "PLAN", "STATE", "ADMIN", "MADE"], &rows)
}

fn details(view: &UserView) -> String {
    let user = &view.user;
    let account = table::pairs(&[
        ("email", user.email.clone()),
        ("plan", user.plan.clone()),
        ("state", state(user)),
        ("admin", if user.is_admin { "yes" } else { "no" }.to_owned()),
        ("made", table::ago(user.created_at)),
    ]);
    let cache = view.instance.as_ref().map(instance::details).unwrap_or_default();
    format!("{account}\n{cache}\n{}", token::rows(&view.tokens))
}
