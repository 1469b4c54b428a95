//! A user's token, and connections that are logged in with it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;

use crate::client::{self, Client, Failure, Form};
use crate::error::LoadError;

/// Longer than the longest fault during which requests wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);

/// A user's token.
#[derive(Clone)]
pub(super) struct Account {
    pub(super) email: String,
    pub(super) username: String,
    pub(super) password: String,
}

/// The account in the output of a command that makes a token.
pub(super) fn account(added: &Value) -> Result<Account, LoadError> {
    let text = |key: &str| added[key].as_str().map(str::to_owned);
    let account = (|| {
        Some(Account { email: text("email")?, username: text("username")?, password: text("password")? })
    })();
    account.ok_or_else(|| LoadError::new("unexpected output of memgate", "report this"))
}

/// Opens a connection that is logged in.
pub(super) async fn log_in(endpoint: SocketAddr, account: &Account, form: Form) -> Result<Client, Failure> {
    client::within(ANSWER_TIMEOUT, async {
        let stream = TcpStream::connect(endpoint).await.map_err(client::broken)?;
        stream.set_nodelay(true).map_err(client::broken)?;
        Client::log_in(stream, form, (&account.username, &account.password), ANSWER_TIMEOUT).await
    })
    .await
}
