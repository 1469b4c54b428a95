//! Errors of the provisioner.

use std::path::PathBuf;

use store::StoreError;

use crate::secrets::Mismatch;

/// A library's error, kept for the log.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the provisioner can't do something. Messages name the fix; users read `for_owner` instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    /// A row of the store that names a network which isn't the installation's, or isn't in its pool.
    #[error(
        "the database has the network {0:?}, which isn't this installation's or not in provisioner.subnets: restore a backup"
    )]
    InvalidNetwork(String),
    /// Most containers have no row: an empty or another database was put in the place of the installation's.
    #[error(
        "the database looks wrong: {unknown} containers have no cache in it, and it has {known} caches: nothing is removed; \
         restore the installation's database"
    )]
    WrongStore {
        /// Containers without a row.
        unknown: usize,
        /// Instances of the store.
        known: usize,
    },
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
    /// The sum of the instances' memory limits would exceed the budget.
    #[error(
        "no memory for another cache: free memory, or set provisioner.overcommit or provisioner.memory_mb"
    )]
    NoMemory,
    /// A warm cache that is to be stopped: its memory can't be held meanwhile.
    #[error("the memory of a warm cache can't be held, so its memcached isn't stopped: {0}")]
    NotHeld(String),
    /// A warm cache that gets more memory: its contents couldn't be copied, and are kept.
    #[error("the contents of a warm cache weren't copied to more memory, and are kept: {0}")]
    NotCopied(String),
    /// A warm cache gets more memory, and another one's contents are being copied.
    #[error(
        "the contents of another warm cache are being copied to more memory: this one's turn comes later"
    )]
    CopyWaits,
    /// A network can't be removed although no container of this installation is on it.
    #[error(
        "Docker says that the network {0} is in use: disconnect what is on it, or restart Docker, and try again"
    )]
    NetworkInUse(String),
    /// Something that isn't the installation's has a name that is.
    #[error("a {kind} that memgate didn't create has the name {name}: rename or remove it")]
    NameTaken {
        /// `container` or `volume`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A container that isn't the installation's has an instance's address.
    #[error(
        "{holder} has the address {address}, so the cache gets another: remove it from memgate's network, or start it \
         without --ip"
    )]
    AddressTaken {
        /// The address that was leased to the instance.
        address: String,
        /// What has it.
        holder: String,
    },
    /// A container runs and its network works, but memcached doesn't answer.
    #[error("memcached doesn't answer at {address}: `memgate instance events` shows what it wrote last")]
    NoAnswer {
        /// The address of the instance.
        address: String,
    },
    /// A warm cache's memcached was started, and doesn't listen yet.
    #[error("memcached at {address} takes its contents back: it answers once it has them")]
    TakesBack {
        /// The address of the instance.
        address: String,
    },
    /// A container runs but nothing of it can be reached.
    #[error(
        "nothing answers at {address}: check this host's routes, bridges and firewall; the cache is kept"
    )]
    Unreachable {
        /// The address of the instance.
        address: String,
    },
    /// A memcached closes new connections because it has as many as it may.
    #[error("memcached at {address} has no connection left: the cache is kept")]
    Full {
        /// The address of the instance.
        address: String,
    },
    /// Another memcached answers: it rejects the lane secret, or needs none.
    #[error("memcached at {address} rejects its lane secret, or needs none: it will be replaced")]
    WrongSecret {
        /// The address of the instance.
        address: String,
    },
    /// A container has another address than the one that is leased to its instance.
    #[error("the container at {address} has an address that isn't leased to it: it will be replaced")]
    NotLeased {
        /// The container's address.
        address: String,
    },
    /// A container that was made ahead was another instance's before: a restored store doesn't know that.
    #[error("the container at {address} was made ahead and isn't new any more: it will be replaced")]
    TakenBefore {
        /// The container's address.
        address: String,
    },
    /// Many caches reject their lane secrets: this process's key is wrong, rather than all of them.
    #[error(
        "{rejected} of {asked} caches reject their secret, so nothing is replaced or created: lane.key isn't the one that \
         they were created with; put that back, or, if it is lost, run `memgate down` and `memgate up`, which empties \
         all caches"
    )]
    SecretMismatch {
        /// Caches that reject their secret.
        rejected: usize,
        /// Caches that answered.
        asked: usize,
    },
    /// A network's bridge was removed or changed on this host.
    #[error("the bridge {bridge} of the network {network} was removed or changed: the network is made again")]
    NetworkBroken {
        /// The network's name in Docker.
        network: String,
        /// The bridge's name on this host.
        bridge: String,
    },
    /// A network can't be made again because of a container that isn't the installation's.
    #[error(
        "the network {network} is broken and can't be made again, since the container {container} is on it: run \
         `docker network disconnect -f {network} {container}`"
    )]
    ForeignOnNetwork {
        /// The network's name in Docker.
        network: String,
        /// The container's name.
        container: String,
    },
    /// A resync took too long.
    #[error("the resync took longer than {0} s: see how busy Docker and this host are")]
    ResyncLate(u64),
    /// The image can't be built or pulled.
    #[error("can't use or build the memcached image: {0}")]
    Image(String),
    /// An operator's binary can't be used as memcached.
    #[error("can't build an image from {} ({problem}): {fix}", .path.display())]
    Binary {
        /// The binary.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// How to fix that.
        fix: String,
    },
    /// The image is being built or pulled.
    #[error("the memcached image is being built or pulled: see how that goes in Docker's log")]
    ImageNotReady,
    /// A container would start without firewall.
    #[error("the firewall isn't installed: no container is started until it is")]
    NoFirewall,
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
            Self::Image(_) | Self::ImageNotReady => {
                "waiting for the memcached image: the cache starts by itself when it is ready"
            }
            Self::NoMemory => {
                "waiting for memory: the cache starts, or gets its new size, when this machine has room; \
                 ask the operator"
            }
            Self::NotHeld(_) => {
                "its contents couldn't be kept for a restart, so it runs on as it was; the operator's log has the reason"
            }
            Self::NotCopied(_) => {
                "its contents couldn't be copied to more memory: trying again; the operator's log has the reason"
            }
            Self::CopyWaits => {
                "waiting for its turn: warm caches get more memory one after the other, and keep what they have until then"
            }
            Self::NoSubnet(_) => "this machine has no room for another cache: ask the operator",
            Self::NoAnswer { .. } | Self::WrongSecret { .. } => {
                "memcached was started but doesn't answer: trying again"
            }
            Self::TakesBack { .. } => "memcached takes its contents back: the cache answers once it has them",
            Self::Unreachable { .. } => {
                "memcached can't be reached: trying again, and keeping its contents; ask the operator"
            }
            Self::SecretMismatch { .. } => "waiting for the operator: the operator's log has the reason",
            Self::Full { .. } => "all of memcached's connections are in use: new ones have to wait",
            _ => "memcached can't be started: trying again; the operator's log has the reason",
        }
    }

    /// Whether Docker as a whole is unavailable, so that retries of single instances are useless.
    #[must_use]
    pub fn is_docker_down(&self) -> bool {
        matches!(self, Self::DockerDown(_))
    }

    /// Whether an error says nothing about the instance that was worked on, or only that it needs more time: it doesn't count
    /// as a failure of that, and what concerns all instances is reported for them together.
    pub(crate) fn is_general(&self) -> bool {
        use Error::{
            CopyWaits, DockerDown, ImageNotReady, NetworkBroken, NoFirewall, SecretMismatch, Store, TakesBack,
        };
        matches!(
            self,
            DockerDown(_)
                | Store(_)
                | SecretMismatch { .. }
                | NoFirewall
                | NetworkBroken { .. }
                | ImageNotReady
                | CopyWaits
                | TakesBack { .. }
        )
    }

    /// Whether an address can't be assigned because another container has it.
    pub(crate) fn is_address_in_use(&self) -> bool {
        matches!(self, Self::Docker { message, .. } if message.contains("Address already in use"))
    }

    /// Whether an image, network or container wasn't found.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Docker { status: Some(404), .. })
    }
}

impl From<Mismatch> for Error {
    fn from(Mismatch { rejected, asked }: Mismatch) -> Self {
        Self::SecretMismatch { rejected, asked }
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
