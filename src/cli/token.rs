//! `memgate token`: what applications log in with. The secret is shown once, when a token is made.

mod certificate;
mod denials;
mod permissions;
mod propagation;

use serde::Serialize;
use store::{
    Acknowledged, CertificateRow, DenialRecord, Leak, Millis, NewToken, Permissions, Store, StoreError,
    Token, TokenId, TokenRow, now,
};

use super::lookup::find_user;
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::table::{self, table};
use crate::output::{self, CliError};
use crate::role::runtime;
use crate::settings::Settings;
use certificate::IssueArgs;
use permissions::PermissionArgs;

/// A name is a label in a list, not a text.
const LONGEST_NAME: usize = 100;

/// Tokens, which applications log in with
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TokenCommand {
    /// Make one more token for a user, and show it: the only time it is shown
    #[command(after_help = "\
Examples:
  memgate token create ada@example.org --name ci --json | jq -r .token
  memgate token create ada@example.org --name shop --scope read,write --prefix shop: --expires 30d
  memgate token create ada@example.org --name shop --certificate --certificate-out ./shop
  memgate token create ada@example.org --name office --allow-from 192.0.2.0/24 --allow-from 2001:db8::/32")]
    Create {
        /// Whose
        email: String,
        /// What to call it
        #[arg(long, default_value = "token")]
        name: String,
        #[command(flatten)]
        permissions: PermissionArgs,
        /// Issue a client certificate, too: for text and meta clients that speak TLS and have no login
        #[arg(long)]
        certificate: bool,
        #[command(flatten)]
        issue: IssueArgs,
    },
    /// A user's tokens, the revoked and expired ones too
    List {
        /// Whose
        email: String,
    },
    /// One token: what it may do, until when and from where; who was refused with it, and why
    Show {
        /// The public part, as `memgate token list` shows it, with or without mg_
        id: String,
    },
    /// Change what a token may do; what isn't named stays. Connections are held to it within a second
    #[command(after_help = "\
Examples:
  memgate token update Zk3P0vTq8LwX --scope read
  memgate token update Zk3P0vTq8LwX --expires never --allow-from any --no-prefix")]
    Update {
        /// The public part, as `memgate token list` shows it, with or without mg_
        id: String,
        #[command(flatten)]
        permissions: PermissionArgs,
        /// All keys
        #[arg(long, conflicts_with = "prefix")]
        no_prefix: bool,
    },
    /// Make a successor with the same permissions, and show it; the old token ends after a while
    #[command(after_help = "\
Example:
  memgate token rotate Zk3P0vTq8LwX --grace 24h --json | jq -r .token")]
    Rotate {
        /// The public part, as `memgate token list` shows it, with or without mg_
        id: String,
        /// How long the old token goes on, like 15m, 1h or 2d; 0s ends it at once
        #[arg(long, default_value = "1h", value_name = "TIME", value_parser = store::span)]
        grace: Millis,
    },
    /// Issue a client certificate for a token, and show it: it logs in by itself, and ends with the token
    #[command(after_help = "\
Examples:
  memgate token certify Zk3P0vTq8LwX --certificate-out ./shop
  memgate token certify Zk3P0vTq8LwX --csr shop.csr --json | jq -r .certificate > shop.pem")]
    Certify {
        /// The public part, as `memgate token list` shows it, with or without mg_
        id: String,
        #[command(flatten)]
        issue: IssueArgs,
    },
    /// Revoke a token for good: nobody logs in with it any more, and its connections end
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

/// A token with its owner.
#[derive(Debug, Serialize)]
struct TokenView {
    email: String,
    #[serde(flatten)]
    token: TokenRow,
    certificates: Vec<CertificateRow>,
    /// Who was refused with it lately, and why.
    denials: Vec<DenialRecord>,
    /// Where it was found in public, if that is why it was revoked.
    leak: Option<Leak>,
    /// Where its last change is in force.
    acknowledged: Acknowledged,
}

/// A token that has been revoked, and who has cut its connections off.
#[derive(Debug, Serialize)]
struct Revoked {
    #[serde(flatten)]
    token: TokenRow,
    acknowledged: Acknowledged,
}

/// A token, shown once, and perhaps a certificate.
#[derive(Debug, Serialize)]
struct Made {
    #[serde(flatten)]
    made: Credentials,
    #[serde(flatten)]
    certificate: Option<certificate::Shown>,
}

/// A certificate, shown once, and its token.
#[derive(Debug, Serialize)]
struct Certified {
    id: String,
    #[serde(flatten)]
    certificate: certificate::Shown,
}

/// A successor, shown once, and the token whose place it takes.
#[derive(Debug, Serialize)]
struct Rotated {
    #[serde(flatten)]
    made: Credentials,
    replaces: TokenRow,
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
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        let settings = Settings::load(global)?;
        let folder = DataDir::of(global);
        runtime()?.block_on(async {
            let store = folder.open_store(&settings).await?;
            let (json, endpoint) = (global.json, &settings.webui.endpoint);
            match self {
                Self::Create { email, name, permissions, certificate, issue } => {
                    permissions.check()?;
                    let user = find_user(&store, &email).await?;
                    let new = NewToken::generate(&folder.token_key()?, checked(&name)?);
                    let mut granted = Permissions::ALL;
                    permissions.change(&mut granted, now());
                    let (id, end) = (new.token.id(), granted.expires_at);
                    let certificate = (certificate || issue.is_wanted()).then(|| issue.make(id, end));
                    let certificate = certificate.transpose()?;
                    let new = new.limited_to(granted);
                    store.create_token(&user.id, &new).await?;
                    // Whatever becomes of the certificate, the token is good, and is shown now or never.
                    let kept = match &certificate {
                        Some(certificate) => certificate.keep(&store, &id).await,
                        None => Ok(()),
                    };
                    let made = Credentials::of(&user.email, endpoint, &new.token);
                    let made = Made { made, certificate: certificate.filter(|_| kept.is_ok()) };
                    output::print(json, &made, || made.words())?;
                    kept
                }
                Self::List { email } => {
                    let user = find_user(&store, &email).await?;
                    let list = Tokens { tokens: store.tokens_of(&user.id).await? };
                    output::print(json, &list, || rows(&list.tokens))
                }
                Self::Show { id } => {
                    let view = view(&store, find(&store, &id).await?).await?;
                    output::print(json, &view, || details(&view))
                }
                Self::Update { id, permissions, no_prefix } => {
                    let token = update(&store, &id, permissions, no_prefix).await?;
                    let view = view(&store, token).await?;
                    output::print(json, &view, || details(&view))
                }
                Self::Rotate { id, grace } => {
                    let token = find(&store, &id).await?;
                    let new = NewToken::generate(&folder.token_key()?, &token.name);
                    let rotated = rotate(&store, token, new, grace, endpoint).await?;
                    output::print(json, &rotated, || rotated_words(&rotated))
                }
                Self::Certify { id, issue } => {
                    let token = find(&store, &id).await?;
                    let id = public_id(&token.id)?;
                    let certificate = issue.make(id, token.permissions.expires_at)?;
                    certificate.keep(&store, &id).await?;
                    let certified = Certified { id: token.id, certificate };
                    output::print(json, &certified, || certified.certificate.words())
                }
                Self::Revoke { id } => {
                    let token = find(&store, &id).await?;
                    let id = public_id(&token.id)?;
                    store.revoke_token(&id).await?;
                    let acknowledged = propagation::wait(&store, &id).await?;
                    let revoked = Revoked { token: find(&store, id.as_str()).await?, acknowledged };
                    output::print(json, &revoked, || revoked_words(&revoked))
                }
            }
        })
    }
}

