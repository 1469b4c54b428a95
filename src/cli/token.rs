//! `memgate token`: credentials of applications. A secret is shown once, when its token is created.

mod certificate;
mod credentials;
mod denials;
mod permissions;
mod propagation;
mod view;

use std::time::Duration;

use identity::TokenName;
use serde::Serialize;
use store::{NewToken, Permissions, Store, StoreError, Token, TokenId, TokenRow, now};

use super::context::{self, Context};
use super::lookup::{CacheArg, find_user};
use crate::global_args::GlobalArgs;
use crate::output::CliError;
use certificate::{IssueArgs, ShownCertificate};
pub(crate) use credentials::Credentials;
use permissions::PermissionArgs;
pub(crate) use view::rows;
use view::{CreatedToken, RevokedCertificate, RevokedToken, RotatedToken, TokenView};

/// Manage tokens, the credentials of applications
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token and show it, the only time that it is shown
    Create(Create),
    /// List a cache's tokens, including revoked and expired ones
    #[command(after_help = "\
Examples:
  memgate token list ada@example.org
  memgate token list ada@example.org --cache shop --json")]
    List {
        /// The user's e-mail address
        email: String,
        #[command(flatten)]
        cache: CacheArg,
    },
    /// Show a token: permissions, certificates, and recent denials with their reasons
    #[command(after_help = "\
Example:
  memgate token show mg_Zk3P0vTq8LwX")]
    Show {
        /// The token's id as `memgate token list` shows it, with or without mg_
        id: String,
    },
    /// Change a token's permissions; those that aren't given stay. Takes effect within a second
    #[command(after_help = "\
Examples:
  memgate token update Zk3P0vTq8LwX --scope read
  memgate token update Zk3P0vTq8LwX --expires never --allow-from any --no-prefix")]
    Update {
        /// The token's id as `memgate token list` shows it, with or without mg_
        id: String,
        #[command(flatten)]
        permissions: PermissionArgs,
        /// Remove the key prefix: the token may use all keys
        #[arg(long, conflicts_with = "prefix")]
        no_prefix: bool,
    },
    /// Create a successor with the same permissions and show it; the old token expires after a grace period
    #[command(after_help = "\
Example:
  memgate token rotate Zk3P0vTq8LwX --grace 24h --json | jq -r .token")]
    Rotate {
        /// The token's id as `memgate token list` shows it, with or without mg_
        id: String,
        /// How long the old token stays valid (15m, 1h, 2d; 0s: not at all)
        #[arg(long, default_value = "1h", value_name = "TIME", value_parser = store::parse_duration)]
        grace: Duration,
    },
    /// Issue a client certificate for a token and show it. It authenticates on its own, and expires with the token
    #[command(after_help = "\
Examples:
  memgate token certify Zk3P0vTq8LwX --certificate-out ./shop
  memgate token certify Zk3P0vTq8LwX --csr shop.csr --json | jq -r .certificate > shop.pem")]
    Certify {
        /// The token's id as `memgate token list` shows it, with or without mg_
        id: String,
        #[command(flatten)]
        issue: IssueArgs,
    },
    /// Revoke a token for good, or one of its client certificates: logins are denied and its connections are closed
    #[command(after_help = "\
Examples:
  memgate token revoke mg_Zk3P0vTq8LwX
  memgate token revoke mg_Zk3P0vTq8LwX --certificate 62c2a4f09b1d

There is no question and no way back: create a new token, or use rotate to replace one without a gap.")]
    Revoke {
        /// The token's id as `memgate token list` shows it, with or without mg_
        id: String,
        /// Revoke only the certificate whose SHA-256 fingerprint begins so; `memgate token show` lists them
        #[arg(long, value_name = "FINGERPRINT")]
        certificate: Option<String>,
    },
}

/// Create a token and show it, the only time that it is shown
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  memgate token create ada@example.org --name ci --json | jq -r .token
  memgate token create ada@example.org --name shop --scope read,write --prefix shop: --expires 30d
  memgate token create ada@example.org --name shop --certificate --certificate-out ./shop
  memgate token create ada@example.org --name office --allow-from 192.0.2.0/24 --allow-from 2001:db8::/32")]
pub(crate) struct Create {
    /// The user's e-mail address
    email: String,
    #[command(flatten)]
    cache: CacheArg,
    /// The token's name
    #[arg(long, default_value = "token")]
    name: String,
    #[command(flatten)]
    permissions: PermissionArgs,
    /// Also issue a client certificate, for text and meta clients with TLS but without a login
    #[arg(long)]
    certificate: bool,
    #[command(flatten)]
    issue: IssueArgs,
}

#[derive(Debug, Serialize)]
struct TokenList {
    tokens: Vec<TokenRow>,
}

/// A new certificate, shown once, and its token.
#[derive(Serialize)]
struct CertifiedToken {
    id: String,
    #[serde(flatten)]
    certificate: ShownCertificate,
}

