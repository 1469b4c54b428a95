//! `memgate up`: runs all roles on one machine. Prepares the data directory, then supervises one process per
//! role until Ctrl-C. The caches are containers and keep running.

mod bind_mount;
mod port_check;
mod role_log;
mod supervisor;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use daemon::Shutdown;
use rustix::fs::FlockOperation;
use serde::Serialize;
use store::private_file;

use self::supervisor::Supervisor;
use crate::ca;
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::{self, CliError};
use crate::settings::{Settings, local_address};
use crate::system_users::SystemUsers;

/// Printed when everything is ready.
#[derive(Debug, Serialize)]
struct ReadyReport {
    web: String,
    endpoint: String,
    /// The CA certificate that TLS clients must trust, if the server certificate is the installation's own.
    ca: Option<PathBuf>,
    ready: bool,
}

pub(crate) fn run(global: &GlobalArgs) -> Result<(), CliError> {
    let settings = Settings::load(global)?;
    daemon::telemetry::init(&settings.log.filter, settings.log.format);
    let system_users = SystemUsers::ensure()?;
    let mut data_dir = DataDir::of(global);
    data_dir.prepare(&settings, system_users.as_ref())?;
    let lock = lock(&data_dir)?;
    port_check::require_free(&settings, system_users.is_some())?;
    let ca = data_dir.path().join(ca::CA);
    if let Some(system_users) = &system_users {
        data_dir = DataDir::at(&bind_mount::ensure_reachable(data_dir.path(), system_users)?);
    }
    let mut up = Up { settings, data_dir, system_users, ca: None, json: global.json };
    if ca::is_needed(&up.settings) {
        up.use_own_certificate(ca);
    }
    // All paths are absolute now: no role needs access to the directory that memgate was started in.
    std::env::set_current_dir("/").map_err(|error| CliError::new(error.to_string(), "check /"))?;
    // Single-threaded: a role's parent-death signal is sent when the thread that started it ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::new(error.to_string(), "check the system's limits"))?;
    let result = runtime.block_on(up.supervise());
    drop(lock);
    result
}

/// A prepared installation.
struct Up {
    settings: Settings,
    data_dir: DataDir,
    system_users: Option<SystemUsers>,
    /// The CA certificate that clients must trust, if the server certificate is the installation's own.
    ca: Option<PathBuf>,
    json: bool,
}

impl Up {
    fn use_own_certificate(&mut self, ca: PathBuf) {
        let data = self.data_dir.path();
        self.settings.proxy.tls_certificate = Some(data.join(ca::SERVER));
        self.settings.proxy.tls_key = Some(data.join(ca::SERVER_KEY));
        self.settings.webui.ca_certificate.get_or_insert_with(|| data.join(ca::CA));
        self.ca = Some(ca);
    }

    async fn supervise(self) -> Result<(), CliError> {
        let Self { settings, data_dir, system_users, ca, json } = self;
        let shutdown =
            Shutdown::on_signals().map_err(|error| CliError::new(error.to_string(), "report this bug"))?;
        // Opened first and closed last: SQLite keeps its shared files while a connection is open.
        let (store, installation) = data_dir.open_or_create(&settings, system_users.as_ref()).await?;
        let renews_certificate = ca.is_some();
        if renews_certificate {
            ca::issue_server_certificate(data_dir.path(), &settings, system_users.as_ref())?;
        }
        tokio::select! {
            ready = prepare_docker(&settings, &installation) => ready?,
            () = shutdown.begun() => return Ok(()),
        }
        let supervisor = Supervisor::start(&settings, data_dir.path(), system_users, &shutdown);
        let result = tokio::select! {
            result = supervisor.run(|| announce(&settings, ca, json)) => result,
            never = ca::renew(data_dir.path(), &settings, system_users.as_ref()), if renews_certificate => match never {},
        };
        data_dir.close_store(&settings, &store).await;
        result
    }
}

/// Checks that Docker answers, and builds the memcached image if it is missing.
async fn prepare_docker(settings: &Settings, installation: &str) -> Result<(), CliError> {
    let docker = provisioner::docker_version(&settings.provisioner).await?;
    let image = provisioner::ensure_image(&settings.provisioner, installation).await?;
    tracing::info!(installation, docker, image, "starting");
    Ok(())
}

fn announce(settings: &Settings, ca: Option<PathBuf>, json: bool) -> Result<(), CliError> {
    let base_url = settings.webui.base_url.clone();
    let ready = ReadyReport {
        web: base_url.unwrap_or_else(|| format!("http://{}", local_address(settings.webui.listen))),
        endpoint: settings.webui.endpoint.clone(),
        ca,
        ready: true,
    };
    output::print(json, &ready, || {
        let trust = ready.ca.as_ref().map_or_else(String::new, |ca| {
            format!("TLS: let clients trust {} (openssl: -CAfile, Python: cafile=)\n", ca.display())
        });
        format!("{trust}{}\n{}\nmemgate is ready\n", ready.web, ready.endpoint)
    })
}

/// Locks the data directory as long as the returned file is open. The file contains the process id for
/// `memgate down`.
fn lock(data_dir: &DataDir) -> Result<File, CliError> {
    let path = data_dir.lock_path();
    let failed = |error: std::io::Error| {
        CliError::new(
            format!("can't lock {} ({error})", path.display()),
            "check that this user may write there",
        )
    };
    let mut file = private_file::open_or_create(&path)?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let holder = lock_holder(&path).map_or_else(String::new, |pid| format!(" as process {pid}"));
        return Err(CliError::new(
            format!("memgate is already running with the data in {}{holder}", data_dir.path().display()),
            "stop it first, or name another directory with --data DIR",
        ));
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
    Ok(file)
}

/// The id of the process that holds the lock, if any.
pub(crate) fn lock_holder(lock: &Path) -> Option<i32> {
    let mut file = private_file::open_existing(lock).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).err()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
