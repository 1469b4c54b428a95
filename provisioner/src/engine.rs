//! Docker, and the only place that names bollard. Each call is one request; what to ask is decided elsewhere.

mod container;
mod event;
mod image;
mod network;
mod volume;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use bollard::errors::Error as Refusal;
use bollard::{API_DEFAULT_VERSION, Docker};
use store::{Millis, now};

use crate::Error;
use crate::error::Cause;
use crate::names::{LABEL, LABEL_CREATED, Names};

pub(crate) use container::NewContainer;
pub(crate) use event::Event;

/// A request may wait behind 200 starts; a socket that hangs is given up after this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A Docker Engine, seen through one installation's label.
#[derive(Debug)]
pub(crate) struct Engine {
    names: Names,
    socket: PathBuf,
    docker: OnceLock<Docker>,
}

impl Engine {
    /// Doesn't connect: Docker may come later.
    pub(crate) fn new(names: Names, socket: &Path) -> Self {
        Self { names, socket: socket.to_owned(), docker: OnceLock::new() }
    }

    /// Whether Docker answers.
    pub(crate) async fn ping(&self) -> Result<(), Error> {
        let answer = tokio::time::timeout(PING_TIMEOUT, self.docker()?.ping()).await;
        answer.map_err(|late| Error::EngineDown(late.into()))?.map_err(|e| refused("answer", e))?;
        Ok(())
    }

    /// Docker's version, for whoever asks how everything is.
    pub(crate) async fn version(socket: &Path) -> Result<String, Error> {
        let docker = connect(socket)?;
        let answer = tokio::time::timeout(PING_TIMEOUT, docker.version()).await;
        let answer = answer.map_err(|late| Error::EngineDown(late.into()))?;
        Ok(answer.map_err(|e| refused("answer", e))?.version.unwrap_or_default())
    }

    fn docker(&self) -> Result<&Docker, Error> {
        if let Some(docker) = self.docker.get() {
            return Ok(docker);
        }
        // The client wants the socket to exist when it is made; once made, it outlives Docker.
        let docker = connect(&self.socket)?;
        Ok(self.docker.get_or_init(|| docker))
    }

    /// The filter by which every list of ours is asked.
    fn ours(&self) -> HashMap<String, Vec<String>> {
        HashMap::from([("label".into(), vec![self.names.label_filter()])])
    }

    /// The labels that everything of ours has.
    fn labels(&self) -> HashMap<String, String> {
        HashMap::from([(LABEL.into(), self.names.id().to_owned()), (LABEL_CREATED.into(), now().to_string())])
    }
}

fn connect(socket: &Path) -> Result<Docker, Error> {
    Docker::connect_with_unix(&socket.to_string_lossy(), REQUEST_TIMEOUT.as_secs(), API_DEFAULT_VERSION)
        .map_err(|e| refused("be connected to", e))
}

/// When a thing of ours was made; without our label, long ago.
fn created_at(labels: &HashMap<String, String>) -> Millis {
    labels.get(LABEL_CREATED).and_then(|at| at.parse().ok()).unwrap_or(0)
}

/// Tells Docker's refusals from its absence.
fn refused(doing: &'static str, error: Refusal) -> Error {
    match error {
        Refusal::DockerResponseServerError { status_code, message } => {
            Error::Engine { doing, status: Some(status_code), message }
        }
        Refusal::DockerStreamError { error } => Error::Engine { doing, status: None, message: error },
        Refusal::SocketNotFoundError(_)
        | Refusal::IOError { .. }
        | Refusal::HyperResponseError { .. }
        | Refusal::HyperLegacyError { .. }
        | Refusal::RequestTimeoutError => Error::EngineDown(Cause::from(error)),
        other => Error::Engine { doing, status: None, message: other.to_string() },
    }
}

/// What is gone already needn't be removed: whether it was there.
fn gone(doing: &'static str, removed: Result<(), Refusal>) -> Result<bool, Error> {
    match removed {
        Ok(()) => Ok(true),
        Err(Refusal::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
        Err(error) => Err(refused(doing, error)),
    }
}
