//! Access to Docker. The only module that uses bollard: each call is one request, and callers decide which.

mod container;
mod events;
mod foreign;
mod image;
mod isolation;
mod limits;
mod memory;
mod memory_growth;
mod network;
mod output;
mod trial;
mod volume;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bollard::errors::Error as ApiError;
use bollard::{API_DEFAULT_VERSION, Docker as Client};
use prometheus_client::metrics::counter::Counter;
use store::{Timestamp, now};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;

use crate::Error;
use crate::docker_info::DockerInfo;
use crate::error::Cause;
use crate::names::{LABEL, LABEL_CREATED, Names};

pub(crate) use container::NewContainer;
pub(crate) use events::{Change, DockerEvent};
pub(crate) use foreign::Foreign;
pub(crate) use image::{BuiltImage, Untagged};
pub(crate) use isolation::shown;
pub(crate) use memory::{HOLDER_MEMORY, NewHolder};
pub(crate) use memory_growth::copy_timeout;
pub(crate) use output::escape;
pub(crate) use trial::TrialOutput;

/// Time limit of a request that changes something: it may wait behind 200 container starts.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit of a request that only reads.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// Time limit of pulling or importing an image.
const IMAGE_TIMEOUT: Duration = Duration::from_mins(15);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Containers whose creation is remembered.
const CREATED_MAX: usize = 1_000;

/// A Docker Engine, restricted to what belongs to one installation, see [`Names`].
#[derive(Debug)]
pub(crate) struct Docker {
    names: Names,
    socket: PathBuf,
    client: OnceLock<Client>,
    /// Requests that Docker didn't answer in time.
    pub(crate) timeouts: Counter,
    /// Ids of the containers that were created last, to tell Docker's events about them from others.
    created: Mutex<VecDeque<String>>,
}

impl Docker {
    /// Doesn't connect: Docker may start later.
    pub(crate) fn new(names: Names, socket: &Path) -> Self {
        Self {
            names,
            socket: socket.to_owned(),
            client: OnceLock::new(),
            timeouts: Counter::default(),
            created: Mutex::default(),
        }
    }

    /// Checks that Docker answers.
    pub(crate) async fn ping(&self) -> Result<(), Error> {
        self.within(PING_TIMEOUT, "answer a ping", self.client()?.ping()).await.map(drop)
    }

    /// Whether this process has created a container, which may be gone again.
    pub(crate) fn has_created(&self, container: &str) -> bool {
        self.created.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|id| id == container)
    }

    fn note_created(&self, container: &str) {
        let mut created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        created.truncate(CREATED_MAX);
        created.push_front(container.to_owned());
    }

    /// Waits for the reply to a request that only reads.
    async fn read<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, Error> {
        self.within(READ_TIMEOUT, operation, request).await
    }

    /// Waits for the reply to a request that changes something.
    async fn change<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, Error> {
        self.within(CHANGE_TIMEOUT, operation, request).await
    }

    /// A Docker that hangs counts as one that is down.
    async fn within<T>(
        &self,
        limit: Duration,
        operation: &'static str,
        request: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, Error> {
        let Ok(reply) = timeout(limit, request).await else {
            self.timeouts.inc();
            let why = format!("it didn't {operation} within {} s", limit.as_secs());
            return Err(Error::DockerDown(why.into()));
        };
        reply.map_err(|error| map_error(operation, error))
    }

    /// Returns Docker's version.
    pub(crate) async fn version(socket: &Path) -> Result<String, Error> {
        let client = connect(socket)?;
        let reply = timeout(PING_TIMEOUT, client.version()).await;
        let reply = reply.map_err(|late| Error::DockerDown(late.into()))?;
        Ok(reply.map_err(|e| map_error("answer", e))?.version.unwrap_or_default())
    }

    /// Returns what Docker says of itself.
    pub(crate) async fn info(socket: &Path) -> Result<DockerInfo, Error> {
        let client = connect(socket)?;
        let reply = timeout(PING_TIMEOUT, client.info()).await;
        let reply =
            reply.map_err(|late| Error::DockerDown(late.into()))?.map_err(|e| map_error("answer", e))?;
        let clock = |text: String| OffsetDateTime::parse(&text, &Rfc3339).ok();
        let millis = |clock: OffsetDateTime| i64::try_from(clock.unix_timestamp_nanos() / 1_000_000).ok();
        Ok(DockerInfo {
            version: reply.server_version.unwrap_or_default(),
            root: reply.docker_root_dir.map(PathBuf::from),
            clock: reply.system_time.and_then(clock).and_then(millis).map(Timestamp::from_millis),
            storage_driver: reply.driver.unwrap_or_default(),
            cgroup_version: reply.cgroup_version.map_or_else(String::new, |version| version.to_string()),
            live_restore: reply.live_restore_enabled.unwrap_or_default(),
        })
    }

    fn client(&self) -> Result<&Client, Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // bollard needs the socket to exist when a client is made; the client then survives restarts of Docker.
        let client = connect(&self.socket)?;
        Ok(self.client.get_or_init(|| client))
    }

    /// The filter for lists: only what carries this installation's label.
    fn label_filter(&self) -> HashMap<String, Vec<String>> {
        HashMap::from([("label".into(), vec![self.names.label_filter()])])
    }

    /// The labels of everything that is created for this installation.
    fn labels(&self) -> HashMap<String, String> {
        HashMap::from([(LABEL.into(), self.names.id().to_owned()), (LABEL_CREATED.into(), now().to_string())])
    }
}

fn connect(socket: &Path) -> Result<Client, Error> {
    Client::connect_with_unix(&socket.to_string_lossy(), IMAGE_TIMEOUT.as_secs(), API_DEFAULT_VERSION)
        .map_err(|e| map_error("be connected to", e))
}

/// When a resource was created, from its label; 1970 without the label.
fn created_at(labels: &HashMap<String, String>) -> Timestamp {
    labels.get(LABEL_CREATED).and_then(|at| at.parse().ok()).map_or(Timestamp::EPOCH, Timestamp::from_millis)
}

/// Distinguishes an error reply of Docker from a Docker that doesn't answer.
fn map_error(operation: &'static str, error: ApiError) -> Error {
    match error {
        ApiError::DockerResponseServerError { status_code, message } => {
            Error::Docker { operation, status: Some(status_code), message }
        }
        ApiError::DockerStreamError { error } => Error::Docker { operation, status: None, message: error },
        ApiError::SocketNotFoundError(_)
        | ApiError::IOError { .. }
        | ApiError::HyperResponseError { .. }
        | ApiError::HyperLegacyError { .. }
        | ApiError::RequestTimeoutError => Error::DockerDown(Cause::from(error)),
        other => Error::Docker { operation, status: None, message: other.to_string() },
    }
}

/// The result of a removal: whether the resource existed. One that is already gone is no error.
fn ignore_not_found(removed: Result<(), Error>) -> Result<bool, Error> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
