//! Limits of containers, read and restored without replacing the container.

use bollard::models::{
    ContainerMemoryStats, ContainerUpdateBody, HostConfig, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::StatsOptionsBuilder;
use futures_util::StreamExt as _;

use super::Docker;
use crate::error::Error;
use crate::limits::{Limits, all_nano_cpus};

impl Docker {
    /// Sets the limits of a container that has others. `all_cpus` are the CPUs of this machine: Docker can't set "any",
    /// nor unset what was set.
    pub(crate) async fn set_limits(
        &self,
        container: &str,
        (has, wanted): (&Limits, &Limits),
        all_cpus: &str,
    ) -> Result<(), Error> {
        let was_set = |value: i64, wanted: i64| (value != 0).then_some(wanted);
        let body = ContainerUpdateBody {
            memory: Some(wanted.memory),
            memory_swap: Some(wanted.memory_swap),
            memory_reservation: was_set(has.memory_reservation, wanted.memory_reservation),
            nano_cpus: match (has.nano_cpus, wanted.nano_cpus) {
                (0, 0) => None,
                (_, 0) => Some(all_nano_cpus(all_cpus)),
                (_, wanted) => Some(wanted),
            },
            cpu_shares: (!has.has_cpu_shares(wanted)).then_some(wanted.cpu_shares),
            cpuset_cpus: (!has.cpuset.is_empty()).then(|| all_cpus.to_owned()),
            pids_limit: Some(wanted.processes),
            restart_policy: Some(restart_policy()),
            ..Default::default()
        };
        let request = self.client()?.update_container(container, body);
        self.change("change a container's limits", request).await
    }
}

impl Docker {
    /// Bytes of memory that a container uses and can't give back at once; `None` if Docker doesn't know.
    pub(crate) async fn memory_usage(&self, container: &str) -> Result<Option<i64>, Error> {
        let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
        let mut stream = std::pin::pin!(self.client()?.stats(container, Some(options)));
        let first = async { stream.next().await.transpose() };
        let read = self.read("read the memory of a container", first).await?;
        Ok(read.and_then(|read| read.memory_stats).and_then(|memory| in_use(&memory)))
    }
}

/// Without cached files, which the kernel drops when it needs memory. Their name depends on the version of control groups.
fn in_use(memory: &ContainerMemoryStats) -> Option<i64> {
    let stats = memory.stats.as_ref();
    let files = stats.and_then(|it| it.get("total_inactive_file").or_else(|| it.get("inactive_file")));
    let used = memory.usage?.saturating_sub(files.copied().unwrap_or(0));
    i64::try_from(used).ok()
}

/// Docker restarts nothing by itself: after a reboot it would do so before the firewall is in place.
pub(super) fn restart_policy() -> RestartPolicy {
    RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }
}

pub(super) fn limits_of(host: &HostConfig) -> Limits {
    let number = |value: Option<i64>| value.unwrap_or_default();
    let policy = host.restart_policy.as_ref().and_then(|policy| policy.name);
    Limits {
        memory: number(host.memory),
        memory_swap: number(host.memory_swap),
        memory_reservation: number(host.memory_reservation),
        nano_cpus: number(host.nano_cpus),
        cpu_shares: number(host.cpu_shares),
        cpuset: host.cpuset_cpus.clone().unwrap_or_default(),
        processes: number(host.pids_limit),
        restarts: !matches!(policy, None | Some(RestartPolicyNameEnum::NO | RestartPolicyNameEnum::EMPTY)),
    }
}
