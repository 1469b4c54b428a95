//! A user's token, and connections that are logged in with it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use store::{NewToken, NewUser, Store, TokenKey, User};
use tokio::net::TcpStream;

use crate::client::{self, Client, Failure, Form};
use crate::error::LoadError;

/// Longer than the longest fault during which requests wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);

/// A user's token.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) email: String,
    pub(crate) username: String,
    pub(crate) password: String,
}

/// The account in the output of a command that makes a token.
pub(crate) fn account(added: &Value) -> Result<Account, LoadError> {
    let text = |key: &str| added[key].as_str().map(str::to_owned);
    let account = (|| {
        Some(Account { email: text("email")?, username: text("username")?, password: text("password")? })
    })();
    account.ok_or_else(|| LoadError::new("unexpected output of memgate", "report this"))
}

/// Signs a user up, as the web UI does: with a row in the store. The cache is made afterwards.
pub(crate) async fn sign_up(
    store: &Store,
    key: &TokenKey,
    email: String,
) -> Result<(User, Account), LoadError> {
    let new = NewToken::generate(key, "first");
    let signed_up = NewUser { email: &email, password_hash: None, plan: "default", is_admin: false };
    let user = store.sign_up(&signed_up, &new).await.map_err(LoadError::unexpected)?;
    let (username, password) = (new.token.id().username(), new.token.secret().reveal().to_owned());
    Ok((user, Account { email, username, password }))
}

/// Opens a connection that is logged in.
pub(crate) async fn log_in(endpoint: SocketAddr, account: &Account, form: Form) -> Result<Client, Failure> {
    client::within(ANSWER_TIMEOUT, async {
        let stream = TcpStream::connect(endpoint).await.map_err(client::broken)?;
        stream.set_nodelay(true).map_err(client::broken)?;
        Client::log_in(stream, form, (&account.username, &account.password), ANSWER_TIMEOUT).await
    })
    .await
}
