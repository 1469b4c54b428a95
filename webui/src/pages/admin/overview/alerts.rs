//! What is wrong with the installation, the worst first.

use store::{InstanceState, IsolationFailure, ListedCache, now};

use super::Facts;
use crate::pages::admin::Tab;
use crate::pages::admin::proxies::Health;
use crate::view::date::ago;
use crate::view::number::{bytes, grouped};

/// Percent of the machine's memory: when more of it is promised, an operator should see to more.
const PROMISED_MAX: i64 = 90;

/// Something that an operator should see to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Alert {
    pub(super) id: &'static str,
    /// Whether users notice it, or the installation isn't safe.
    pub(super) is_error: bool,
    pub(super) title: String,
    pub(super) text: String,
    /// Where more is said of it.
    pub(super) link: Option<(String, &'static str)>,
}

impl Alert {
    fn error(id: &'static str, title: impl Into<String>, text: impl Into<String>) -> Self {
        Self { id, is_error: true, title: title.into(), text: text.into(), link: None }
    }

    fn warning(id: &'static str, title: impl Into<String>, text: impl Into<String>) -> Self {
        Self { is_error: false, ..Self::error(id, title, text) }
    }

    fn at(self, path: impl Into<String>, label: &'static str) -> Self {
        Self { link: Some((path.into(), label)), ..self }
    }
}

/// All alerts, errors before warnings.
pub(super) fn of(facts: &Facts) -> Vec<Alert> {
    let found =
        [writes(facts), audit(facts), isolation(facts), failed(facts), provisioner(facts), memory(facts)];
    let mut all: Vec<Alert> = found.into_iter().flatten().chain(proxies(facts)).collect();
    all.sort_by_key(|alert| !alert.is_error);
    all
}

fn writes(facts: &Facts) -> Option<Alert> {
    let failure = facts.writes.failure.as_ref()?;
    let text = format!("Writes have failed since the first did {}: {}", ago(failure.since), failure.message);
    Some(Alert::error("store", "The store takes no changes.", text))
}

fn audit(facts: &Facts) -> Option<Alert> {
    let problem = facts.audit.last.as_ref()?.problem.clone()?;
    Some(Alert::error("audit", "The audit log is broken.", problem).at(Tab::Audit.path(), "Audit log"))
}

fn isolation(facts: &Facts) -> Option<Alert> {
    let it = &facts.isolation;
    if it.failed == 0 {
        return None;
    }
    let name = |failure: &IsolationFailure| {
        format!("cache {} of {}: {}", failure.cache, failure.email, failure.detail)
    };
    let named: Vec<String> = it.failures.iter().map(name).collect();
    let title = format!("{} not isolated.", caches(it.failed, "is", "are"));
    Some(Alert::error("isolation", title, named.join("; ")).at(Tab::Caches.path(), "Caches"))
}

fn failed(facts: &Facts) -> Option<Alert> {
    let count = facts.count(InstanceState::Failed);
    if count == 0 {
        return None;
    }
    let name = |cache: &ListedCache| {
        let why = cache.message.as_deref().unwrap_or("no reason is known");
        format!("{} of {}: {why}", cache.name, cache.email)
    };
    let named: Vec<String> = facts.failed.iter().map(name).collect();
    let title = format!("{} failed.", caches(count, "has", "have"));
    Some(Alert::error("failed", title, named.join("; ")).at("/admin/caches?state=failed", "Failed caches"))
}

fn provisioner(facts: &Facts) -> Option<Alert> {
    let text = match &facts.memory {
        Some(memory) if memory.capacity.is_valid() => return None,
        Some(memory) => format!("Its last good pass was {}.", ago(now().since(memory.capacity.changed_at))),
        None => "It has never completed a pass.".to_owned(),
    };
    let text = format!("{text} Caches run on, but none is started, repaired or changed: see memgate status.");
    Some(Alert::error("provisioner", "The provisioner doesn’t work.", text))
}

fn memory(facts: &Facts) -> Option<Alert> {
    let memory = facts.memory.as_ref()?;
    let (promised, budget) = (memory.promised_bytes, memory.capacity.budget_bytes);
    let of = format!("{} of {} are promised.", bytes(promised), bytes(budget));
    let waiting = memory.capacity.waiting;
    if memory.capacity.is_valid() && waiting > 0 {
        let title = format!("{} for memory.", caches(waiting, "waits", "wait"));
        return Some(Alert::error("memory", title, of));
    }
    if facts.plan.as_ref().is_some_and(|plan| memory.caches_that_fit(plan) == 0) {
        let title = "There is no room for another cache, so sign-up is refused.";
        return Some(Alert::error("memory", title, of));
    }
    (promised.saturating_mul(100) > budget.saturating_mul(PROMISED_MAX))
        .then(|| Alert::warning("memory", "The machine’s memory is nearly promised.", of))
}

fn proxies(facts: &Facts) -> Vec<Alert> {
    if facts.proxies.is_empty() {
        let text =
            "None has had a heartbeat within a minute, so no cache can be reached: see memgate status.";
        return vec![Alert::error("proxy", "No proxy runs.", text).at(Tab::Proxies.path(), "Proxies")];
    }
    let problem = |proxy| {
        let health = Health::of(proxy, facts.revision);
        let title = match health {
            Health::Ready => return None,
            Health::Lags => format!("The proxy {} lags.", proxy.name),
            Health::Silent | Health::Gone => format!("The proxy {} is silent.", proxy.name),
        };
        let made = if health == Health::Lags { Alert::warning } else { Alert::error };
        Some(made("proxy", title, health.text(proxy, facts.revision)).at(Tab::Proxies.path(), "Proxies"))
    };
    facts.proxies.iter().filter_map(problem).collect()
}

/// `1 cache has`, `2 caches have`.
fn caches(count: i64, one: &str, several: &str) -> String {
    if count == 1 { format!("1 cache {one}") } else { format!("{} caches {several}", grouped(count)) }
}

#[cfg(test)]
mod tests;
