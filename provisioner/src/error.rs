//! Errors of the provisioner.

use std::net::SocketAddr;

use store::StoreError;

/// A library's error, kept for the log.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the provisioner can't do something. Messages name the fix; users read `for_owner` instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The health port can't be bound; most likely it is in use.
    #[error("can't listen on {address} for health and metrics: stop what uses it, or set provisioner.health")]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// An installation id that no store creates. It would become part of names and rules.
    #[error("invalid installation id \"{0}\": it has 1 to 8 lower-case letters and digits")]
    InstallationId(String),
    /// An invalid setting.
    #[error("{name} is invalid: {fix}")]
    Setting {
        /// Its name in `memgate.toml`.
        name: &'static str,
        /// The valid values.
        fix: String,
    },
    /// A row of the store from which no container can be created.
    #[error("invalid instance: {0}")]
    InvalidInstance(&'static str),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Docker's socket can't be reached.
    #[error("Docker doesn't answer: start it, and check that this user may open its socket")]
    DockerDown(#[source] Cause),
    /// Docker answered with an error.
    #[error("Docker can't {operation}: {message}")]
    Docker {
        /// The request, as in "start a container".
        operation: &'static str,
        /// The HTTP status, if any: 404 not found, 409 conflict.
        status: Option<u16>,
        /// Docker's message.
        message: String,
    },
    /// The pool has no subnet left for another network.
    #[error("no free subnet in {0}: set provisioner.subnets to a larger pool that nothing else uses")]
    NoSubnet(String),
    /// A network can't be removed although no container of this installation is on it.
    #[error(
        "Docker says that the network {0} is in use: disconnect what is on it, or restart Docker, and try again"
    )]
    NetworkInUse(String),
    /// A memcached was started but doesn't answer.
    #[error("memcached doesn't answer at {address}: see `docker logs` of its container")]
    NoAnswer {
        /// The address of the instance.
        address: String,
    },
    /// A memcached answers but rejects its lane secret.
    #[error("memcached at {address} rejects its lane secret: it will be replaced")]
    WrongSecret {
        /// The address of the instance.
        address: String,
    },
    /// The image can't be built or pulled.
    #[error("can't build the memcached image: {0}")]
    Image(String),
    /// The firewall rules that protect the host's ports from containers are not in place.
    #[error("containers can reach this host's ports: {0}")]
    Firewall(String),
}

impl Error {
    /// The text for the owner of an instance: no addresses, no internal names.
    pub(crate) fn for_owner(&self) -> &'static str {
        match self {
            Self::DockerDown(_) => {
                "waiting for the container engine: the cache starts by itself when it is back"
            }
            Self::Image(_) => "waiting for the memcached image: the cache starts by itself when it is ready",
            Self::NoSubnet(_) => "this machine has no room for another cache: ask the operator",
            Self::NoAnswer { .. } | Self::WrongSecret { .. } => {
                "memcached was started but doesn't answer: trying again"
            }
            _ => "memcached can't be started: trying again; the operator's log has the reason",
        }
    }

    /// Whether Docker as a whole is unavailable, so that retries of single instances are useless.
    pub(crate) fn is_docker_down(&self) -> bool {
        matches!(self, Self::DockerDown(_))
    }

    /// Whether an image, network or container wasn't found.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Docker { status: Some(404), .. })
    }
}

/// An error and its causes on one line, for logs.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}
