//! The isolation check: whether each running container is shut off from everything else, again and again. A few instances
//! per pass, those with the oldest check first; each at least as often as the setting says. What is found is recorded with
//! its time, and drift goes to the reconciler, which repairs it as any other difference.

mod reachability;

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use store::{
    CheckResult, DesiredState, EventAction, EventCause, Instance, InstanceState, IsolationCheck,
    OperationKind, Timestamp, now,
};
use tokio::sync::mpsc::Sender;
use tokio::time::{MissedTickBehavior, interval};

use crate::docker::shown;
use crate::error::{self, Error};
use crate::events::Event;
use crate::execute::Executor;
use crate::firewall::{self, Checked as FirewallChecked};
use crate::liveness::Health;
use crate::plan::{Container, ContainerState, Repair};
use crate::spec::{PORT, Spec};
use reachability::reach;

/// Passes within the interval in which each instance is checked.
const PASSES: u32 = 50;
const PASS_INTERVAL_MIN: Duration = Duration::from_secs(1);
const PASS_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// Instances that a pass checks beyond its share: new ones, and in turn those that didn't pass, which are repaired meanwhile.
const EXTRA: usize = 4;
const CHECKS_MAX: usize = 8;
/// Other instances that a check tries to reach.
const SIBLINGS_MAX: usize = 3;
/// Ports of the host that a check tries: a closed one, which refuses where nothing filters, and some common ones.
const HOST_PORTS: [u16; 4] = [1, 22, 53, 2375];
/// The metadata service of clouds, which knows secrets of the host.
const METADATA: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(169, 254, 169, 254), 80);

/// What earlier checks found.
#[derive(Debug, Default)]
struct Checked {
    /// When it was last tried, and how that ended, by instance.
    last: HashMap<String, (Timestamp, CheckResult)>,
    /// Whether what the store has of an earlier process was read.
    seeded: bool,
}

/// Checks until it is dropped; `every`: the longest time between two checks of one instance.
pub(crate) async fn run(executor: &Executor, every: Duration, events: Sender<Event>) {
    let pass = (every / PASSES).clamp(PASS_INTERVAL_MIN, PASS_INTERVAL_MAX);
    let mut ticks = interval(pass);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut checked = Checked::default();
    loop {
        ticks.tick().await;
        if executor.known.is_store_away() {
            continue;
        }
        let running: Vec<Instance> = executor.known.all().into_iter().filter(is_running).collect();
        checked.seed(executor, &running).await;
        let due = checked.due(&running, share(running.len(), pass, every));
        let (checks, drifted) = executor.check_isolation_of(&due, &running).await;
        for check in checks.iter().filter(|check| checked.is_new_failure(check)) {
            executor.report_failure(check);
        }
        checked.note(&checks);
        executor.metrics.count_isolation(checked.last.values().map(|(_, result)| *result));
        if checks.is_empty() {
            continue;
        }
        let recorded = executor.store.set_isolation_checks(&checks);
        if let Err(error) = executor.metrics.store.observe("record_isolation", recorded).await {
            tracing::debug!(%error, "isolation checks can't be recorded now");
        }
        for instance in drifted {
            if events.send(Event::Drifted(instance)).await.is_err() {
                return;
            }
        }
    }
}

fn is_running(instance: &Instance) -> bool {
    instance.desired == DesiredState::Running && instance.state() == InstanceState::Running
}

/// How many instances a pass checks, so that all are checked in four fifths of the time.
fn share(instances: usize, pass: Duration, every: Duration) -> usize {
    let passes = (every.as_millis() * 4 / 5 / pass.as_millis().max(1)).max(1);
    instances.div_ceil(usize::try_from(passes).unwrap_or(usize::MAX))
}

impl Checked {
    /// Takes over the checks of an earlier process, so that those with the oldest check stay the first ones.
    async fn seed(&mut self, executor: &Executor, running: &[Instance]) {
        if self.seeded || running.is_empty() {
            return;
        }
        match executor.store.isolation_checks().await {
            Ok(checks) => self.load(checks, running),
            Err(error) => tracing::debug!(%error, "earlier isolation checks can't be read now"),
        }
        self.seeded = true;
    }

    /// What was checked is the container: nothing is known of another one. A failure is noted only once it is found again: who
    /// can write the store must not be able to keep it from being noted.
    fn load(&mut self, checks: Vec<IsolationCheck>, running: &[Instance]) {
        let containers: HashMap<&str, &str> =
            running.iter().filter_map(|it| Some((it.id.as_str(), recorded_container(it)?))).collect();
        let now = now();
        for check in checks {
            if containers.get(check.instance_id.as_str()) == Some(&check.container.as_str()) {
                let has_passed = result_of(&check) == CheckResult::Passed;
                let result = if has_passed { CheckResult::Passed } else { CheckResult::Unknown };
                self.last.entry(check.instance_id).or_insert((check.checked_at.min(now), result));
            }
        }
    }

