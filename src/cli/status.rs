//! `memgate status`: status of every role, the store, Docker and all caches. Exits 1 unless everything is ready.

use std::collections::BTreeMap;

use serde::Serialize;
use store::{InstanceState, Proxy, Store, now};

use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::health_check;
use crate::output::table;
use crate::output::{self, CliError};
use crate::role::{Role, runtime};
use crate::settings::Settings;

#[derive(Debug, Serialize)]
struct Status {
    ready: bool,
    installation: Option<String>,
    roles: BTreeMap<&'static str, Health>,
    store: Health,
    docker: Health,
    /// Number of instances in each state.
    instances: BTreeMap<&'static str, u64>,
    /// Running proxies, on all machines.
    proxies: Vec<Proxy>,
    /// What claims to be the installation's in Docker and isn't: never touched.
    foreign: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Health {
    ready: bool,
    /// Why it isn't ready; for Docker, its version.
    message: Option<String>,
}

impl Health {
    fn of(result: Result<Option<String>, String>) -> Self {
        match result {
            Ok(message) => Self { ready: true, message },
            Err(why) => Self { ready: false, message: Some(why) },
        }
    }

    fn text(&self) -> String {
        let word = if self.ready { "ready" } else { "not ready" };
        self.message.as_ref().map_or(word.to_owned(), |message| format!("{word}: {message}"))
    }
}

pub(crate) fn run(global: &GlobalArgs) -> Result<(), CliError> {
    let settings = Settings::load(global)?;
    let status = runtime()?.block_on(read_status(&settings, &DataDir::of(global)));
    output::print(global.json, &status, || describe(&status))?;
    if status.ready {
        return Ok(());
    }
    Err(CliError::new("not everything is ready", "the lines with `not ready` name the reasons"))
}

async fn read_status(settings: &Settings, data_dir: &DataDir) -> Status {
    let mut roles = BTreeMap::new();
    for role in Role::ALL {
        let ready = health_check::is_ready(role.health(settings)).await;
        roles.insert(role.name(), Health::of(ready));
    }
    let docker = provisioner::docker_version(&settings.provisioner).await;
    let docker = Health::of(docker.map(Some).map_err(|error| error.to_string()));
    let mut status = Status {
        ready: false,
        installation: None,
        roles,
        store: Health::of(Ok(None)),
        docker,
        instances: BTreeMap::new(),
        proxies: Vec::new(),
        foreign: Vec::new(),
    };
    let read = async {
        let store = data_dir.open_store(settings).await?;
        let counted = count_instances(&store).await;
        let proxies = store.proxies().await;
        data_dir.close_store(settings, &store).await;
        Ok::<_, CliError>((data_dir.installation_id()?, counted?, proxies?))
    };
    match read.await {
        Ok((installation, instances, mut proxies)) => {
            proxies.retain(|proxy| !proxy.is_gone(now()));
            status.proxies = proxies;
            let foreign = provisioner::foreign_resources(&settings.provisioner, &installation).await;
            status.foreign = foreign.unwrap_or_default();
            status.installation = Some(installation);
            status.instances = instances;
        }
        Err(error) => status.store = Health::of(Err(error.to_string())),
    }
    status.ready = status.is_ready();
    status
}

impl Status {
    /// Whether every role, the store and Docker are ready, and no instance has failed.
    fn is_ready(&self) -> bool {
        let roles_ready = self.roles.values().all(|role| role.ready);
        roles_ready && self.store.ready && self.docker.ready && !self.has_failed_instance()
    }

    fn has_failed_instance(&self) -> bool {
        self.instances.contains_key(InstanceState::Failed.as_str())
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

async fn count_instances(store: &Store) -> Result<BTreeMap<&'static str, u64>, CliError> {
    let mut instances = BTreeMap::new();
    for instance in store.instances().await?.into_iter().filter(|instance| !instance.is_gone()) {
        *instances.entry(instance.state().as_str()).or_default() += 1;
    }
    Ok(instances)
}

fn describe(status: &Status) -> String {
    let mut pairs: Vec<_> = status.roles.iter().map(|(role, health)| (*role, health.text())).collect();
    pairs.push(("store", status.store.text()));
    pairs.push(("docker", status.docker.text()));
    pairs.push(("instances", status.instances_text()));
    let proxy_text =
        |it: &Proxy| format!("{} ({}), seen {}", it.name, it.version, table::time_since(it.seen_at));
    pairs.extend(status.proxies.iter().map(|proxy| ("registered proxy", proxy_text(proxy))));
    if !status.foreign.is_empty() {
        pairs.push(("not memgate's", status.foreign.join(", ")));
    }
    pairs.push(("installation", status.installation.clone().unwrap_or_default()));
    table::pairs(&pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(instances: &[(&'static str, u64)]) -> Status {
        let ready = || Health::of(Ok(None));
        Status {
            ready: false,
            installation: None,
            roles: BTreeMap::from([("proxy", ready())]),
            store: ready(),
            docker: ready(),
            instances: instances.iter().copied().collect(),
            proxies: Vec::new(),
            foreign: Vec::new(),
        }
    }

    #[test]
    fn failed_instance_is_not_ready() {
        let healthy = status(&[("pending", 1), ("running", 2)]);
        assert!(healthy.is_ready());
        assert!(describe(&healthy).contains("1 pending, 2 running"));
        assert!(status(&[]).is_ready());
        let failed = status(&[("failed", 1), ("running", 2)]);
        assert!(!failed.is_ready());
        assert!(describe(&failed).contains("not ready: 1 failed, 2 running"));
    }

    //
    #[test]
    fn foreign_resources_are_shown() {
        let with = Status { foreign: vec!["container red".to_owned()], ..status(&[]) };
        assert!(describe(&with).contains("container red") && with.is_ready());
        assert!(!describe(&status(&[])).contains("not memgate's"));
    }

    #[test]
    fn role_store_and_docker_must_be_ready() {
        let down = || Health::of(Err("connection refused".to_owned()));
        assert!(!Status { store: down(), ..status(&[]) }.is_ready());
        assert!(!Status { docker: down(), ..status(&[]) }.is_ready());
        assert!(!Status { roles: BTreeMap::from([("proxy", down())]), ..status(&[]) }.is_ready());
    }
}
