//! What can go wrong between what is wanted and what is so.

use std::net::SocketAddr;

use store::StoreError;

/// Whatever a library said, kept for the log.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the provisioner can't do a thing. Messages name the fix; `for_owner` is what users may read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The health port is taken, most likely.
    #[error("can't listen on {address} for health and metrics: stop what uses it, or set provisioner.health")]
    Bind {
        /// The address in the configuration.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// An installation id that no store makes; it would end up in names and rules.
    #[error("\"{0}\" is no installation id: it has 1 to 8 lower-case letters and digits")]
    InstallationId(String),
    /// A setting that can't be used.
    #[error("{setting} is wrong: {fix}")]
    Setting {
        /// Its name in `memgate.toml`.
        setting: &'static str,
        /// What it should be.
        fix: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nothing answers on Docker's socket.
    #[error("Docker doesn't answer: start it, and check that this user may open its socket")]
    EngineDown(#[source] Cause),
    /// Docker answers, and refuses.
    #[error("Docker can't {doing}: {message}")]
    Engine {
        /// What was asked, as in "start a container".
        doing: &'static str,
        /// The HTTP status, where there is one: 404 missing, 409 taken.
        status: Option<u16>,
        /// Docker's own words.
        message: String,
    },
    /// No subnet is left for one more network.
    #[error("no free subnet in {0}: set provisioner.subnets to a larger pool that nothing else uses")]
    NoSubnet(String),
    /// A network can't be removed though nothing of ours is on it.
    #[error(
        "Docker says that the network {0} is in use: disconnect what is on it, or restart Docker, and try again"
    )]
    NetworkInUse(String),
    /// A memcached that was started doesn't answer.
    #[error("memcached doesn't answer at {address}: see `docker logs` of its container")]
    NoAnswer {
        /// Where it should.
        address: String,
    },
    /// A memcached answers but not to the secret that it was given.
    #[error("memcached at {address} doesn't take its lane secret: it will be replaced")]
    WrongSecret {
        /// Where it answers.
        address: String,
    },
    /// The image can't be made or had.
    #[error("can't make the memcached image: {0}")]
    Image(String),
    /// The rule that keeps containers from the host's ports doesn't stand.
    #[error("containers can reach this host's ports: {0}")]
    Firewall(String),
}

impl Error {
    /// What an instance's owner is told: no addresses, no names of the machinery.
    pub(crate) fn for_owner(&self) -> &'static str {
        match self {
            Self::EngineDown(_) => WAITING_FOR_ENGINE,
            Self::Image(_) => "waiting for the memcached image: it starts by itself once that is there",
            Self::NoSubnet(_) => "this machine has no room for one more cache: the operator has to make some",
            Self::NoAnswer { .. } | Self::WrongSecret { .. } => {
                "memcached was started but doesn't answer: trying again"
            }
            _ => "memcached can't be started: trying again; the operator's log says why",
        }
    }

    /// Whether Docker as a whole is away, so that trying again one by one is idle.
    pub(crate) fn is_engine_down(&self) -> bool {
        matches!(self, Self::EngineDown(_))
    }

    /// Whether something that should be there isn't: an image, a network, a container.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Engine { status: Some(404), .. })
    }
}

/// What the owner of a pending instance reads while Docker is away.
pub(crate) const WAITING_FOR_ENGINE: &str =
    "waiting for the container engine: the cache starts by itself once that is back";

/// An error and its causes on one line, for logs.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
