//! `memgate connection`: who is connected to a user's cache now, and the end of one of them.

use serde::Serialize;
use store::{ConnectionId, LiveConnections, Store};

use super::lookup::find_user;
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::table::{self, table};
use crate::output::{self, CliError};
use crate::role::runtime;
use crate::settings::Settings;

/// Live connections
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConnectionCommand {
    /// Who is connected to a user's cache now: with which token, from where, since when
    List {
        /// Whose
        email: String,
    },
    /// End a connection. Its client may connect again: revoke its token to keep it out
    End {
        /// Whose
        email: String,
        /// As `memgate connection list` shows it
        id: String,
    },
}

#[derive(Debug, Serialize)]
struct Ended {
    ended: String,
}

impl ConnectionCommand {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        let settings = Settings::load(global)?;
        let folder = DataDir::of(global);
        runtime()?.block_on(async {
            let store = folder.open_store(&settings).await?;
            match self {
                Self::List { email } => {
                    let live = store.live_connections(&instance(&store, &email).await?).await?;
                    output::print(global.json, &live, || words(&live))
                }
                Self::End { email, id } => {
                    let instance = instance(&store, &email).await?;
                    let parsed: ConnectionId =
                        id.parse().map_err(|error: store::ParseConnectionIdError| {
                            CliError::new(error.to_string(), "memgate connection list EMAIL shows them")
                        })?;
                    if !store.close_connection(&instance, &parsed).await? {
                        let what = "the proxy hasn't said yet that the connection has ended";
                        return Err(CliError::pending(what, "memgate status says whether that proxy runs"));
                    }
                    output::print(global.json, &Ended { ended: id.clone() }, || format!("{id} has ended"))
                }
            }
        })
    }
}

async fn instance(store: &Store, email: &str) -> Result<String, CliError> {
    let user = find_user(store, email).await?;
    let instance = store.instance_of(&user.id).await?;
    let fix = "memgate instance list shows what there is";
    Ok(instance.ok_or_else(|| CliError::new(format!("{email} has no cache"), fix))?.id)
}

fn words(live: &LiveConnections) -> String {
    let rows: Vec<_> = live
        .connections
        .iter()
        .map(|it| {
            let tls = if it.tls { "TLS" } else { "-" };
            let (token, since) = (format!("mg_{}", it.token_id), table::ago(it.since));
            let operations = it.operations.to_string();
            [it.id.to_string(), token, it.source.clone(), it.protocol.clone(), tls.into(), since, operations]
        })
        .collect();
    let mut text = table(["ID", "TOKEN", "FROM", "PROTOCOL", "TLS", "SINCE", "OPERATIONS"], &rows);
    if live.total > i64::try_from(rows.len()).unwrap_or(i64::MAX) {
        text.push_str(&format!("{} of {} connections\n", rows.len(), live.total));
    }
    if live.silent > 0 {
        text.push_str(&format!("{} of the proxies hasn't answered in time\n", live.silent));
    }
    text
}
