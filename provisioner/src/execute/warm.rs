//! Stopping memcached on purpose: for a restart, an upgrade or another size, or because a cache sleeps. Proxies hold requests
//! by then. A warm cache's memcached saves what it needs to start with its contents, and a holder keeps their memory meanwhile.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use store::{InstanceState, now};
use tokio::time::{Instant, sleep};

use super::{Executor, Situation};
use crate::docker::{HOLDER_MEMORY, NewHolder};
use crate::error::{Error, chain};
use crate::plan::{Container, ContainerState};
use crate::spec::Spec;
use crate::statistics::{self, Statistics};

/// How long a warm memcached may take to end: it lets its threads finish, and saves what it needs.
const STOP_SECONDS: i32 = 20;
/// One that keeps nothing is killed at once: a second in which its threads finish is half of what requests wait for.
const STOP_SECONDS_COLD: i32 = 0;
/// What a proxy gives requests in flight, once it holds the others, for their replies.
const DRAIN_TIME: Duration = Duration::from_millis(100);
/// How long proxies may take to learn that they must hold requests.
const HOLD_TIMEOUT: Duration = Duration::from_secs(1);
const SECOND: Duration = Duration::from_secs(1);
const HOLD_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// memcached takes contents only if it starts in a later second than the one in which it was stopped. If the steps of a stop
/// begin so late in a second, they end shortly before the next.
const STOP_BEGIN: Duration = Duration::from_millis(650);

/// What became of a cache's contents when its memcached was stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stopped {
    /// Items that it had, if it said so.
    items: Option<u64>,
    /// Why they can't be kept.
    lost: Option<String>,
}

impl Stopped {
    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }
}

impl Executor {
    /// Stops a container whose instance is recorded as restarting or asleep. What is started next on a warm cache's memory, in
    /// this container or another of the instance, has its contents; the holder must be removed once that runs.
    ///
    /// # Errors
    /// If the memory of a warm one can't be held: then it runs on. If Docker doesn't stop it. That its memcached doesn't save its
    /// contents is no error.
    pub(super) async fn stop_gracefully(&self, container: &Container) -> Result<Stopped, Error> {
        self.until_proxies_hold().await;
        let mut stopped = Stopped::default();
        let spec = Spec::from_label(&container.spec).filter(Spec::is_warm);
        let runs = container.state != ContainerState::Stopped;
        if let Some(spec) = spec.filter(|_| runs) {
            stopped.items = self.statistics_of(container).await.map(|figures| figures.curr_items);
            self.hold_memory(container, &spec).await?;
        }
        if runs && spec.is_some() {
            self.docker.stop(&container.id, STOP_SECONDS).await?;
        } else if runs {
            sleep(DRAIN_TIME).await;
            self.docker.stop(&container.id, STOP_SECONDS_COLD).await?;
        }
        self.activity.forget(&container.id);
        // Also for one that a provisioner stopped just before it ended.
        if spec.is_some() {
            sleep(until_fraction(Duration::ZERO)).await;
        }
        if spec.is_some() && !self.docker.inspect(container).await?.ended_cleanly() {
            // It may have saved a part of what it needs.
            self.docker.remove_holders(&container.instance).await?;
            let why = "memcached didn't end as it should";
            tracing::warn!(
                instance = container.instance,
                why,
                "the contents of a warm cache could not be kept"
            );
            stopped.lost = Some(why.to_owned());
        }
        Ok(stopped)
    }

    /// Starts the holder of a warm container that is to be stopped, while that still serves its clients, and waits for the
    /// moment at which it takes the shortest until the next one runs.
    ///
    /// # Errors
    /// If its memory can't be held. Then its memcached serves its clients on. If memcached still takes contents back: a stop would
    /// lose them.
    pub(super) async fn prepare_stop(
        &self,
        situation: &Situation,
        container: &Container,
    ) -> Result<(), Error> {
        self.require_contents(situation, container).await?;
        if let Some(spec) = Spec::from_label(&container.spec)
            && let Err(error) = self.hold_memory(container, &spec).await
        {
            let recorded = situation.instance.route.as_ref();
            let is_held_up = recorded.is_some_and(|route| {
                route.container.as_ref() == Some(&container.id) && route.state != InstanceState::Running
            });
            if is_held_up {
                // Proxies were told to hold requests, before a crash or by an attempt that got further.
                self.adopt(&situation.instance, container).await?;
            }
            return Err(error);
        }
        sleep(until_fraction(STOP_BEGIN)).await;
        Ok(())
    }

