//! What a role tells of its health: who it is, whether it makes progress, whether it can work, and what is wrong although
//! it works. `health/endpoint.rs` serves it.

mod endpoint;
mod metrics;
mod progress;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};

use crate::http::ConnectionMetrics;
use crate::metrics::register_process;

pub use endpoint::{serve, serve_on};
use progress::Loops;
pub use progress::Progress;

/// The part of [`Health::set_problem`] for a store that can't be read; `/storez` reports it.
pub const STORE: &str = "store";
/// The part for a store that can't be written; `/storez` reports it too.
pub const STORE_WRITES: &str = "store_writes";

/// Which process answers on a health endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// The installation's id.
    pub installation: String,
    /// Name of the role.
    pub role: String,
    /// memgate's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started: milliseconds since 1970.
    pub started_at: u64,
}

impl ProcessInfo {
    /// Describes this process.
    #[must_use]
    pub fn new(installation: &str, role: &str, version: &str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            installation: installation.to_owned(),
            role: role.to_owned(),
            version: version.to_owned(),
            pid: std::process::id(),
            started_at: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// All that a role says of itself; `/status` serves it as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who answers.
    #[serde(flatten)]
    pub process: ProcessInfo,
    /// Its loops make progress.
    pub alive: bool,
    /// It can work.
    pub ready: bool,
    /// It isn't ready, and will be without help as soon as what it waits for is there.
    pub waiting: bool,
    /// Why it isn't alive or ready.
    pub message: Option<String>,
    /// What is wrong although it works, by part.
    pub problems: BTreeMap<String, String>,
    /// What the operator should see to in time, by part.
    pub notices: BTreeMap<String, String>,
}

/// A role's health. Starts as not ready, with the reason "starting". Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    process: ProcessInfo,
    status: Mutex<Status>,
    loops: Loops,
    connections: ConnectionMetrics,
    /// Metrics of the process and of the endpoint.
    own_metrics: Registry,
    /// Those of the role, once it has some.
    role_metrics: Mutex<Vec<Registry>>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new(ProcessInfo::default())
    }
}

#[derive(Debug)]
struct Status {
    ready: Result<(), String>,
    waiting: bool,
    problems: BTreeMap<&'static str, String>,
    notices: BTreeMap<&'static str, String>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            ready: Err("starting".into()),
            waiting: true,
            problems: BTreeMap::new(),
            notices: BTreeMap::new(),
        }
    }
}

impl Health {
    /// The health of this process.
    #[must_use]
    pub fn new(process: ProcessInfo) -> Self {
        let mut own_metrics = Registry::default();
        register_process(&mut own_metrics);
        let connections = own_metrics.sub_registry_with_prefix("memgate_health");
        let connections = ConnectionMetrics::register(connections);
        Self(Arc::new(Shared {
            process,
            status: Mutex::default(),
            loops: Loops::default(),
            connections,
            own_metrics,
            role_metrics: Mutex::default(),
        }))
    }

    /// Marks the role as ready.
    pub fn ready(&self) {
        let mut status = self.status();
        (status.ready, status.waiting) = (Ok(()), false);
    }

    /// Marks the role as not ready. Operators read the reason: it names the fix.
    pub fn not_ready(&self, reason: impl Into<String>) {
        let mut status = self.status();
        (status.ready, status.waiting) = (Err(reason.into()), false);
    }

    /// Marks the role as not ready until something outside of it is there: it then gets ready without help.
    pub fn waiting(&self, reason: impl Into<String>) {
        let mut status = self.status();
        (status.ready, status.waiting) = (Err(reason.into()), true);
    }

    /// Whether the role is marked as ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status().ready.is_ok()
    }

    /// Sets or clears (`None`) what is wrong in a part although the role works: `memgate status` fails for it.
    pub fn set_problem(&self, part: &'static str, problem: Option<String>) {
        set(&mut self.status().problems, part, problem);
    }

    /// Whether a part has a problem.
    #[must_use]
    pub fn has_problem(&self, part: &'static str) -> bool {
        self.status().problems.contains_key(part)
    }

    /// Sets or clears (`None`) what the operator should see to in time.
    pub fn set_notice(&self, part: &'static str, notice: Option<String>) {
        set(&mut self.status().notices, part, notice);
    }

    /// Registers a loop that must make progress: `/healthz` fails when it doesn't, until the returned handle is dropped.
    #[must_use]
    pub fn watch_loop(&self, name: impl Into<String>) -> Progress {
        self.0.loops.watch(name.into())
    }

    /// Whether every loop has made progress lately; a supervisor restarts a role that stays without.
    #[must_use]
    pub fn makes_progress(&self) -> bool {
        self.0.loops.make_progress()
    }

    /// Serves these metrics on `/metrics` too. No two registries may have a name in common.
    pub fn publish_metrics(&self, metrics: Registry) {
        self.0.role_metrics.lock().unwrap_or_else(PoisonError::into_inner).push(metrics);
    }

    /// All of it.
    #[must_use]
    pub fn report(&self) -> Report {
        let stuck = self.0.loops.stuck();
        let status = self.status();
        let owned = |parts: &BTreeMap<&'static str, String>| {
            parts.iter().map(|(part, text)| ((*part).to_owned(), text.clone())).collect()
        };
        Report {
            process: self.0.process.clone(),
            alive: stuck.is_none(),
            ready: stuck.is_none() && status.ready.is_ok(),
            waiting: stuck.is_none() && status.waiting,
            message: stuck.or_else(|| status.ready.clone().err()),
            problems: owned(&status.problems),
            notices: owned(&status.notices),
        }
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Report {
    /// Problems and notices on one line, if there are any.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let texts: Vec<&str> =
            self.problems.values().chain(self.notices.values()).map(String::as_str).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

fn set(parts: &mut BTreeMap<&'static str, String>, part: &'static str, text: Option<String>) {
    match text {
        Some(text) => drop(parts.insert(part, text)),
        None => drop(parts.remove(part)),
    }
}

#[cfg(test)]
mod tests;
