//! `memgate up`: runs all roles on one machine. Prepares the data directory, then supervises one process per
//! role until Ctrl-C. The caches are containers and keep running.

mod announcement;
mod bind_mount;
mod control_groups;
mod listeners;
mod lock;
pub(crate) mod port_check;
mod role_group;
mod role_log;
mod service_manager;
mod supervisor;
mod user_manager;
mod watchdog;

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use daemon::{Reload, Shutdown};
use tokio::runtime::Runtime;

use self::listeners::RoleListeners;
pub(crate) use self::lock::{LockHolder, lock_holder};
use self::role_group::{GroupFolders, RoleGroup};
use self::supervisor::Supervisor;
use self::user_manager::RoleUser;
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::CliError;
use crate::role::Role;
use crate::settings::Settings;
use crate::system_users::SystemUsers;
use crate::{ca, changed_settings, store_clock, store_outage};

pub(crate) fn run(global: &GlobalArgs) -> Result<(), CliError> {
    let settings = Settings::load(global)?;
    daemon::telemetry::init(&settings.log.filter, settings.log.format);
    let system_users = SystemUsers::ensure()?;
    let mut data_dir = DataDir::of(global);
    let is_new = !data_dir.exists()?;
    if !data_dir.is_initialized()? {
        // A start that can't succeed leaves nothing behind.
        port_check::require_free(&settings)?;
        single_threaded()?.block_on(provisioner::docker_version(&settings.provisioner))?;
    }
    data_dir.prepare(&settings, system_users.as_ref())?;
    let lock = lock::lock(&data_dir, &settings)?;
    if let Some(system_users) = &system_users {
        end_earlier_roles(&data_dir, &lock.group_folders, system_users)?;
    }
    port_check::require_free(&settings)?;
    let data = data_dir.path().to_path_buf();
    if let Some(system_users) = &system_users {
        data_dir = DataDir::at(&bind_mount::ensure_reachable(data_dir.path(), system_users)?);
    }
    let global = absolute_paths(global, &data_dir)?;
    let loaded = settings.clone();
    let (named, group_folders) = (data.clone(), lock.group_folders.clone());
    let mut up =
        Up { loaded, settings, data_dir, named, is_new, system_users, group_folders, ca: None, global };
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

/// Ends roles that outlived an earlier `memgate up`: a broken one that doesn't stop when it should has its port still.
fn end_earlier_roles(
    data_dir: &DataDir,
    folders: &GroupFolders,
    system_users: &SystemUsers,
) -> Result<(), CliError> {
    // Without an id no role has run. What else is wrong with it is said later.
    let Ok(installation) = data_dir.installation_id() else { return Ok(()) };
    for role in Role::ALL {
        let Some(user) = RoleUser::of(role, system_users) else { continue };
        RoleGroup::end_earlier(folders, (&installation, role.name()), user)
            .map_err(|error| role_group::not_ended(role, &error))?;
    }
    Ok(())
}

/// A prepared installation.
struct Up {
    /// The settings as they were read.
    loaded: Settings,
    /// The same with the installation's own certificate.
    settings: Settings,
    data_dir: DataDir,
    /// The data directory as the operator sees it.
    named: PathBuf,
    /// Whether this start created it.
    is_new: bool,
    system_users: Option<SystemUsers>,
    group_folders: GroupFolders,
    /// The CA certificate that clients must trust, if the server certificate is the installation's own.
    ca: Option<PathBuf>,
    global: GlobalArgs,
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
        let Self { loaded, settings, data_dir, named, is_new, system_users, group_folders, ca, global } =
            self;
        let bug = |error: std::io::Error| CliError::new(error.to_string(), "report this bug");
        let shutdown = Shutdown::on_signals("memgate").map_err(bug)?;
        let reload = Reload::on_hangup(&shutdown).map_err(bug)?;
        let open = async || {
            let opened = data_dir.open_or_create(&settings, system_users.as_ref()).await?;
            store_clock::require(&opened.0, true).await?;
            Ok(opened)
        };
        let opened = store_outage::until_open(&shutdown, open, |_| {}).await.inspect_err(|_| {
            if is_new {
                DataDir::at(&named).remove_new(&settings);
            }
        })?;
        let Some((store, installation)) = opened else { return Ok(()) };
        if data_dir.has_role_users()? {
            data_dir.set_up_role_users(&settings, &store, false).await?;
        } else if settings.store.url.is_some() {
            tracing::info!(
                "all roles use one database user: `memgate migrate --roles` gives each its own, with the rights that it needs"
            );
        }
        // A broken role could end a process that has the database open, by cutting the file that SQLite maps into memory.
        data_dir.close_store(&settings, &store).await;
        let renews_certificate = ca.is_some();
        if renews_certificate {
            ca::issue_server_certificate(data_dir.path(), &settings, system_users.as_ref())?;
        }
        tokio::select! {
            prepared = prepare_docker(&settings, &data_dir, &installation) => prepared?,
            () = shutdown.begun() => return Ok(()),
        }
        let common = supervisor::Common { system_users, group_folders, shutdown, reload: reload.clone() };
        let listeners = RoleListeners::bind(&settings)?;
        let supervisor = Supervisor::start(&settings, &data_dir, &installation, listeners, &common)?;
        let on_ready = || {
            announcement::print(&settings, &named, ca, global.json)?;
            service_manager::ready();
            Ok(())
        };
        let result = tokio::select! {
            result = supervisor.run(on_ready) => result,
            never = tell_of_shutdown(&common.shutdown) => match never {},
            never = ca::renew(data_dir.path(), &settings, system_users.as_ref()), if renews_certificate => match never {},
            never = changed_settings::report(&global, &loaded, reload) => match never {},
        };
        data_dir.restore_log_files(&settings);
        result
    }
}

/// Tells the service manager when the shutdown begins.
async fn tell_of_shutdown(shutdown: &Shutdown) -> Infallible {
    shutdown.begun().await;
    service_manager::stopping();
    std::future::pending().await
}

/// The options with absolute paths: settings are read again after the current directory has changed.
fn absolute_paths(global: &GlobalArgs, data_dir: &DataDir) -> Result<GlobalArgs, CliError> {
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).map_err(|error| CliError::new(error.to_string(), "name an absolute path"))
    };
    let mut global = global.clone();
    global.config = global.config.as_ref().map(absolute).transpose()?;
    global.data = Some(data_dir.path().to_path_buf());
    Ok(global)
}

/// Checks that Docker answers, and builds the memcached image if it is missing. While Docker is away this is left to the
/// provisioner: the other roles work without.
async fn prepare_docker(settings: &Settings, data_dir: &DataDir, installation: &str) -> Result<(), CliError> {
    let docker = match provisioner::docker_version(&settings.provisioner).await {
        Ok(version) => version,
        Err(error) if error.is_docker_down() && may_open(&settings.provisioner.docker_socket) => {
            let error = CliError::from_error(&error);
            tracing::warn!(
                "{error}; until then the proxy and the web UI run, and no cache is created or repaired"
            );
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let image = provisioner::ensure_image(&data_dir.provisioner_config(settings), installation).await?;
    tracing::info!(installation, docker, image, "starting");
    Ok(())
}

/// Whether this user may open a socket, if it exists: waiting doesn't help one who may not.
fn may_open(socket: &Path) -> bool {
    let access = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
    rustix::fs::access(socket, access) != Err(rustix::io::Errno::ACCESS)
}