    /// Holds the memory that a container uses, so that it can be stopped.
    async fn hold_memory(&self, container: &Container, spec: &Spec) -> Result<(), Error> {
        let started = async {
            let image = self.images.get().await?;
            let holder =
                NewHolder { instance: &container.instance, spec, image: &image.id, command: image.command };
            self.docker.start_holder(&holder, &container.id).await
        };
        let Err(error) = started.await else { return Ok(()) };
        if error.is_not_found() {
            self.restore_dependencies().await?;
        }
        // What concerns all caches has its own reason.
        Err(if error.is_general() { error } else { Error::NotHeld(chain(&error)) })
    }

    /// Starts a container. One that didn't end cleanly starts empty.
    pub(super) async fn start(&self, container: &Container) -> Result<(), Error> {
        if !container.ended_cleanly() && Spec::from_label(&container.spec).is_some_and(|spec| spec.is_warm())
        {
            self.docker.remove_holders(&container.instance).await?;
        }
        self.docker.start(&container.id).await
    }

    /// Stops and starts a container.
    pub(super) async fn restart(&self, situation: &Situation, container: &Container) -> Result<(), Error> {
        self.save(situation, container).await?;
        self.docker.start(&container.id).await
    }

    /// Stops a container, and notes what became of the contents if it was warm.
    pub(super) async fn save(&self, situation: &Situation, container: &Container) -> Result<(), Error> {
        let stopped = self.stop_gracefully(container).await?;
        if Spec::from_label(&container.spec).is_some_and(|spec| spec.is_warm()) {
            let _ = situation.stopped.set(stopped);
        }
        Ok(())
    }

    /// Puts an instance to sleep that is recorded as asleep, unless its memcached has had a command since it was found idle:
    /// then it runs on.
    pub(super) async fn put_to_sleep(
        &self,
        situation: &Situation,
        container: &Container,
    ) -> Result<(), Error> {
        self.until_proxies_hold().await;
        let found = self.activity.commands(&container.id);
        let now = self.statistics_of(container).await.map(|figures| figures.commands);
        if now.is_some() && now != found {
            self.activity.forget(&container.id);
            return self.adopt(&situation.instance, container).await;
        }
        self.stop_gracefully(container).await?;
        self.history.note_stopped(&container.id);
        self.capacity.settle(&container.instance, Some(memory_asleep(container)));
        Ok(())
    }

    /// Waits until the proxies have applied what was recorded last, so that they hold requests. One that can't is not waited for
    /// long: its requests in flight fail.
    async fn until_proxies_hold(&self) {
        let deadline = Instant::now() + HOLD_TIMEOUT;
        let Ok(revision) = self.store.revision().await else { return };
        while Instant::now() < deadline {
            let Ok(proxies) = self.store.proxies().await else { return };
            let at = now();
            if proxies.iter().all(|proxy| proxy.applied >= revision || proxy.is_silent(at)) {
                return;
            }
            sleep(HOLD_POLL_INTERVAL).await;
        }
    }

    /// What a container's memcached says of itself, if it answers.
    async fn statistics_of(&self, container: &Container) -> Option<Statistics> {
        let address: IpAddr = container.address.parse().ok()?;
        let credential = self.lane_key.credential(&container.instance, container.generation);
        if self.networks.is_broken_at(&container.address) {
            return None;
        }
        statistics::read(address, &credential).await.ok()
    }

    /// What a restart that is done has brought.
    pub(super) async fn describe_restart(&self, situation: &Situation) -> Result<String, Error> {
        let done = "memcached was restarted";
        match self.describe_contents(situation).await? {
            Some(contents) => Ok(format!("{done}; {contents}")),
            None => Ok(format!("{done}; its contents are gone")),
        }
    }

