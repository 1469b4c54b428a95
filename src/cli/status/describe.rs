//! The status as text.

use store::{IsolationFailure, Proxy};

use super::{Health, RoleHealth, Room, Status};
use crate::cli::image::{age_text, shown_version};
use crate::output::table;

impl Health {
    fn text(&self) -> String {
        let word = if self.ready { "ready" } else { "not ready" };
        self.message.as_ref().map_or(word.to_owned(), |message| format!("{word}: {message}"))
    }
}

impl RoleHealth {
    fn text(&self) -> String {
        let text = self.health.text();
        match &self.process {
            // One that isn't ready may be somebody else's, which its message says.
            Some(process) if self.health.ready => {
                format!("{text} (process {}, {})", process.pid, process.version)
            }
            _ => text,
        }
    }
}

impl Status {
    pub(super) fn describe(&self) -> String {
        let mut pairs: Vec<_> = self.roles.iter().map(|(role, health)| (*role, health.text())).collect();
        pairs.push(("store", self.store.text()));
        pairs.push(("docker", self.docker.text()));
        pairs.extend(self.image.as_ref().map(|image| {
            let age = age_text(image, self.image_is_old);
            ("image", format!("{}, {age}", shown_version(image)))
        }));
        pairs.extend(self.image_problem.as_ref().map(|why| ("image", format!("unknown: {why}"))));
        pairs.push(("instances", self.instances_text()));
        pairs.extend(self.isolation_text().map(|text| ("isolation", text)));
        pairs.extend(self.memory_text().map(|text| ("memory", text)));
        if self.memory.ready_instances > 0 {
            let ready = format!("{} run and wait for a sign-up", self.memory.ready_instances);
            pairs.push(("ready instances", ready));
        }
        pairs.extend(self.proxies.iter().map(|proxy| ("registered proxy", self.proxy_text(proxy))));
        if !self.foreign.is_empty() {
            pairs.push(("not memgate's", self.foreign.join(", ")));
        }
        if let Some(pid) = self.up {
            pairs.push(("memgate up", format!("process {pid}")));
        }
        pairs.push(("installation", self.installation.clone().unwrap_or_default()));
        table::pairs(&pairs)
    }

    /// What was promised to instances; nothing without a store.
    fn memory_text(&self) -> Option<String> {
        let Room { promised, free_bytes, plan, caches_that_fit, .. } = &self.memory;
        let megabytes = |bytes: i64| bytes >> 20;
        let (promised, budget) = (megabytes(promised.promised_bytes), megabytes(promised.budget_bytes));
        let room = match caches_that_fit {
            _ if promised > budget => ": further caches wait for room".to_owned(),
            Some(0) => format!(": no room for another cache of the plan {plan}, so sign-up is refused"),
            Some(fit) => {
                format!(", {} MB free: room for {fit} more caches of the plan {plan}", megabytes(*free_bytes))
            }
            None => String::new(),
        };
        (budget > 0).then(|| format!("{promised} MB of {budget} MB promised{room}"))
    }

    /// How many instances were checked, when, and what failed; nothing where none runs.
    fn isolation_text(&self) -> Option<String> {
        let it = &self.isolation;
        let oldest = table::time_since(it.oldest_at?);
        let mut text = format!("{} checked, the oldest check {oldest}", it.checked);
        for (count, what) in
            [(it.incomplete, "not fully checked"), (it.outdated, "with another image than new ones")]
        {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        if it.failed == 0 {
            return Some(text);
        }
        let name = |failure: &IsolationFailure| {
            format!("cache {} of {}: {}", failure.cache, failure.email, failure.detail)
        };
        let named: Vec<String> = it.failures.iter().map(name).collect();
        Some(format!("not ready: {} failed ({}); {text}", it.failed, named.join("; ")))
    }

    fn proxy_text(&self, proxy: &Proxy) -> String {
        let seen = table::time_since(proxy.seen_at);
        if self.silent_proxies.contains(&proxy.name) {
            return format!("not ready: no heartbeat of {} ({}), seen {seen}", proxy.name, proxy.version);
        }
        format!("{} ({}), seen {seen}", proxy.name, proxy.version)
    }

    fn instances_text(&self) -> String {
        let counts: Vec<_> = self.instances.iter().map(|(state, n)| format!("{n} {state}")).collect();
        match counts.join(", ") {
            text if text.is_empty() => "none".to_owned(),
            text if self.has_failed_instance() => format!("not ready: {text}"),
            text => text,
        }
    }
}