    /// The instances to check: some that didn't pass last time, those that were never checked, those with the oldest check.
    fn due(&mut self, running: &[Instance], share: usize) -> Vec<Instance> {
        let ids: HashSet<&str> = running.iter().map(|instance| instance.id.as_str()).collect();
        self.last.retain(|id, _| ids.contains(id.as_str()));
        let rank = |instance: &&Instance| self.last.get(&instance.id).map(|(at, _)| *at);
        let has_failed = |instance: &&Instance| {
            self.last.get(&instance.id).is_some_and(|(_, result)| *result != CheckResult::Passed)
        };
        let (mut failed, mut others): (Vec<&Instance>, Vec<&Instance>) = running.iter().partition(has_failed);
        failed.sort_by_key(rank);
        others.sort_by_key(rank);
        let new = others.iter().take(EXTRA).filter(|it| rank(it).is_none()).count();
        let due = failed.into_iter().take(EXTRA).chain(others.into_iter().take(share.max(new)));
        due.cloned().collect()
    }

    /// Whether a check has failed, and the one before didn't.
    fn is_new_failure(&self, check: &IsolationCheck) -> bool {
        let before = self.last.get(&check.instance_id).map(|(_, result)| *result);
        result_of(check) == CheckResult::Failed && before != Some(CheckResult::Failed)
    }

    fn note(&mut self, checks: &[IsolationCheck]) {
        let now = now();
        self.last.extend(checks.iter().map(|check| (check.instance_id.clone(), (now, result_of(check)))));
    }
}

/// What a check says as a whole.
fn result_of(check: &IsolationCheck) -> CheckResult {
    let parts = [check.ports, check.restrictions, check.reachability, check.login];
    let has = |result| parts.contains(&result);
    match (has(CheckResult::Failed), has(CheckResult::Unknown)) {
        (true, _) => CheckResult::Failed,
        (false, true) => CheckResult::Unknown,
        (false, false) => CheckResult::Passed,
    }
}

impl Executor {
    /// Checks instances. Returns the checks, and the ids of those that need a repair.
    async fn check_isolation_of(
        &self,
        due: &[Instance],
        running: &[Instance],
    ) -> (Vec<IsolationCheck>, Vec<String>) {
        let checks: Vec<_> = due.iter().map(|instance| self.try_isolation(instance, running)).collect();
        let mut checks = stream::iter(checks).buffer_unordered(CHECKS_MAX);
        let (mut done, mut drifted) = (Vec::new(), Vec::new());
        while let Some(check) = checks.next().await {
            if result_of(&check) == CheckResult::Failed {
                drifted.push(check.instance_id.clone());
            }
            done.push(check);
        }
        (done, drifted)
    }

    /// Logs a failure, and notes one that no plan repairs: what is repaired leaves an event then.
    fn report_failure(&self, check: &IsolationCheck) {
        let IsolationCheck { instance_id, detail, .. } = check;
        tracing::warn!(instance = instance_id, detail, "the isolation check has failed");
        if check.reachability == CheckResult::Failed && check.restrictions != CheckResult::Failed {
            self.history.fail(instance_id, EventCause::Reachable, detail);
        }
    }

    /// Checks an instance. If that can't be done, that is the result: who looked at the others only would never tell.
    async fn try_isolation(&self, instance: &Instance, running: &[Instance]) -> IsolationCheck {
        match self.check_isolation(instance, running).await {
            Ok(Some(check)) => check,
            Ok(None) => unchecked(instance, "it has no container that runs as recorded"),
            Err(error) => unchecked(instance, &error::chain(&error)),
        }
    }

    /// `None` if it has no container that runs as recorded: it is being worked on.
    async fn check_isolation(
        &self,
        instance: &Instance,
        running: &[Instance],
    ) -> Result<Option<IsolationCheck>, Error> {
        let mut containers = self.docker.containers_of(&instance.id).await?;
        self.assess(&mut containers, |_| Spec::of(instance).ok()).await;
        let recorded = recorded_container(instance);
        let container = containers.into_iter().find(|it| Some(it.id.as_str()) == recorded && is_up(it));
        let Some(container) = container else { return Ok(None) };
        let mut detail = Vec::new();
        let isolation = container.isolation.clone().unwrap_or_default();
        let mut part = |failure: Option<String>| {
            let result = if failure.is_some() { CheckResult::Failed } else { CheckResult::Passed };
            detail.extend(failure);
            result
        };
        let ports = part(isolation.publishes.then(|| "it publishes ports".to_owned()));
        let restrictions = part(self.missing_restrictions(instance, &container).await?);
        let (reachability, reached) = self.check_reachability(instance, &container, running).await;
        let (login, health) = self.check_login(instance, &container).await;
        detail.extend(reached.into_iter().chain(health));
        let (instance_id, outdated) = (instance.id.clone(), container.outdated);
        let detail = detail.join("; ");
        let Container { id, image, .. } = container;
        Ok(Some(IsolationCheck {
            instance_id,
            container: id,
            ports,
            restrictions,
            reachability,
            login,
            image,
            outdated,
            detail,
            checked_at: now(),
        }))
    }