fn nothing() -> CliError {
    CliError::new("there is no such token", "memgate token list EMAIL shows a user's tokens")
}

/// Whoever pastes the whole token means that one.
fn public_id(text: &str) -> Result<TokenId, CliError> {
    let whole = Token::parse(text).ok().map(|token| token.id());
    whole.or_else(|| TokenId::parse(text)).ok_or_else(nothing)
}

async fn find(store: &Store, id: &str) -> Result<TokenRow, CliError> {
    store.token(&public_id(id)?).await?.ok_or_else(nothing)
}

async fn view(store: &Store, token: TokenRow) -> Result<TokenView, CliError> {
    let user = store.user(&token.user_id).await?.ok_or_else(nothing)?;
    let id = public_id(&token.id)?;
    let certificates = store.certificates_of(&id).await?;
    let denials = store.denials_of(&token.id).await?;
    let acknowledged = store.acknowledged(&id).await?;
    let leak = store.leaks_of(&user.id).await?.into_iter().find(|leak| leak.token_id == token.id);
    Ok(TokenView { email: user.email, token, certificates, denials, leak, acknowledged })
}

async fn update(
    store: &Store,
    id: &str,
    permissions: PermissionArgs,
    no_prefix: bool,
) -> Result<TokenRow, CliError> {
    permissions.check()?;
    if permissions.is_empty() && !no_prefix {
        let fix = "name --scope, --prefix, --no-prefix, --expires or --allow-from";
        return Err(CliError::usage("there is nothing to change", fix));
    }
    let token = find(store, id).await?;
    let change = |granted: &mut Permissions| {
        permissions.change(granted, now());
        if no_prefix {
            granted.prefix = None;
        }
    };
    let changed = store.update_permissions(&public_id(&token.id)?, change).await;
    changed.map_err(|error| explained(error, &token))
}