impl TokenCommand {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        context::with_store(global, async |context: &Context| {
            let store = &context.store;
            match self {
                Self::Create(create) => create.run(context).await,
                Self::List { email, cache } => {
                    let user = find_user(store, &email).await?;
                    let cache = cache.find(store, &user).await?;
                    let list = TokenList { tokens: store.tokens_of_cache(&cache.id).await? };
                    context.print(&list, || rows(&list.tokens))
                }
                Self::Show { id } => {
                    let view = TokenView::read(store, find(store, &id).await?).await?;
                    context.print(&view, || view.text())
                }
                Self::Update { id, permissions, no_prefix } => {
                    let token = update(store, &id, permissions, no_prefix).await?;
                    let view = TokenView::read(store, token).await?;
                    context.print(&view, || view.text())
                }
                Self::Rotate { id, grace } => {
                    let rotated = rotate(context, find(store, &id).await?, grace).await?;
                    context.print(&rotated, || rotated.text())
                }
                Self::Certify { id, issue } => {
                    let token = find(store, &id).await?;
                    let id = parse_id(&token.id)?;
                    let certificate = issue.issue(id, token.permissions.expires_at)?;
                    certificate.save(store, &id).await?;
                    let certified = CertifiedToken { id: token.id, certificate };
                    context.print(&certified, || certified.certificate.text())
                }
                Self::Revoke { id, certificate: Some(start) } => {
                    let id = parse_id(&find(store, &id).await?.id)?;
                    let fingerprint = certificate::revoke(store, &id, &start).await?;
                    let propagation = propagation::wait(store, &id).await?;
                    let revoked = RevokedCertificate { id: id.to_string(), fingerprint, propagation };
                    context.print(&revoked, || revoked.text())
                }
                Self::Revoke { id, certificate: None } => {
                    let id = parse_id(&find(store, &id).await?.id)?;
                    store.revoke_token(&id).await?;
                    let propagation = propagation::wait(store, &id).await?;
                    let revoked = RevokedToken { token: find(store, id.as_str()).await?, propagation };
                    context.print(&revoked, || revoked.text())
                }
            }
        })
    }
}

impl Create {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let store = &context.store;
        self.permissions.check()?;
        let user = find_user(store, &self.email).await?;
        let cache = self.cache.find(store, &user).await?;
        let new = NewToken::generate(&context.token_key().await?, TokenName::parse(&self.name)?.as_str());
        let mut granted = Permissions::ALL;
        self.permissions.apply(&mut granted, now());
        let (id, expires_at) = (new.token.id(), granted.expires_at);
        let wants_certificate = self.certificate || self.issue.is_given();
        let certificate = wants_certificate.then(|| self.issue.issue(id, expires_at)).transpose()?;
        let new = new.limited_to(granted);
        store.create_token(&cache.id, &new).await?;
        // The token exists now and must be shown, even if its certificate can't be saved.
        let saved = match &certificate {
            Some(certificate) => certificate.save(store, &id).await,
            None => Ok(()),
        };
        let credentials = Credentials::new(&user.email, &cache.name, context.endpoint(), &new.token);
        let created = CreatedToken { credentials, certificate: certificate.filter(|_| saved.is_ok()) };
        context.print(&created, || created.text())?;
        saved
    }
}

async fn update(
    store: &Store,
    id: &str,
    permissions: PermissionArgs,
    no_prefix: bool,
) -> Result<TokenRow, CliError> {
    permissions.check()?;
    if permissions.is_empty() && !no_prefix {
        let fix = "name --scope, --prefix, --no-prefix, --expires, --allow-from or --connections";
        return Err(CliError::usage("nothing to update", fix));
    }
    let token = find(store, id).await?;
    let change = |granted: &mut Permissions| {
        permissions.apply(granted, now());
        if no_prefix {
            granted.prefix = None;
        }
    };
    let updated = store.update_permissions(&parse_id(&token.id)?, change).await;
    updated.map_err(|error| change_error(error, &token))
}

async fn rotate(context: &Context, old: TokenRow, grace: Duration) -> Result<RotatedToken, CliError> {
    let store = &context.store;
    let new = NewToken::generate(&context.token_key().await?, &old.name);
    // Read before the commit: after it nothing may fail until the new token is shown.
    let user = store.user(&old.user_id).await?.ok_or_else(no_such_token)?;
    let old_cache = old.cache.clone();
    let rotated = store.rotate_token(&parse_id(&old.id)?, new, now().saturating_add(grace)).await;
    let (new, replaces) = rotated.map_err(|error| change_error(error, &old))?;
    let credentials = Credentials::new(&user.email, &old_cache, context.endpoint(), &new.token);
    Ok(RotatedToken { credentials, replaces })
}

/// Why an existing token can't be changed.
fn change_error(error: StoreError, token: &TokenRow) -> CliError {
    let id = &token.id;
    match (error, &token.successor) {
        (StoreError::AlreadyExists(_), Some(successor)) => {
            CliError::new(format!("mg_{id} already has a successor"), format!("rotate mg_{successor}"))
        }
        (StoreError::NotFound(_), _) => CliError::new(
            format!("mg_{id} is no longer active ({})", permissions::state(token, now())),
            "create a new token with `memgate token create`",
        ),
        (error, _) => error.into(),
    }
}

async fn find(store: &Store, id: &str) -> Result<TokenRow, CliError> {
    store.token(&parse_id(id)?).await?.ok_or_else(no_such_token)
}

/// Parses a public id, or the whole token that contains it.
fn parse_id(text: &str) -> Result<TokenId, CliError> {
    let whole = Token::parse(text).ok().map(|token| token.id());
    whole.or_else(|| TokenId::parse(text)).ok_or_else(no_such_token)
}

fn no_such_token() -> CliError {
    CliError::new("no such token", "`memgate token list EMAIL` shows a user's tokens")
}