    async fn missing_restrictions(
        &self,
        instance: &Instance,
        container: &Container,
    ) -> Result<Option<String>, Error> {
        let isolation = container.isolation.clone().unwrap_or_default();
        let mut missing = Vec::new();
        if !isolation.lacks.is_empty() {
            missing.push(format!("it lacks: {}", isolation.lacks.join(", ")));
        }
        if !isolation.other_networks.is_empty() {
            let names: Vec<String> = isolation.other_networks.iter().take(5).map(|it| shown(it)).collect();
            missing.push(format!("it is on other networks: {}", names.join(", ")));
        }
        if self.limits_differ(container, Spec::of(instance).ok()) {
            // The limit of memory is lowered last.
            let asked = self.store.open_operations_of(&instance.cache_id).await?;
            if !asked.iter().any(|operation| operation.kind == OperationKind::Resize) {
                missing
                    .push("its limits of memory, CPU or processes aren't those that it should have".into());
            }
        }
        Ok((!missing.is_empty()).then(|| missing.join("; ")))
    }

    /// Tries to reach others from its network. If that works, restores what should prevent it, and tries again.
    async fn check_reachability(
        &self,
        instance: &Instance,
        container: &Container,
        running: &[Instance],
    ) -> (CheckResult, Option<String>) {
        let unknown =
            |why: String| (CheckResult::Unknown, Some(format!("reachability wasn't checked: {why}")));
        let isolation = container.isolation.clone().unwrap_or_default();
        let Ok(own) = container.address.parse::<Ipv4Addr>() else {
            return unknown("it has no address".into());
        };
        let targets = self.targets(instance, running);
        let first = match reach(&isolation, own, targets.clone()).await {
            Ok(reached) if reached.is_nothing() => return (CheckResult::Passed, None),
            Ok(reached) => reached,
            Err(why) => return unknown(why),
        };
        let (cause, what) = (EventCause::Reachable, first.describe());
        // That is the cause, and is repaired as such; and no rule gives ports back.
        if !isolation.other_networks.is_empty() || first.lacks_ports {
            return (CheckResult::Failed, Some(what));
        }
        let rules = self.firewall.ensure().await;
        let restored = rules.and_then(|rules| match rules {
            FirewallChecked::Complete => firewall::ensure_bridge_filter(),
            changed => firewall::ensure_bridge_filter().map(|_| changed),
        });
        match (restored, reach(&isolation, own, targets).await) {
            // Somebody else restored it first, or what answered was no container any more.
            (Ok(FirewallChecked::Complete), Ok(reached)) if reached.is_nothing() => {
                (CheckResult::Passed, Some(format!("{what}, and not any more just after")))
            }
            (Ok(_), Ok(reached)) if reached.is_nothing() => {
                let repair = Repair { cause, action: EventAction::FirewallRestored, contents_lost: false };
                self.history.record(&instance.id, repair, what.clone());
                (CheckResult::Passed, Some(format!("{what}, until the firewall was restored just now")))
            }
            (Err(error), _) => (CheckResult::Failed, Some(format!("{what} ({error})"))),
            (Ok(_), _) => (CheckResult::Failed, Some(what)),
        }
    }

    /// What it must not reach: other instances, the host's end of its network, and the metadata service.
    fn targets(&self, instance: &Instance, running: &[Instance]) -> Vec<SocketAddrV4> {
        let address = |it: &Instance| it.route.as_ref().and_then(|route| route.address.clone());
        // A broken role may write any address into the store.
        let others = running.iter().filter(|it| it.id != instance.id).filter_map(|it| {
            address(it)?.parse::<Ipv4Addr>().ok().filter(|ip| self.networks.can_have_instance((*ip).into()))
        });
        let mut others: Vec<Ipv4Addr> = others.collect();
        let begin = self.observations.next_sibling(others.len());
        others.rotate_left(begin);
        let siblings = others.into_iter().take(SIBLINGS_MAX).map(|ip| SocketAddrV4::new(ip, PORT));
        let network = address(instance).and_then(|address| self.networks.find(&address));
        let gateway = network.and_then(|network| network.gateway.parse::<Ipv4Addr>().ok());
        let host = gateway.into_iter().flat_map(|ip| HOST_PORTS.map(|port| SocketAddrV4::new(ip, port)));
        siblings.chain(host).chain([METADATA]).collect()
    }

