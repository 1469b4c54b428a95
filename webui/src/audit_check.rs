//! Checks the chain of the audit log in the background, so that no page waits for it: once a day, and when asked to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use store::{AuditChain, AuditEntry, Store, StoreError, Timestamp, now};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// When the first check begins after the start.
const FIRST_AFTER: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// Entries that are read at a time.
const CHUNK_MAX: i64 = 500;
/// Rest between two chunks: others want the store too.
const CHUNK_INTERVAL: Duration = Duration::from_millis(10);

/// The check and its results.
#[derive(Debug, Default)]
pub(crate) struct AuditCheck {
    status: Mutex<AuditStatus>,
    wanted: Notify,
}

/// How far the check is, and how the last one ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuditStatus {
    /// Entries that the check has seen which runs now, or waits to begin.
    pub(crate) running: Option<i64>,
    pub(crate) last: Option<AuditResult>,
    /// The longest chain that was found in order: it has to stay.
    known: AuditChain,
}

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditResult {
    pub(crate) at: Timestamp,
    /// Entries that follow each other.
    pub(crate) chain: AuditChain,
    /// Why the chain is broken.
    pub(crate) problem: Option<String>,
}

/// What follows the chain.
struct Check {
    chain: AuditChain,
    /// What an earlier check has found.
    known: AuditChain,
}

impl AuditCheck {
    /// Begins a check now, unless one runs.
    pub(crate) fn request(&self) {
        let mut status = self.lock();
        if status.running.is_none() {
            status.running = Some(0);
            self.wanted.notify_one();
        }
    }

    pub(crate) fn status(&self) -> AuditStatus {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, AuditStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks all entries, in chunks.
    async fn check(&self, store: &Store) {
        self.lock().running = Some(0);
        let known = self.lock().known.clone();
        let ended = self.follow(store, known).await;
        let mut status = self.lock();
        status.running = None;
        match ended {
            Ok(result) => {
                match &result.problem {
                    Some(problem) => tracing::error!(%problem, "the audit log was tampered with"),
                    None => status.known = result.chain.clone(),
                }
                status.last = Some(result);
            }
            Err(error) => tracing::warn!(%error, "failed to check the audit log"),
        }
    }

    async fn follow(&self, store: &Store, known: AuditChain) -> Result<AuditResult, StoreError> {
        let mut check = Check { chain: AuditChain::default(), known };
        loop {
            let entries = store.audit_after(check.chain.entries, CHUNK_MAX).await?;
            let problem = match &*entries {
                [] => return Ok(check.end()),
                entries => entries.iter().find_map(|entry| check.follow(entry)),
            };
            if problem.is_some() {
                return Ok(AuditResult { at: now(), chain: check.chain, problem });
            }
            self.lock().running = Some(check.chain.entries);
            sleep(CHUNK_INTERVAL).await;
        }
    }
}

impl Check {
    /// Follows the chain to the next entry. Returns why that isn't possible.
    fn follow(&mut self, entry: &AuditEntry) -> Option<String> {
        if let Err(error) = self.chain.follow(entry) {
            return Some(error.to_string());
        }
        let is_other = self.chain.entries == self.known.entries && self.chain.head != self.known.head;
        is_other.then(|| format!("entries up to {} were written again since the last check", entry.seq))
    }

    fn end(self) -> AuditResult {
        let Self { chain, known } = self;
        let problem = (chain.entries < known.entries).then(|| {
            format!("the last check found {} entries, now there are {}", known.entries, chain.entries)
        });
        AuditResult { at: now(), chain, problem }
    }
}

/// Checks the audit log until `stop`.
pub(crate) async fn run(check: Arc<AuditCheck>, store: Store, stop: CancellationToken) {
    let checks = async {
        let mut wait = FIRST_AFTER;
        loop {
            tokio::select! {
                () = check.wanted.notified() => {}
                () = sleep(wait) => {}
            }
            check.check(&store).await;
            wait = INTERVAL;
        }
    };
    let _: Option<()> = stop.run_until_cancelled(checks).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn entries(count: usize) -> Vec<AuditEntry> {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&store::Database::Sqlite(folder.path().join("memgate.db"))).await.unwrap();
        for n in 0..count {
            store.note("test", &format!("entry {n}"), "").await.unwrap();
        }
        store.audit_after(0, 100).await.unwrap()
    }

    fn check(known: &AuditChain, entries: &[AuditEntry]) -> AuditResult {
        let mut check = Check { chain: AuditChain::default(), known: known.clone() };
        match entries.iter().find_map(|entry| check.follow(entry)) {
            Some(problem) => AuditResult { at: now(), chain: check.chain, problem: Some(problem) },
            None => check.end(),
        }
    }

    // M-5.
    #[tokio::test]
    async fn what_was_found_once_has_to_stay() {
        let log = entries(5).await;
        let first = check(&AuditChain::default(), &log[..4]);
        assert_eq!((first.chain.entries, &first.problem), (4, &None));
        assert_eq!(check(&first.chain, &log).problem, None, "it may grow");
        let shorter = check(&first.chain, &log[..3]).problem.unwrap();
        assert_eq!(shorter, "the last check found 4 entries, now there are 3");
        let other = check(&first.chain, &entries(5).await).problem.unwrap();
        assert!(other.starts_with("entries up to 4 were written again"), "{other}");
        let mut changed = log.clone();
        changed[1].detail = "x".to_owned();
        let changed = check(&AuditChain::default(), &changed);
        assert!(changed.problem.unwrap().starts_with("entry 2 of the audit log was changed"));
        assert_eq!(changed.chain.entries, 1);
        let gap = check(&AuditChain::default(), &[log[0].clone(), log[2].clone()]);
        assert!(gap.problem.unwrap().contains("gap at entry 2"));
    }
}
