//! A trial: runs memcached of an image that isn't trusted yet, once, to see what it says of itself. The container has no
//! network, and every restriction that an instance's has.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, ContainerStateStatusEnum, HostConfig};
use bollard::query_parameters::{CreateContainerOptionsBuilder, InspectContainerOptions, LogsOptionsBuilder};
use futures_util::StreamExt;
use tokio::time::{Duration, Instant, sleep};

use super::Docker;
use crate::error::Error;
use crate::limits::Limits;
use crate::names::LABEL_INSTANCE;
use crate::spec::{GID, MEMCACHED, UID};

/// In the place of an instance's id: what a crash leaves behind is removed as any container without an instance.
const TRIAL: &str = "imagetrial";
/// How long it may run; memcached ends at once.
const RUN_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const MEMORY_MAX: i64 = 64 << 20;
const PROCESSES_MAX: i64 = 32;
const OPEN_FILES_MAX: i64 = 64;
/// Bytes of what it says.
const OUTPUT_MAX: usize = 64 << 10;

/// What a program has said, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrialOutput {
    pub(crate) output: String,
    /// `None` if it was still running.
    pub(crate) exit_code: Option<i64>,
}

impl Docker {
    /// Runs memcached of an image with one argument.
    pub(crate) async fn try_image(&self, image: &str, argument: &str) -> Result<TrialOutput, Error> {
        // Of a trial that was killed.
        for container in self.containers_of(TRIAL).await? {
            self.remove_container(&container.id).await?;
        }
        let name = self.names.instance(TRIAL);
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let request = self.client()?.create_container(Some(options), self.trial(image, argument));
        let container = self.change("create a container", request).await?.id;
        let said = self.run(&container).await;
        self.remove_container(&container).await?;
        said
    }

    fn trial(&self, image: &str, argument: &str) -> ContainerCreateBody {
        let mut labels: HashMap<String, String> = self.labels();
        labels.insert(LABEL_INSTANCE.into(), TRIAL.into());
        let limits = Limits {
            memory: MEMORY_MAX,
            memory_swap: MEMORY_MAX,
            processes: PROCESSES_MAX,
            ..Limits::default()
        };
        ContainerCreateBody {
            image: Some(image.to_owned()),
            user: Some(format!("{UID}:{GID}")),
            entrypoint: Some(vec![MEMCACHED.to_owned()]),
            cmd: Some(vec![argument.to_owned()]),
            labels: Some(labels),
            host_config: Some(HostConfig {
                network_mode: Some("none".into()),
                ..self.restricted(&limits, OPEN_FILES_MAX)
            }),
            ..Default::default()
        }
    }

    async fn run(&self, container: &str) -> Result<TrialOutput, Error> {
        self.start(container).await?;
        let deadline = Instant::now() + RUN_TIMEOUT;
        let exit_code = loop {
            let request = self.client()?.inspect_container(container, None::<InspectContainerOptions>);
            let state = self.read("inspect a container", request).await?.state.unwrap_or_default();
            if matches!(state.status, Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::DEAD))
            {
                break state.exit_code;
            }
            if Instant::now() >= deadline {
                break None;
            }
            sleep(POLL_INTERVAL).await;
        };
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).build();
        let mut lines = std::pin::pin!(self.client()?.logs(container, Some(options)));
        let mut output = String::new();
        let all = async {
            while let Some(Ok(line)) = lines.next().await {
                output.push_str(&line.to_string());
                if output.len() > OUTPUT_MAX {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(RUN_TIMEOUT, all).await;
        Ok(TrialOutput { output, exit_code })
    }
}