async fn rotate(
    store: &Store,
    old: TokenRow,
    new: NewToken,
    grace: Millis,
    endpoint: &str,
) -> Result<Rotated, CliError> {
    // Before the commit: after it nothing may fail until the new one is shown.
    let user = store.user(&old.user_id).await?.ok_or_else(nothing)?;
    let ends_at = now().saturating_add(grace);
    let rotated = store.rotate_token(&public_id(&old.id)?, new, ends_at).await;
    let (new, replaces) = rotated.map_err(|error| explained(error, &old))?;
    Ok(Rotated { made: Credentials::of(&user.email, endpoint, &new.token), replaces })
}

/// Why a token that is there can't be changed.
fn explained(error: StoreError, token: &TokenRow) -> CliError {
    let id = &token.id;
    match (error, &token.successor) {
        (StoreError::AlreadyExists(_), Some(successor)) => {
            CliError::new(format!("mg_{id} has a successor already"), format!("rotate mg_{successor}"))
        }
        (StoreError::NotFound(_), _) => CliError::new(
            format!("mg_{id} is over ({})", permissions::state(token, now())),
            "make a new token with memgate token create",
        ),
        (error, _) => error.into(),
    }
}

fn checked(name: &str) -> Result<&str, CliError> {
    let name = name.trim();
    let fits =
        !name.is_empty() && name.chars().count() <= LONGEST_NAME && !name.chars().any(char::is_control);
    let fix = format!("take 1 to {LONGEST_NAME} printable characters");
    if fits { Ok(name) } else { Err(CliError::new("a token can't have that name", fix)) }
}

impl Made {
    fn words(&self) -> String {
        let certificate = self.certificate.as_ref().map(certificate::Shown::words);
        format!("{}{}", shown_once(&self.made), certificate.unwrap_or_default())
    }
}

fn shown_once(made: &Credentials) -> String {
    format!("{}\nKeep it now: it is not shown again.\n", table::pairs(&made.pairs()))
}

fn rotated_words(rotated: &Rotated) -> String {
    let old = &rotated.replaces;
    let state = permissions::state(old, now());
    format!("{}The old token, mg_{}, has the state: {state}\n", shown_once(&rotated.made), old.id)
}

fn revoked_words(revoked: &Revoked) -> String {
    let by = propagation::words(&revoked.acknowledged);
    format!("{} is revoked\nacknowledged by {by}\n", revoked.token.id)
}

fn details(view: &TokenView) -> String {
    let token = &view.token;
    let mut pairs = vec![
        ("id", token.id.clone()),
        ("name", token.name.clone()),
        ("email", view.email.clone()),
        ("username", format!("mg_{}", token.id)),
        ("made", table::ago(token.created_at)),
        ("state", permissions::state(token, now())),
    ];
    pairs.extend(permissions::pairs(&token.permissions));
    pairs.extend(view.leak.as_ref().map(|leak| ("found in public", found(leak))));
    pairs.extend(token.successor.as_ref().map(|id| ("successor", format!("mg_{id}"))));
    pairs.extend(certificate::pairs(&view.certificates));
    pairs.push(("in force on", propagation::words(&view.acknowledged)));
    format!("{}{}", table::pairs(&pairs), denials::words(&view.denials))
}

/// Where and when, as far as it was said.
fn found(leak: &Leak) -> String {
    let place = if leak.url.is_empty() { "its place wasn't said" } else { &leak.url };
    format!("{place}, revoked for it {}", table::ago(leak.at))
}

pub(crate) fn rows(tokens: &[TokenRow]) -> String {
    let rows: Vec<_> = tokens
        .iter()
        .map(|token| {
            let (scopes, keys) =
                (token.permissions.scopes.to_string(), permissions::keys(&token.permissions));
            let (made, state) = (table::ago(token.created_at), permissions::state(token, now()));
            [token.id.clone(), token.name.clone(), scopes, keys, made, state]
        })
        .collect();
    table(["ID", "NAME", "SCOPES", "KEYS", "MADE", "STATE"], &rows)
}