    /// What a resize has brought for which another container was needed.
    pub(super) async fn describe_resize(&self, situation: &Situation) -> Result<String, Error> {
        let memory_mb = situation.instance.memory_mb;
        match self.describe_contents(situation).await? {
            Some(contents) => Ok(format!("memcached has {memory_mb} MB; {contents}")),
            None => Ok(format!("memcached was started with {memory_mb} MB; it is empty")),
        }
    }

    /// What became of the contents of a warm cache that was started; `None` if it isn't warm.
    async fn describe_contents(&self, situation: &Situation) -> Result<Option<String>, Error> {
        if !Spec::of(&situation.instance).is_ok_and(|spec| spec.is_warm()) {
            return Ok(None);
        }
        let containers = self.docker.containers_of(&situation.instance.id).await?;
        let newest = containers.iter().filter(|it| !it.is_holder).max_by_key(|it| it.generation);
        let items = match newest {
            Some(container) => self.statistics_of(container).await.map(|figures| figures.curr_items),
            None => None,
        };
        let not_copied = self.observations.copies.lost(&situation.instance.id);
        Ok(Some(contents_message(situation.stopped.get(), not_copied.as_ref(), items)))
    }
}

/// How long it takes until the wall clock's next second has come so far.
fn until_fraction(fraction: Duration) -> Duration {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Duration::from_nanos(since_epoch.subsec_nanos().into());
    match fraction.checked_sub(now) {
        Some(wait) if !wait.is_zero() => wait,
        _ => SECOND.saturating_sub(now).saturating_add(fraction),
    }
}

/// Bytes that the instance of a container needs while it sleeps.
pub(crate) fn memory_asleep(container: &Container) -> i64 {
    let warm = Spec::from_label(&container.spec).filter(Spec::is_warm);
    warm.map_or(0, |spec| spec.memory_volume_mb().saturating_mul(1 << 20).saturating_add(HOLDER_MEMORY))
}

/// Whether an instance needs no memory for a memcached now.
pub(crate) fn is_asleep(instance: &store::Instance) -> bool {
    instance.state() == InstanceState::Asleep
}

/// `not_copied`: why the contents couldn't get to a volume of another size. `items` are those that memcached has now.
fn contents_message(stopped: Option<&Stopped>, not_copied: Option<&String>, items: Option<u64>) -> String {
    let before = stopped.and_then(|stopped| stopped.items);
    let lost = stopped.and_then(|stopped| stopped.lost.as_ref()).or(not_copied);
    let why = match (items, lost.map(String::as_str)) {
        (Some(1), _) => return "it kept 1 item".to_owned(),
        (Some(items @ 2..), _) => return format!("it kept {items} items"),
        (Some(0), _) if before == Some(0) => return "it had no items".to_owned(),
        (_, Some(why)) => why,
        (_, None) if stopped.is_none() => "it wasn't warm yet, or didn't run",
        (_, None) if before.is_none() => "memcached didn't answer before it was stopped",
        (_, None) => "memcached didn't take them",
    };
    format!("its contents could not be kept: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_tells_what_became_of_the_contents() {
        let stopped = |items, lost: Option<&str>| Some(Stopped { items, lost: lost.map(str::to_owned) });
        let unclean = "memcached didn't end as it should";
        for (stopped, not_copied, items, expected) in [
            (stopped(Some(7), None), None, Some(7), "it kept 7 items"),
            (None, None, Some(1), "it kept 1 item"),
            (stopped(Some(0), None), None, Some(0), "it had no items"),
            (stopped(Some(0), None), Some("with less memory"), Some(0), "it had no items"),
            (stopped(Some(7), None), None, Some(0), "could not be kept: memcached didn't take them"),
            (
                stopped(Some(7), None),
                Some("with less memory"),
                Some(0),
                "could not be kept: with less memory",
            ),
            (None, Some("with less memory"), Some(0), "could not be kept: with less memory"),
            (stopped(Some(7), Some(unclean)), None, Some(0), unclean),
            (stopped(None, None), None, Some(0), "could not be kept: memcached didn't answer"),
            (None, None, None, "could not be kept: it wasn't warm yet, or didn't run"),
        ] {
            let text = contents_message(stopped.as_ref(), not_copied.map(str::to_owned).as_ref(), items);
            assert!(text.contains(expected), "{text}");
        }
    }
}
