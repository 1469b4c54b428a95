//! `memgate token`: what applications log in with. The secret is shown once, when a token is made.

use serde::Serialize;
use store::{NewToken, Store, Token, TokenId, TokenRow};

use crate::args::Global;
use crate::folder::Folder;
use crate::report::{self, Failure};
use crate::role::runtime;
use crate::settings::Settings;
use crate::table::{self, table};
use crate::user::find_user;

/// A name is a label in a list, not a text.
const LONGEST_NAME: usize = 100;

/// Tokens, which applications log in with
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TokenCommand {
    /// Make one more token for a user, and show it: the only time it is shown
    #[command(after_help = "\
Example:
  memgate token create ada@example.org --name ci --json | jq -r .token")]
    Create {
        /// Whose
        email: String,
        /// What to call it
        #[arg(long, default_value = "token")]
        name: String,
    },
    /// A user's tokens, the revoked ones too
    List {
        /// Whose
        email: String,
    },
    /// Revoke a token for good: nobody logs in with it any more
    Revoke {
        /// The public part, as `memgate token list` shows it, with or without mg_
        id: String,
    },
}

/// What an application needs, shown once.
#[derive(Debug, Serialize)]
pub(crate) struct Credentials {
    email: String,
    endpoint: String,
    username: String,
    password: String,
    token: String,
}

#[derive(Debug, Serialize)]
struct Tokens {
    tokens: Vec<TokenRow>,
}

impl Credentials {
    pub(crate) fn of(email: &str, endpoint: &str, token: &Token) -> Self {
        Self {
            email: email.to_owned(),
            endpoint: endpoint.to_owned(),
            username: token.id().username(),
            password: token.secret().reveal().to_owned(),
            token: token.reveal(),
        }
    }

    /// For people, in the same order.
    pub(crate) fn pairs(&self) -> [(&'static str, String); 5] {
        [
            ("email", self.email.clone()),
            ("endpoint", self.endpoint.clone()),
            ("username", self.username.clone()),
            ("password", self.password.clone()),
            ("token", self.token.clone()),
        ]
    }
}

impl TokenCommand {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let settings = Settings::load(global)?;
        let folder = Folder::of(global);
        runtime()?.block_on(async {
            let store = folder.open_store(&settings).await?;
            match self {
                Self::Create { email, name } => {
                    let user = find_user(&store, &email).await?;
                    let new = NewToken::generate(&folder.token_key()?, checked(&name)?);
                    store.create_token(&user.id, &new).await?;
                    let made = Credentials::of(&user.email, &settings.webui.endpoint, &new.token);
                    report::print(global.json, &made, || shown_once(&made))
                }
                Self::List { email } => {
                    let user = find_user(&store, &email).await?;
                    let list = Tokens { tokens: store.tokens_of(&user.id).await? };
                    report::print(global.json, &list, || rows(&list.tokens))
                }
                Self::Revoke { id } => {
                    let revoked = revoke(&store, &id).await?;
                    report::print(global.json, &revoked, || format!("{} is revoked", revoked.id))
                }
            }
        })
    }
}

async fn revoke(store: &Store, id: &str) -> Result<TokenRow, Failure> {
    let fix = "memgate token list EMAIL shows a user's tokens";
    let nothing = || Failure::new("there is no such token", fix);
    // Whoever pastes the whole token means that one.
    let whole = Token::parse(id).ok().map(|token| token.id());
    let id = whole.or_else(|| TokenId::parse(id)).ok_or_else(nothing)?;
    match store.revoke_token(&id).await {
        Err(store::StoreError::Missing(_)) => Err(nothing()),
        Err(error) => Err(error.into()),
        Ok(()) => store.token(&id).await?.ok_or_else(nothing),
    }
}

fn checked(name: &str) -> Result<&str, Failure> {
    let name = name.trim();
    let fits =
        !name.is_empty() && name.chars().count() <= LONGEST_NAME && !name.chars().any(char::is_control);
    let fix = format!("take 1 to {LONGEST_NAME} printable characters");
    if fits { Ok(name) } else { Err(Failure::new("a token can't have that name", fix)) }
}

fn shown_once(made: &Credentials) -> String {
    format!("{}\nKeep it now: it is not shown again.\n", table::pairs(&made.pairs()))
}

pub(crate) fn rows(tokens: &[TokenRow]) -> String {
    let rows: Vec<_> = tokens
        .iter()
        .map(|token| {
            let state =
                token.revoked_at.map_or("good".to_owned(), |at| format!("revoked {}", table::ago(at)));
            [token.id.clone(), token.name.clone(), table::ago(token.created_at), state]
        })
        .collect();
    table(["ID", "NAME", "MADE", "STATE"], &rows)
}
