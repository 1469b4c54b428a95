//! `memgate api-key`: keys of the JSON API. A secret is shown once, when its key is created.

use std::time::Duration;

use identity::api_key_name;
use serde::Serialize;
use store::{ApiKey, ApiKeyId, ApiKeyRow, ApiScopes, NewApiKey, Store, StoreError, now};

use super::context::{self, Context};
use super::lookup::find_user;
use crate::global_args::GlobalArgs;
use crate::output::table::{self, table};
use crate::output::{CliError, time};

/// Manage API keys, with which users' scripts manage their caches and tokens
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ApiKeyCommand {
    /// Create an API key and show it, the only time that it is shown
    Create(Create),
    /// List a user's API keys, including some that are revoked or expired
    #[command(after_help = "\
Examples:
  memgate api-key list ada@example.org
  memgate api-key list ada@example.org --json")]
    List {
        /// The user's e-mail address
        email: String,
    },
    /// Revoke an API key for good: requests with it are refused
    #[command(after_help = "\
Example:
  memgate api-key revoke mgk_Zk3P0vTq8LwX

There is no question and no way back: create a new key instead.")]
    Revoke {
        /// The key's id as `memgate api-key list` shows it, with or without mgk_
        id: String,
    },
}

/// Create an API key and show it, the only time that it is shown
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  memgate api-key create ada@example.org --name backup --scope read --json | jq -r .api_key
  memgate api-key create ada@example.org --name terraform --scope read,tokens,caches --expires 90d")]
pub(crate) struct Create {
    /// The user's e-mail address
    email: String,
    /// The key's name
    #[arg(long, default_value = "API key")]
    name: String,
    /// Allowed requests: a comma-separated list of read, tokens and caches
    #[arg(long, value_name = "SCOPES", default_value = "read", value_parser = parse_scopes)]
    scope: ApiScopes,
    /// Lifetime from now on (12h, 30d, 8w), or never
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = parse_expiry)]
    expires: Expiry,
}

#[derive(Debug, Clone, Copy)]
enum Expiry {
    Never,
    In(Duration),
}

#[derive(Debug, Serialize)]
struct ApiKeyList {
    api_keys: Vec<ApiKeyRow>,
}

/// A new key with its secret. No `Debug`: that would print the secret.
#[derive(Serialize)]
struct CreatedApiKey {
    email: String,
    #[serde(flatten)]
    row: ApiKeyRow,
    api_key: String,
}

impl ApiKeyCommand {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        context::with_store(global, async |context: &Context| {
            let store = &context.store;
            match self {
                Self::Create(create) => create.run(context).await,
                Self::List { email } => {
                    let user = find_user(store, &email).await?;
                    let list = ApiKeyList { api_keys: store.api_keys_of(&user.id).await? };
                    context.print(&list, || rows(&list.api_keys))
                }
                Self::Revoke { id } => {
                    let id = parse_id(&id)?;
                    store.revoke_api_key(&id).await.map_err(|error| match error {
                        StoreError::NotFound(_) => no_such_key(),
                        error => error.into(),
                    })?;
                    let row = find(store, &id).await?;
                    context.print(&row, || format!("mgk_{} is revoked\n", row.id))
                }
            }
        })
    }
}

impl Create {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let store = &context.store;
        let name = api_key_name(&self.name)?;
        let user = find_user(store, &self.email).await?;
        let expires_at = match self.expires {
            Expiry::Never => None,
            Expiry::In(span) => Some(now().saturating_add(span)),
        };
        let new = NewApiKey { key: ApiKey::generate(), name: &name, scopes: self.scope, expires_at };
        let token_key = context.token_key().await?;
        store.create_api_key(&token_key, &user.id, &new).await.map_err(|error| match error {
            StoreError::LimitReached(_) => CliError::new(
                format!("{} has reached the limit of API keys", user.email),
                "revoke one with `memgate api-key revoke ID`",
            ),
            error => error.into(),
        })?;
        let row = find(store, &new.key.id()).await?;
        let created = CreatedApiKey { email: user.email, row, api_key: new.key.reveal() };
        context.print(&created, || created.text())
    }
}

impl CreatedApiKey {
    fn text(&self) -> String {
        let row = &self.row;
        table::pairs(&[
            ("email", self.email.clone()),
            ("name", row.name.clone()),
            ("scopes", row.scopes.to_string()),
            ("expires", row.expires_at.map_or("never".to_owned(), time::future)),
            ("API key", self.api_key.clone()),
        ])
    }
}

async fn find(store: &Store, id: &ApiKeyId) -> Result<ApiKeyRow, CliError> {
    store.api_key(id).await?.ok_or_else(no_such_key)
}

/// Parses a public half, or the whole key that contains it.
fn parse_id(text: &str) -> Result<ApiKeyId, CliError> {
    let whole = ApiKey::parse(text).ok().map(|key| key.id());
    whole.or_else(|| ApiKeyId::parse(text)).ok_or_else(no_such_key)
}

fn no_such_key() -> CliError {
    CliError::new("no such API key", "`memgate api-key list EMAIL` shows a user's API keys")
}

fn parse_scopes(text: &str) -> Result<ApiScopes, String> {
    let scopes: ApiScopes = text.parse().map_err(|error: store::ParseApiScopesError| error.to_string())?;
    let none = || format!("an API key needs at least one scope: use some of {}", ApiScopes::ALL.list(", "));
    if scopes == ApiScopes::NONE { Err(none()) } else { Ok(scopes) }
}

fn parse_expiry(text: &str) -> Result<Expiry, String> {
    match text {
        "never" => Ok(Expiry::Never),
        _ => match store::parse_duration(text) {
            Ok(span) if span.is_zero() => {
                Err("an API key can't expire at once: write a time like 12h, 30d or 8w, or never".to_owned())
            }
            Ok(span) => Ok(Expiry::In(span)),
            Err(error) => Err(format!("{error}, or never")),
        },
    }
}

fn rows(keys: &[ApiKeyRow]) -> String {
    let row = |key: &ApiKeyRow| {
        let state = match (key.revoked_at, key.expires_at) {
            (Some(at), _) => format!("revoked {}", table::time_since(at)),
            (None, Some(at)) if at <= now() => format!("expired {}", table::time_since(at)),
            (None, Some(at)) => format!("expires {}", table::time_until(at)),
            (None, None) => "active".to_owned(),
        };
        let used = key.last_used_at.map_or("never".to_owned(), table::time_since);
        [format!("mgk_{}", key.id), key.name.clone(), key.scopes.to_string(), state, used]
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    table(["ID", "NAME", "SCOPES", "STATE", "LAST USED"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_options_name_the_fix() {
        for (error, words) in [
            (parse_scopes("read,admin").err(), "use read, tokens, caches, webhooks or metrics"),
            (parse_scopes(" , ").err(), "use some of"),
            (parse_expiry("0s").err(), "12h"),
            (parse_expiry("tomorrow").err(), "write it like 90s"),
        ] {
            let error = error.unwrap();
            assert!(error.contains(words), "{error}");
        }
    }
}
