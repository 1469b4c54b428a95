//! What counts as wrong.

use std::time::Duration;

use store::{
    AuditChain, HostCapacity, HostMemory, IsolationSummary, Plan, Proxy, Timestamp, UserFigures,
    WriteFailure, WriteHealth,
};

use super::*;
use crate::audit_check::{AuditResult, AuditStatus};

fn plan() -> Plan {
    Plan {
        name: "default".to_owned(),
        memory_mb: 64,
        connections: 100,
        item_size_max: 1 << 20,
        operations_per_second: None,
        bytes_per_second: None,
        warm: false,
        sleep_after_seconds: None,
        cpu_weight: 100,
        caches_per_user: None,
        price_label: None,
    }
}

fn proxy(applied: i64, age: u64) -> Proxy {
    Proxy {
        id: "a".to_owned(),
        name: "vm:11211".to_owned(),
        version: "1".to_owned(),
        started_at: Timestamp::EPOCH,
        seen_at: now().saturating_sub(Duration::from_secs(age)),
        applied,
    }
}

fn memory(promised_bytes: i64, waiting: i64, changed_at: Timestamp) -> Option<HostMemory> {
    let capacity =
        HostCapacity { budget_bytes: 10 << 30, reserved_bytes: 0, growth_mb: 0, waiting, changed_at };
    Some(HostMemory { capacity, promised_bytes })
}

fn healthy() -> Facts {
    Facts {
        users: UserFigures { users: 1, suspended: 0, admins: 1 },
        states: vec![(InstanceState::Running, 3)],
        failed: Vec::new(),
        isolation: IsolationSummary::default(),
        memory: memory(1 << 30, 0, now()),
        plan: Some(plan()),
        proxies: vec![proxy(500, 0)],
        revision: 500,
        denials: Vec::new(),
        failing_webhooks: 0,
        writes: WriteHealth::default(),
        audit: AuditStatus::default(),
    }
}

fn ids(facts: &Facts) -> Vec<&'static str> {
    of(facts).into_iter().map(|problem| problem.id).collect()
}

#[test]
fn each_problem_is_named() {
    assert_eq!(ids(&healthy()), [""; 0]);
    let failure =
        WriteFailure { since: Duration::ZERO, last: Duration::ZERO, message: "the disk is full".to_owned() };
    let broken = AuditResult { at: now(), chain: AuditChain::default(), problem: Some("gap".to_owned()) };
    let old = now().saturating_sub(Duration::from_secs(61));
    let mut audit = AuditStatus::default();
    audit.last = Some(broken);
    for (id, facts) in [
        ("store", Facts { writes: WriteHealth { last_success: None, failure: Some(failure) }, ..healthy() }),
        ("audit", Facts { audit, ..healthy() }),
        (
            "isolation",
            Facts { isolation: IsolationSummary { failed: 1, ..IsolationSummary::default() }, ..healthy() },
        ),
        ("failed", Facts { states: vec![(InstanceState::Failed, 2)], ..healthy() }),
        ("provisioner", Facts { memory: None, ..healthy() }),
        ("provisioner", Facts { memory: memory(0, 5, old), ..healthy() }),
        ("memory", Facts { memory: memory(1 << 30, 1, now()), ..healthy() }),
        ("memory", Facts { memory: memory(10 << 30, 0, now()), ..healthy() }),
        ("proxy", Facts { proxies: Vec::new(), ..healthy() }),
        ("proxy", Facts { proxies: vec![proxy(500, 11)], ..healthy() }),
    ] {
        let found = of(&facts);
        assert_eq!(ids(&facts), [id], "{found:?}");
        assert!(found[0].is_error, "{found:?}");
    }
}

#[test]
fn what_users_do_not_notice_is_a_warning_behind_errors() {
    let nearly = Facts { memory: memory((9 << 30) + (1 << 29), 0, now()), ..healthy() };
    let lagging = Facts { proxies: vec![proxy(399, 0)], ..healthy() };
    for (facts, id) in [(&nearly, "memory"), (&lagging, "proxy")] {
        let found = of(facts);
        assert_eq!((found.len(), found[0].id, found[0].is_error), (1, id, false), "{found:?}");
    }
    assert_eq!(
        ids(&Facts { proxies: vec![proxy(400, 0)], ..healthy() }),
        [""; 0],
        "it applies them just now"
    );
    let both = Facts { states: vec![(InstanceState::Failed, 1)], ..nearly };
    assert_eq!(ids(&both), ["failed", "memory"]);
    assert_eq!(of(&both)[0].title, "1 cache has failed.");
}
