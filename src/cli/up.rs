//! `memgate up`: runs all roles on one machine. Prepares the data directory, then supervises one process per
//! role until Ctrl-C. The caches are containers and keep running.

mod announcement;
mod bind_mount;
mod port_check;
mod role_log;
mod supervisor;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use daemon::Shutdown;
use rustix::fs::FlockOperation;
use store::private_file;
use tokio::runtime::Runtime;

use self::supervisor::Supervisor;
use crate::ca;
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::CliError;
use crate::settings::Settings;
use crate::system_users::SystemUsers;

pub(crate) fn run(global: &GlobalArgs) -> Result<(), CliError> {
    let settings = Settings::load(global)?;
    daemon::telemetry::init(&settings.log.filter, settings.log.format);
    let system_users = SystemUsers::ensure()?;
    let mut data_dir = DataDir::of(global);
    let is_new = !data_dir.exists()?;
    if !data_dir.is_initialized()? {
        // A start that can't succeed leaves nothing behind.
        port_check::require_free(&settings, system_users.is_some())?;
        single_threaded()?.block_on(provisioner::docker_version(&settings.provisioner))?;
    }
    data_dir.prepare(&settings, system_users.as_ref())?;
    let lock = lock(&data_dir)?;
    port_check::require_free(&settings, system_users.is_some())?;
    let data = data_dir.path().to_path_buf();
    if let Some(system_users) = &system_users {
        data_dir = DataDir::at(&bind_mount::ensure_reachable(data_dir.path(), system_users)?);
    }
    let (named, json) = (data.clone(), global.json);
    let mut up = Up { settings, data_dir, named, is_new, system_users, ca: None, json };
    if ca::is_needed(&up.settings) {
        up.use_own_certificate(data.join(ca::CA));
    }
    // All paths are absolute now: no role needs access to the directory that memgate was started in.
    std::env::set_current_dir("/").map_err(|error| CliError::new(error.to_string(), "check /"))?;
    let result = single_threaded()?.block_on(up.supervise());
    drop(lock);
    result
}

/// Single-threaded: a role's parent-death signal is sent when the thread that started it ends, and the bind mount needs a
/// process with one thread.
fn single_threaded() -> Result<Runtime, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CliError::new(error.to_string(), "check the system's limits"))
}

/// A prepared installation.
struct Up {
    settings: Settings,
    data_dir: DataDir,
    /// The data directory as the operator sees it.
    named: PathBuf,
    /// Whether this start created it.
    is_new: bool,
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
        let Self { settings, data_dir, named, is_new, system_users, ca, json } = self;
        let shutdown =
            Shutdown::on_signals().map_err(|error| CliError::new(error.to_string(), "report this bug"))?;
        // Opened first and closed last: SQLite keeps its shared files while a connection is open.
        let opened = data_dir.open_or_create(&settings, system_users.as_ref()).await;
        let (store, installation) = opened.inspect_err(|_| {
            if is_new {
                DataDir::at(&named).remove_new(&settings);
            }
        })?;
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
            result = supervisor.run(|| announcement::print(&settings, &named, ca, json)) => result,
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
        let holder = lock_holder(&path)?.map_or_else(String::new, |pid| format!(" as process {pid}"));
        return Err(CliError::new(
            format!("memgate is already running with the data in {}{holder}", data_dir.path().display()),
            "stop it first, or name another directory with --data DIR",
        ));
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
    Ok(file)
}

/// The id of the process that holds the lock, if any.
///
/// # Errors
/// If the lock can't be looked at: then a process may hold it.
pub(crate) fn lock_holder(lock: &Path) -> Result<Option<i32>, CliError> {
    let mut file = match private_file::open_existing(lock) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return Ok(None);
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|error| {
        CliError::new(format!("can't read {} ({error})", lock.display()), "check the disk, then retry")
    })?;
    Ok(text.trim().parse().ok())
}
