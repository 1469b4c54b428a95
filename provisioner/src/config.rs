//! The section `[provisioner]` of `memgate.toml`, and its check.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use store::InstanceNetworks;

use crate::error::Error;
use crate::firewall::PROXY_USER;
use crate::subnet::Subnet;

const DOCKER_SOCKET: &str = "/var/run/docker.sock";
const THREADS_MAX: u32 = 16;
/// Threads of a memcached without a CPU limit, on a machine with as many CPUs: memcached's own default.
const THREADS_UNLIMITED: u32 = 4;

/// The section `[provisioner]` of `memgate.toml`.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address of the health endpoint.
    pub health: SocketAddr,
    /// The image to pull (`memcached:1.6@sha256:...`). Without one, an image is built from the distribution's
    /// memcached package.
    pub image: Option<String>,
    /// The age in days of the image that new containers get from which `memgate status` and `memgate image show` say that it
    /// is old.
    pub image_age_days: u64,
    /// How long a released address is kept unused before another instance may get it.
    pub address_cooldown_seconds: u64,
    /// The pool of the networks (each a /22): private addresses that nothing else on this machine uses.
    pub subnets: String,
    /// The interval of full resyncs, which run even if nothing has changed.
    pub reconcile_seconds: u64,
    /// The longest time between two checks of an instance's isolation, 60 to 86,400: that it publishes no port, has every restriction,
    /// reaches nothing from its network, and requires a login.
    pub isolation_check_seconds: u64,
    /// CPUs that one instance may use at most, whatever is free; 0 for no such limit. While several want the CPUs, their
    /// plans' weights share them out.
    pub cpus: f64,
    /// Threads of a memcached that serve connections (its `-t`), in containers that are made from now on. 0 is `cpus`, rounded
    /// up, 16 at most; without a limit of CPUs it is the machine's CPUs, 4 at most. More threads than CPUs use the limit up
    /// sooner, and then wait for tens of milliseconds.
    pub memcached_threads: u32,
    /// Docker's socket.
    pub docker_socket: PathBuf,
    /// Maximum of the sum of all instances' memory limits, in MiB, beyond which sign-up and resizing are refused; by default
    /// `overcommit` times this machine's memory. An instance's limit is its memory, a quarter of that, and about 60 MiB.
    pub memory_mb: Option<u32>,
    /// Days for which metered hours are kept, 1 to 4,000: what `memgate usage export` prints. Only days in which something was
    /// metered count, so a clock that is wrong deletes no bill.
    pub usage_days: u32,
    /// How much of the machine's memory is shared out to instances, unless `memory_mb` says: most caches never fill.
    pub overcommit: f64,
    /// Instances of the default plan, unless that is warm, that run before anybody asks for them, so that sign-ups don't wait;
    /// 0 for none. They count against the memory, and make room for caches that need it.
    pub ready_instances: usize,
    /// The user of the proxy, by name or number: beside root's, only its processes reach containers.
    pub proxy_user: String,
    /// The file that names the image that was built last, of those that were built here. Only root writes it; without it,
    /// the newest counts.
    #[serde(skip)]
    pub chosen_image: Option<PathBuf>,
    /// A shorter time than `isolation_check_seconds` may be, for tests.
    #[serde(skip)]
    pub isolation_interval: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            health: SocketAddr::from((Ipv4Addr::LOCALHOST, 9152)),
            image: None,
            image_age_days: 180,
            address_cooldown_seconds: 600,
            subnets: "10.213.0.0/16".into(),
            reconcile_seconds: 30,
            isolation_check_seconds: 600,
            cpus: 1.0,
            memcached_threads: 0,
            docker_socket: DOCKER_SOCKET.into(),
            memory_mb: None,
            usage_days: 400,
            overcommit: 3.0,
            ready_instances: 8,
            proxy_user: PROXY_USER.into(),
            chosen_image: None,
            isolation_interval: None,
        }
    }
}

/// The part of the configuration that needs a check, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) address_cooldown: Duration,
    pub(crate) pool: Subnet,
    /// Where instances can be: in the pool.
    pub(crate) instance_networks: InstanceNetworks,
    pub(crate) resync_interval: Duration,
    pub(crate) isolation_interval: Duration,
    pub(crate) usage_kept: Duration,
}

