//! `memgate status`: status of every role, the store, Docker and all caches. Exits 1 unless everything is ready.

use std::collections::BTreeMap;

use serde::Serialize;
use store::{Proxy, Store, now};

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
    };
    let read = async {
        let store = data_dir.open_store(settings).await?;
        let counted = count_instances(&store).await;
        let proxies = store.proxies().await;
        store.close().await;
        let (installation, instances) = counted?;
        Ok::<_, CliError>((installation, instances, proxies?))
    };
    match read.await {
        Ok((installation, instances, mut proxies)) => {
            proxies.retain(|proxy| !proxy.is_gone(now()));
            status.proxies = proxies;
            status.installation = Some(installation);
            status.instances = instances;
        }
        Err(error) => status.store = Health::of(Err(error.to_string())),
    }
    let roles_ready = status.roles.values().all(|role| role.ready);
    status.ready = roles_ready && status.store.ready && status.docker.ready;
    status
}

async fn count_instances(store: &Store) -> Result<(String, BTreeMap<&'static str, u64>), CliError> {
    let mut instances = BTreeMap::new();
    for instance in store.instances().await?.into_iter().filter(|instance| !instance.is_gone()) {
        *instances.entry(instance.state().as_str()).or_default() += 1;
    }
    Ok((store.installation_id().await?, instances))
}

fn describe(status: &Status) -> String {
    let mut pairs: Vec<_> = status.roles.iter().map(|(role, health)| (*role, health.text())).collect();
    pairs.push(("store", status.store.text()));
    pairs.push(("docker", status.docker.text()));
    let counts: Vec<_> = status.instances.iter().map(|(state, n)| format!("{n} {state}")).collect();
    pairs.push(("instances", if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }));
    let proxy_text =
        |it: &Proxy| format!("{} ({}), seen {}", it.name, it.version, table::time_since(it.seen_at));
    pairs.extend(status.proxies.iter().map(|proxy| ("registered proxy", proxy_text(proxy))));
    pairs.push(("installation", status.installation.clone().unwrap_or_default()));
    table::pairs(&pairs)
}