    async fn check_login(&self, instance: &Instance, container: &Container) -> (CheckResult, Option<String>) {
        let target = (container.id.as_str(), container.generation, container.address.as_str());
        match self.check_container(&instance.id, target).await {
            Health::Healthy(_) => (CheckResult::Passed, None),
            Health::Wrong => {
                let what = "its memcached needs no login, or rejects the lane's";
                (CheckResult::Failed, Some(what.to_owned()))
            }
            Health::Full | Health::Silent | Health::Unreachable => (
                CheckResult::Unknown,
                Some("the login wasn't checked: memcached doesn't answer now".to_owned()),
            ),
        }
    }
}

fn recorded_container(instance: &Instance) -> Option<&str> {
    instance.route.as_ref()?.container.as_deref()
}

/// The record of a check that couldn't be done.
fn unchecked(instance: &Instance, why: &str) -> IsolationCheck {
    let unknown = CheckResult::Unknown;
    IsolationCheck {
        instance_id: instance.id.clone(),
        container: recorded_container(instance).unwrap_or_default().to_owned(),
        ports: unknown,
        restrictions: unknown,
        reachability: unknown,
        login: unknown,
        image: String::new(),
        outdated: false,
        detail: format!("nothing was checked: {why}"),
        checked_at: now(),
    }
}

fn is_up(container: &Container) -> bool {
    container.state == ContainerState::Running && container.attached
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{instance, route};

    fn instances(count: usize) -> Vec<Instance> {
        let template = instance(DesiredState::Running, None);
        let instance = |number: usize| Instance { id: format!("{number:03}"), ..template.clone() };
        (0..count).map(instance).collect()
    }

    fn check(instance: &Instance, ports: CheckResult) -> IsolationCheck {
        let passed = CheckResult::Passed;
        let unchecked = unchecked(instance, "");
        IsolationCheck { ports, restrictions: passed, reachability: passed, login: passed, ..unchecked }
    }

    //
    #[test]
    fn all_are_checked_in_turn_and_failed_ones_at_once() {
        let running = instances(10);
        let mut checked = Checked::default();
        let ids = |due: &[Instance]| due.iter().map(|it| it.id.clone()).collect::<Vec<_>>();
        let mut seen = HashSet::new();
        for _ in 0..3 {
            let due = checked.due(&running, 1);
            assert_eq!(due.len(), 4.min(running.len() - seen.len()), "new ones first");
            seen.extend(ids(&due));
            let checks: Vec<_> = due.iter().map(|it| check(it, CheckResult::Passed)).collect();
            checked.note(&checks);
        }
        assert_eq!(seen.len(), 10);
        checked.note(&[check(&running[7], CheckResult::Failed)]);
        assert_eq!(ids(&checked.due(&running, 2)), ["007", "000", "001"]);
        // One that can't be checked keeps nobody from his turn.
        checked.note(&[unchecked(&running[8], "it is gone")]);
        assert_eq!(ids(&checked.due(&running, 1)), ["007", "008", "000"]);
        assert_eq!(ids(&checked.due(&running[..3], 2)), ["000", "001"]);
        let failed = check(&running[0], CheckResult::Failed);
        assert!(checked.is_new_failure(&failed));
        checked.note(std::slice::from_ref(&failed));
        assert!(!checked.is_new_failure(&failed), "reported once");
        assert_eq!(checked.last.len(), 3, "nothing is kept of those that run no more");
    }

    //
    #[test]
    fn checks_of_an_earlier_process_count_for_the_same_container() {
        let running: Vec<Instance> = instances(3)
            .into_iter()
            .map(|it| Instance { route: route(InstanceState::Running, 1), ..it })
            .collect();
        let earlier = |number: usize, container: &str| IsolationCheck {
            container: container.into(),
            checked_at: now().saturating_sub(Duration::from_secs(60)),
            ..check(&running[number], CheckResult::Failed)
        };
        let mut checked = Checked::default();
        checked.load(vec![earlier(0, "c1"), earlier(1, "c0"), unchecked(&instances(4)[3], "")], &running);
        assert_eq!(checked.last.keys().collect::<Vec<_>>(), ["000"]);
        assert!(checked.is_new_failure(&earlier(0, "c1")), "the record alone proves nothing");
        let mut due = checked.due(&running, 1).into_iter().map(|it| it.id);
        assert_eq!(due.next().as_deref(), Some("000"), "it didn't pass");
    }

    //
    #[test]
    fn a_pass_checks_its_share() {
        let ten_minutes = Duration::from_mins(10);
        let pass = Duration::from_secs(10);
        for (instances, expected) in [(0, 0), (1, 1), (48, 1), (49, 2), (1_000, 21), (20_000, 417)] {
            assert_eq!(share(instances, pass, ten_minutes), expected, "{instances}");
        }
    }
}