impl Config {
    /// All values that can't be used.
    #[must_use]
    pub fn problems(&self) -> Vec<Error> {
        let invalid = |name, fix: &str| Error::Setting { name, fix: fix.into() };
        let mut problems = Vec::new();
        if self.pool().is_none() {
            let fix = "give a private IPv4 network of /8 to /22, such as 10.213.0.0/16";
            problems.push(invalid("provisioner.subnets", fix));
        }
        if !(0.01..=1024.0).contains(&self.cpus) && self.cpus != 0.0 {
            problems.push(invalid("provisioner.cpus", "give a number from 0.01 to 1024, or 0 for no limit"));
        }
        if self.memcached_threads > THREADS_MAX {
            problems.push(invalid("provisioner.memcached_threads", "give 1 to 16, or 0 for as many as cpus"));
        }
        if !(0.1..=100.0).contains(&self.overcommit) {
            problems.push(invalid("provisioner.overcommit", "give a number from 0.1 to 100"));
        }
        if self.ready_instances > 500 {
            problems.push(invalid("provisioner.ready_instances", "give at most 500"));
        }
        if !(1..=3_600).contains(&self.reconcile_seconds) {
            problems.push(invalid("provisioner.reconcile_seconds", "give 1 to 3600"));
        }
        if !(1..=36_500).contains(&self.image_age_days) {
            problems.push(invalid("provisioner.image_age_days", "give 1 to 36500"));
        }
        if !(60..=86_400).contains(&self.isolation_check_seconds) {
            problems.push(invalid("provisioner.isolation_check_seconds", "give 60 to 86400"));
        }
        if self.memory_mb == Some(0) {
            problems.push(invalid("provisioner.memory_mb", "give at least 1"));
        }
        if !(1..=4_000).contains(&self.usage_days) {
            problems.push(invalid("provisioner.usage_days", "give 1 to 4000"));
        }
        problems
    }

    /// Threads of each memcached.
    pub(crate) fn threads(&self) -> u32 {
        if self.memcached_threads > 0 {
            return self.memcached_threads;
        }
        if self.cpus > 0.0 {
            return (1..THREADS_MAX).find(|count| f64::from(*count) >= self.cpus).unwrap_or(THREADS_MAX);
        }
        let machine = std::thread::available_parallelism().map_or(1, NonZero::get);
        u32::try_from(machine).unwrap_or(THREADS_UNLIMITED).min(THREADS_UNLIMITED)
    }

    /// Whether a network is outside `subnets`. The proxy connects to nothing there.
    #[must_use]
    pub fn lacks(&self, network: &str) -> bool {
        let network = network.parse::<Subnet>().ok();
        self.pool().zip(network).is_some_and(|(pool, network)| !network.is_network_of(&pool))
    }

    pub(crate) fn check(&self) -> Result<Settings, Error> {
        if let Some(problem) = self.problems().into_iter().next() {
            return Err(problem);
        }
        let missing = || Error::Setting { name: "provisioner.subnets", fix: "give a network".into() };
        let pool = self.pool().ok_or_else(missing)?;
        Ok(Settings {
            address_cooldown: Duration::from_secs(self.address_cooldown_seconds),
            pool,
            instance_networks: self.subnets.parse().map_err(|_| missing())?,
            resync_interval: Duration::from_secs(self.reconcile_seconds),
            isolation_interval: self
                .isolation_interval
                .unwrap_or(Duration::from_secs(self.isolation_check_seconds)),
            usage_kept: Duration::from_hours(24 * u64::from(self.usage_days)),
        })
    }

    fn pool(&self) -> Option<Subnet> {
        let pool: Option<Subnet> = self.subnets.parse().ok();
        pool.filter(|pool| pool.is_pool() && pool.is_private())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memcached_has_as_many_threads_as_cpus() {
        let threads =
            |cpus, memcached_threads| Config { cpus, memcached_threads, ..Config::default() }.threads();
        assert_eq!(Config::default().threads(), 1);
        assert_eq!([0.5, 1.0, 1.5, 4.0, 64.0].map(|cpus| threads(cpus, 0)), [1, 1, 2, 4, 16]);
        assert!((1..=4).contains(&threads(0.0, 0)));
        assert_eq!((threads(1.0, 3), threads(0.0, 3)), (3, 3));
        let too_many = Config { memcached_threads: 17, ..Config::default() };
        assert!(too_many.problems()[0].to_string().contains("memcached_threads"));
    }
}
