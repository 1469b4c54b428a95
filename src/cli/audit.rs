//! `memgate audit`: lists, exports and verifies the audit log.

mod filter;
mod words;

use serde::Serialize;
use store::{AuditChain, AuditEntry, Store};

use self::filter::Filter;
use self::words::Names;
use super::context::{self, Context};
use super::number;
use crate::global_args::GlobalArgs;
use crate::output::table::pairs;
use crate::output::{self, CliError};

/// Entries per query.
const PAGE_SIZE: i64 = 1000;
const LIST_MAX: i64 = 1_000_000;

const EXAMPLES: &str = "\
Examples:
  memgate audit list                       show the last 50 entries
  memgate audit list --user ada@example.org --since 7d
  memgate audit export > audit.jsonl       export all entries, one JSON document per line
  memgate audit verify                     check that all entries match the chain of hashes
  memgate audit verify --head 1f0c...      also check that the log still contains this earlier head

Save the head that verify prints outside the database. The chain has no key: an attacker with write access to the
database can recompute or truncate it, and only an earlier head reveals that.";

const LIST_EXAMPLES: &str = "\
Examples:
  memgate audit list --user ada@example.org
  memgate audit list --since 24h --limit 1000
  memgate audit list --before 1200                   the page before entry 1200

Times are in UTC. Users are shown by their e-mail addresses, deleted ones by their ids; --json keeps what is stored.";

/// Read the audit log
#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum AuditCommand {
    /// List the newest entries, oldest of them first
    #[command(after_help = LIST_EXAMPLES)]
    List {
        /// Maximum number of entries
        #[arg(long, value_name = "N", default_value = "50", value_parser = number::between(1, LIST_MAX))]
        limit: i64,
        #[command(flatten)]
        filter: Filter,
    },
    /// Print all entries, oldest first, one JSON document per line
    #[command(after_help = "\
Example:
  memgate audit export > audit.jsonl")]
    Export,
    /// Check every entry against the chain of hashes; exit status 1 if it is broken
    #[command(after_help = EXAMPLES)]
    Verify {
        /// A hash that the log must contain: the head that an earlier `verify` printed
        #[arg(long, value_name = "HASH")]
        head: Option<String>,
    },
}

#[derive(Debug, Serialize)]
struct EntryList {
    entries: Vec<AuditEntry>,
}

#[derive(Debug, Serialize)]
struct Verified {
    entries: i64,
    head: String,
}

impl AuditCommand {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        context::with_store(global, async |context: &Context| {
            let store = &context.store;
            match self {
                Self::List { limit, filter } => {
                    let list = EntryList { entries: filter.newest(store, limit).await? };
                    let names = Names::read(store, &list.entries).await?;
                    context.print(&list, || names.rows(&list.entries))
                }
                Self::Export => export(store).await,
                Self::Verify { head } => {
                    let verified = verify(store, head.as_deref()).await?;
                    context.print(&verified, || {
                        pairs(&[("entries", verified.entries.to_string()), ("head", verified.head.clone())])
                    })
                }
            }
        })
    }
}

/// Calls `each` with every entry, oldest first.
async fn for_each_entry<F: FnMut(&AuditEntry) -> Result<(), CliError>>(
    store: &Store,
    mut each: F,
) -> Result<(), CliError> {
    let mut seq = 0;
    loop {
        let entries = store.audit_after(seq, PAGE_SIZE).await?;
        let Some(last) = entries.last() else { return Ok(()) };
        seq = last.seq;
        entries.iter().try_for_each(&mut each)?;
    }
}

async fn export(store: &Store) -> Result<(), CliError> {
    for_each_entry(store, |entry| {
        let line = serde_json::to_string(entry)
            .map_err(|error| CliError::new(format!("can't print an entry ({error})"), "report this bug"))?;
        output::write_out(&output::escape_controls(&line))
    })
    .await
}

async fn verify(store: &Store, head: Option<&str>) -> Result<Verified, CliError> {
    let mut chain = AuditChain::default();
    let mut found = head.is_none();
    for_each_entry(store, |entry| {
        chain.follow(entry).map_err(|error| CliError::from_error(&error))?;
        found |= head == Some(entry.hash.as_str());
        Ok(())
    })
    .await?;
    if !found {
        return Err(CliError::new(
            "the audit log no longer contains that head",
            "entries were changed or removed: restore the database from a backup and investigate the change",
        ));
    }
    Ok(Verified { entries: chain.entries, head: chain.head })
}
