//! `memgate connection`: lists and closes live connections.

use serde::Serialize;
use store::{ConnectionId, LiveConnections, ParseConnectionIdError, Store};

use super::context::{self, Context};
use super::lookup::{CacheArg, find_user};
use crate::global_args::GlobalArgs;
use crate::output::CliError;
use crate::output::table::{self, table};

/// Manage live connections
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConnectionCommand {
    /// List the live connections of a cache, with token, source address and age
    #[command(after_help = "\
Example:
  memgate connection list ada@example.org")]
    List {
        /// The user's e-mail address
        email: String,
        #[command(flatten)]
        cache: CacheArg,
    },
    /// Close a connection. Its client may reconnect: revoke its token to prevent that
    #[command(after_help = "\
Example:
  memgate connection close ada@example.org ID --cache shop")]
    Close {
        /// The user's e-mail address
        email: String,
        /// The connection's id, as `memgate connection list` shows it
        id: String,
        #[command(flatten)]
        cache: CacheArg,
    },
}

#[derive(Debug, Serialize)]
struct Closed {
    id: String,
    closed: bool,
}

impl ConnectionCommand {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        context::with_store(global, async |context: &Context| {
            let store = &context.store;
            match self {
                Self::List { email, cache } => {
                    let live = store.live_connections(&instance_id(store, &email, &cache).await?).await?;
                    context.print(&live, || rows(&live))
                }
                Self::Close { email, id, cache } => {
                    let instance = instance_id(store, &email, &cache).await?;
                    let parsed: ConnectionId = id.parse().map_err(|error: ParseConnectionIdError| {
                        CliError::new(error.to_string(), "`memgate connection list EMAIL` shows all ids")
                    })?;
                    if !store.close_connection(&instance, &parsed).await? {
                        let what = "the proxy has not confirmed yet that the connection is closed";
                        return Err(CliError::pending(
                            what,
                            "check with `memgate status` that it is running",
                        ));
                    }
                    let closed = Closed { id, closed: true };
                    context.print(&closed, || format!("{} is closed", closed.id))
                }
            }
        })
    }
}

async fn instance_id(store: &Store, email: &str, cache: &CacheArg) -> Result<String, CliError> {
    let user = find_user(store, email).await?;
    let cache = cache.find(store, &user).await?;
    let instance = store.instance_of_cache(&cache.id).await?;
    let fix = "`memgate instance list` shows all instances";
    Ok(instance.ok_or_else(|| CliError::new(format!("cache {} has no instance", cache.name), fix))?.id)
}

fn rows(live: &LiveConnections) -> String {
    let rows: Vec<_> = live
        .connections
        .iter()
        .map(|it| {
            let tls = if it.tls { "TLS" } else { "-" };
            let (token, since) = (format!("mg_{}", it.token_id), table::time_since(it.since));
            let operations = it.operations.to_string();
            [it.id.to_string(), token, it.source.clone(), it.protocol.clone(), tls.into(), since, operations]
        })
        .collect();
    let mut text = table(["ID", "TOKEN", "SOURCE", "PROTOCOL", "TLS", "CONNECTED", "OPERATIONS"], &rows);
    if live.total > i64::try_from(rows.len()).unwrap_or(i64::MAX) {
        text.push_str(&format!("{} of {} connections\n", rows.len(), live.total));
    }
    if live.unanswered > 0 {
        text.push_str(&format!("{} proxies did not answer in time\n", live.unanswered));
    }
    text
}
