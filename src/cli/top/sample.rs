//! What the store and the roles say at one moment.

use std::collections::HashMap;
use std::time::Instant;

use store::{Instance, InstanceStatistics, InstanceUsage, Proxy, Timestamp, now};

use super::roles::RoleSample;
use crate::cli::context::Context;
use crate::cli::up;
use crate::output::CliError;
use crate::role::Role;

pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) time: Timestamp,
    pub(super) instances: Vec<Instance>,
    /// Addresses of users by id.
    pub(super) emails: HashMap<String, String>,
    pub(super) usage: HashMap<String, InstanceUsage>,
    pub(super) statistics: HashMap<String, InstanceStatistics>,
    pub(super) revision: i64,
    pub(super) proxies: Vec<Proxy>,
    /// Connections by the name of their proxy.
    pub(super) proxy_connections: HashMap<String, i64>,
    pub(super) roles: Vec<RoleSample>,
}

impl Sample {
    /// # Errors
    /// If the store can't be read.
    pub(super) async fn take(context: &Context) -> Result<Self, CliError> {
        let store = &context.store;
        let users = store.users().await?.into_iter().map(|user| (user.id, user.email));
        let instances = store.instances().await?.into_iter().filter(|it| !it.is_gone());
        let statistics = store.all_instance_statistics().await?.into_iter();
        Ok(Self {
            emails: users.collect(),
            instances: instances.collect(),
            statistics: statistics.map(|it| (it.instance_id.clone(), it)).collect(),
            revision: store.revision().await?,
            proxies: Proxy::current(&store.proxies().await?, now()),
            proxy_connections: store.connections_by_proxy().await?.into_iter().collect(),
            roles: roles(context).await,
            at: Instant::now(),
            time: now(),
            // Last, so that it is as old as the sample.
            usage: store.usage_of_all().await?,
        })
    }
}

/// The roles of this machine.
async fn roles(context: &Context) -> Vec<RoleSample> {
    let Ok(installation) = context.data_dir.installation_id() else { return Vec::new() };
    let up = up::lock_holder(&context.data_dir).ok().flatten();
    let sample = |role: Role| {
        let address = up::health_address(up.as_ref(), role, &context.settings);
        RoleSample::take(role, address, &installation)
    };
    let [provisioner, proxy, webui] = Role::ALL.map(sample);
    let (provisioner, proxy, webui) = tokio::join!(provisioner, proxy, webui);
    vec![proxy, provisioner, webui]
}
