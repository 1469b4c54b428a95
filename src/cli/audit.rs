//! `memgate audit`: who did what, and whether that is still what was written.

use serde::Serialize;
use store::{AuditChain, AuditEntry, Store};

use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::table::{ago, pairs, table};
use crate::output::{self, CliError};
use crate::role::runtime;
use crate::settings::Settings;

/// Entries that are held at once.
const PAGE: i64 = 1000;

const EXAMPLES: &str = "\
Examples:
  memgate audit list                       the last 50 entries
  memgate audit export > audit.jsonl       all of it, a JSON document for each line
  memgate audit verify                     whether all entries fit in the chain of hashes
  memgate audit verify --head 1f0c...      and are what they were when this was the last one's

Keep what verify prints somewhere else. The chain has no key: whoever can write to the database can compute it anew
or cut its end off, and only an earlier head shows that.";

/// The audit log
#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum AuditCommand {
    /// The newest entries
    List {
        /// How many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..))]
        limit: i64,
    },
    /// All entries, oldest first, each a JSON document on a line of its own
    Export,
    /// Check every entry against the chain of hashes; exit status 1 if it is broken
    Verify {
        /// A hash that must be in the chain: that of the last entry, as printed by an earlier `verify`
        #[arg(long, value_name = "HASH")]
        head: Option<String>,
    },
}

#[derive(Debug, Serialize)]
struct Entries {
    entries: Vec<AuditEntry>,
}

#[derive(Debug, Serialize)]
struct Verified {
    entries: i64,
    head: String,
}

impl AuditCommand {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        let settings = Settings::load(global)?;
        runtime()?.block_on(async {
            let store = DataDir::of(global).open_store(&settings).await?;
            match self {
                Self::List { limit } => {
                    let from = store.audit_length().await?.saturating_sub(limit);
                    let entries = Entries { entries: store.audit_after(from, limit).await? };
                    output::print(global.json, &entries, || rows(&entries.entries))
                }
                Self::Export => export(&store).await,
                Self::Verify { head } => {
                    let verified = verify(&store, head.as_deref()).await?;
                    output::print(global.json, &verified, || {
                        pairs(&[("entries", verified.entries.to_string()), ("head", verified.head.clone())])
                    })
                }
            }
        })
    }
}

/// Calls `each` with every entry, in order.
async fn walk<F: FnMut(&AuditEntry) -> Result<(), CliError>>(
    store: &Store,
    mut each: F,
) -> Result<(), CliError> {
    let mut seq = 0;
    loop {
        let entries = store.audit_after(seq, PAGE).await?;
        let Some(last) = entries.last() else { return Ok(()) };
        seq = last.seq;
        entries.iter().try_for_each(&mut each)?;
    }
}

async fn export(store: &Store) -> Result<(), CliError> {
    walk(store, |entry| {
        let line = serde_json::to_string(entry)
            .map_err(|error| CliError::new(format!("can't print an entry ({error})"), "report this"))?;
        output::write_out(&line)
    })
    .await
}

async fn verify(store: &Store, head: Option<&str>) -> Result<Verified, CliError> {
    let mut chain = AuditChain::default();
    let mut found = head.is_none();
    walk(store, |entry| {
        chain.follow(entry).map_err(|error| CliError::from_error(&error))?;
        found |= head == Some(entry.hash.as_str());
        Ok(())
    })
    .await?;
    if !found {
        return Err(CliError::new(
            "the audit log doesn't hold that head any more",
            "entries were changed or removed: restore the database from a backup and look for who did it",
        ));
    }
    Ok(Verified { entries: chain.entries, head: chain.head })
}

fn rows(entries: &[AuditEntry]) -> String {
    let row = |entry: &AuditEntry| {
        [
            entry.seq.to_string(),
            ago(entry.at),
            entry.actor.clone(),
            entry.action.clone(),
            entry.subject.clone(),
            entry.detail.clone(),
        ]
    };
    table(["#", "when", "who", "what", "to", "detail"], &entries.iter().map(row).collect::<Vec<_>>())
}
