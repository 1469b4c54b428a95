//! `memgate up`: runs all roles on one machine. Prepares the data directory, then supervises one process per
//! role until Ctrl-C. The caches are containers and keep running.

mod announcement;
mod bind_mount;
mod control_groups;
mod listeners;
mod lock;
mod lone_proxy;
pub(crate) mod port_check;
mod role_group;
mod role_log;
mod role_process;
mod role_supervisor;
mod service_manager;
mod supervised;
mod supervisor;
mod upgrade;
mod upgrade_check;
mod user_manager;
mod watchdog;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use daemon::{Reload, Shutdown};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::listeners::{PortScope, RoleListeners};
use self::lock::Lock;
pub(crate) use self::lock::{LockHolder, health_address, lock_holder};
pub(crate) use self::lone_proxy::{ProxyArgs, run as run_proxy};
use self::role_group::{GroupFolders, RoleGroup};
use self::supervised::{Common, Problems, SupervisedRole};
use self::supervisor::{Outcome, Supervisor};
use self::upgrade::{Inherited, Program};
use self::user_manager::RoleUser;
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::CliError;
use crate::role::Role;
use crate::settings::Settings;
use crate::system_users::SystemUsers;
use crate::{ca, changed_settings, store_clock, store_outage};

/// How long the store may be migrated, and the image be built, while roles of the program before run.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(120);

/// Arguments of `memgate up`.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// Go on where the program before this one in the same process has left off
    #[arg(long, hide = true)]
    resume: bool,
    /// Only say whether this program could take over from the one that runs
    #[arg(long, hide = true, conflicts_with = "resume")]
    check: bool,
}

pub(crate) fn run(args: &UpArgs, global: &GlobalArgs) -> Result<(), CliError> {
    if args.check {
        return upgrade_check::run(&Settings::load(global)?, &DataDir::of(global));
    }
    upgrade::start_or_resume(args.resume, |program, inherited| start(global, program, inherited))
}

fn start(
    global: &GlobalArgs,
    program: Rc<Program>,
    inherited: &mut Option<Inherited>,
) -> Result<(), CliError> {
    let own = inherited.as_ref().map(Inherited::own_settings).transpose()?.flatten();
    let settings = own.map_or_else(|| Settings::load(global), Ok)?;
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
    let lock = match inherited {
        Some(inherited) => lock::resume(inherited.lock()?, &settings)?,
        None => {
            let lock = lock::lock(&data_dir, &settings)?;
            if let Some(system_users) = &system_users {
                end_earlier_roles(&data_dir, &lock.group_folders, system_users)?;
            }
            port_check::require_free(&settings)?;
            lock
        }
    };
    let data = data_dir.path().to_path_buf();
    if let Some(system_users) = &system_users {
        data_dir = DataDir::at(&bind_mount::ensure_reachable(data_dir.path(), system_users)?);
    }
    let global = absolute_paths(global, &data_dir)?;
    let loaded = settings.clone();
    let mut up = Up {
        loaded,
        settings,
        data_dir,
        named: data.clone(),
        is_new,
        system_users,
        lock,
        ca: None,
        global,
        program,
    };
    if ca::is_needed(&up.settings) {
        up.use_own_certificate(data.join(ca::CA));
    }
    // All paths are absolute now: no role needs access to the directory that memgate was started in.
    std::env::set_current_dir("/").map_err(|error| CliError::new(error.to_string(), "check /"))?;
    single_threaded()?.block_on(up.supervise(inherited))
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
    lock: Lock,
    /// The CA certificate that clients must trust, if the server certificate is the installation's own.
    ca: Option<PathBuf>,
    global: GlobalArgs,
    program: Rc<Program>,
}

impl Up {
    fn use_own_certificate(&mut self, ca: PathBuf) {
        let data = self.data_dir.path();
        self.settings.proxy.tls_certificate = Some(data.join(ca::SERVER));
        self.settings.proxy.tls_key = Some(data.join(ca::SERVER_KEY));
        self.settings.webui.ca_certificate.get_or_insert_with(|| data.join(ca::CA));
        self.ca = Some(ca);
    }

    /// Runs the roles until the shutdown, or until another program goes on with them.
    async fn supervise(self, inherited: &mut Option<Inherited>) -> Result<(), CliError> {
        let bug = |error: std::io::Error| CliError::new(error.to_string(), "report this bug");
        let shutdown = Shutdown::on_signals("memgate").map_err(bug)?;
        let reload = Reload::on_hangup(&shutdown).map_err(bug)?;
        let mut requests = UpgradeRequests::on_signal().map_err(bug)?;
        upgrade::unblock_signals().map_err(bug)?;
        let common = Common {
            system_users: self.system_users,
            group_folders: self.lock.group_folders.clone(),
            shutdown: shutdown.clone(),
            reload,
            leaving: CancellationToken::new(),
            problems: Problems::default(),
        };
        let failure = inherited.as_ref().and_then(Inherited::failure).map(str::to_owned);
        let installation = match &failure {
            // The roles run, and the store may be one of the program that has given up.
            Some(failure) => {
                tracing::error!("the new program gave up, so this one goes on: {failure}");
                self.lock.record_upgrade(Err(failure.clone()));
                self.data_dir.installation_id()?
            }
            None => match self.prepare_in_time(&shutdown, inherited.is_some()).await? {
                Some(installation) => installation,
                None => return self.stop_inherited(inherited.take()).await,
            },
        };
        let renews_certificate = self.ca.is_some();
        let from = inherited.as_ref().map(|inherited| inherited.version().to_owned());
        let mut roles = match inherited.take() {
            Some(inherited) => {
                inherited.into_roles(PortScope::Up, &self.settings, self.system_users.as_ref())?
            }
            None => SupervisedRole::all_new(RoleListeners::bind(PortScope::Up, &self.settings)?),
        };
        let (mut is_announced, mut reload) = (false, common.reload.clone());
        loop {
            let common = Common { leaving: CancellationToken::new(), ..common.clone() };
            let supervisor =
                Supervisor::start(&self.settings, &self.data_dir, &installation, roles, &common)?;
            let on_ready = |ready| match std::mem::replace(&mut is_announced, true) {
                // An upgrade failed before anything was replaced.
                true => Ok(()),
                false => self.on_ready(ready, (from.as_deref(), failure.is_some()), &common.problems),
            };
            let outcome = tokio::select! {
                outcome = supervisor.run(on_ready) => outcome?,
                never = tell_of_shutdown(&shutdown) => match never {},
                never = ca::renew(self.data_dir.path(), &self.settings, self.system_users.as_ref()), if renews_certificate => match never {},
                never = self.wait_for_upgrade(&mut requests, &mut reload, &common.leaving) => match never {},
            };
            match outcome {
                Outcome::Stopped => {
                    self.data_dir.restore_log_files(&self.settings);
                    return Ok(());
                }
                Outcome::Left(left) => {
                    let error =
                        self.program.replace(Some(self.lock.file()), &installation, &self.loaded, &left);
                    tracing::error!("{error}");
                    self.lock.record_upgrade(Err(error.to_string()));
                    roles = left;
                }
            }
        }
    }

    /// Stops the roles of the program before this one: the shutdown has begun before they were taken over.
    async fn stop_inherited(&self, inherited: Option<Inherited>) -> Result<(), CliError> {
        let Some(inherited) = inherited else { return Ok(()) };
        let roles = inherited.into_roles(PortScope::Up, &self.settings, self.system_users.as_ref())?;
        for mut role in roles {
            role_supervisor::stop_all(&mut role).await;
        }
        Ok(())
    }

    /// Lets the supervisor leave the roles to the program on disk when an upgrade is asked for and it could go on.
    async fn wait_for_upgrade(
        &self,
        requests: &mut UpgradeRequests,
        reload: &mut Reload,
        leaving: &CancellationToken,
    ) -> Infallible {
        loop {
            tokio::select! {
                () = requests.next() => {}
                () = reload.requested() => {
                    if !self.has_changed() {
                        tracing::info!("the program and the settings are those in use");
                        continue;
                    }
                }
            }
            let checked = match self.program.check().await {
                Ok(version) => self.check_ports().map(|()| version),
                Err(error) => Err(error),
            };
            match checked {
                Ok(version) => {
                    tracing::info!(from = env!("BUILD_VERSION"), to = version, "upgrading");
                    leaving.cancel();
                    return std::future::pending().await;
                }
                Err(error) => {
                    tracing::error!("no upgrade: {error}");
                    self.lock.record_upgrade(Err(error.to_string()));
                }
            }
        }
    }

    /// Tells that all roles are ready, or that an upgrade `from` a version is done, unless the program is `back` after one that failed.
    fn on_ready(
        &self,
        ready: Result<(), CliError>,
        (from, is_back): (Option<&str>, bool),
        problems: &Problems,
    ) -> Result<(), CliError> {
        let Some(from) = from else {
            ready?;
            announcement::print(&self.settings, &self.named, self.ca.clone(), self.global.json)?;
            service_manager::ready();
            return Ok(());
        };
        if !is_back {
            let problem = ready.err().or_else(|| problems.take());
            match &problem {
                None => tracing::info!(from, to = env!("BUILD_VERSION"), "upgraded"),
                Some(problem) => tracing::error!("the upgrade isn't complete: {problem}"),
            }
            self.lock.record_upgrade(problem.map_or(Ok(()), |problem| Err(problem.to_string())));
        }
        service_manager::ready();
        Ok(())
    }

    /// Checks that the ports of changed settings are free.
    fn check_ports(&self) -> Result<(), CliError> {
        PortScope::Up.require_free(&Settings::load(&self.global)?, &self.settings)
    }

    /// Whether the program on disk or the settings aren't those in use. What can't be read counts as changed: the check says why.
    fn has_changed(&self) -> bool {
        let settings = Settings::load(&self.global);
        let is_same =
            settings.is_ok_and(|settings| changed_settings::between(&self.loaded, &settings).is_empty());
        !is_same || !self.program.is_on_disk()
    }

    /// The same as [`Up::prepare`], in bounded time while roles of the program before run: nobody watches them meanwhile.
    async fn prepare_in_time(
        &self,
        shutdown: &Shutdown,
        has_roles: bool,
    ) -> Result<Option<String>, CliError> {
        if !has_roles {
            return self.prepare(shutdown).await;
        }
        let prepared = tokio::time::timeout(PREPARE_TIMEOUT, self.prepare(shutdown)).await;
        prepared.unwrap_or_else(|_| {
            let what = format!("the store and the image weren't ready within {PREPARE_TIMEOUT:?}");
            Err(CliError::new(what, "check that both answer (`memgate status`), then try again"))
        })
    }

    /// Migrates the store, and makes what roles need; returns the installation's id. `None` if the shutdown begins meanwhile.
    async fn prepare(&self, shutdown: &Shutdown) -> Result<Option<String>, CliError> {
        let Self { settings, data_dir, named, is_new, system_users, ca, .. } = self;
        let open = async || {
            let opened = data_dir.open_or_create(settings, system_users.as_ref()).await?;
            store_clock::require(&opened.0, true).await?;
            Ok(opened)
        };
        let opened = store_outage::until_open(shutdown, open, |_| {}).await.inspect_err(|_| {
            if *is_new {
                DataDir::at(named).remove_new(settings);
            }
        })?;
        let Some((store, installation)) = opened else { return Ok(None) };
        if data_dir.has_role_users(settings)? {
            data_dir.set_up_role_users(settings, &store, false).await?;
        } else if settings.store.url.is_some() {
            tracing::info!(
                "all roles use one database user: `memgate migrate --roles` gives each its own, with the rights that it needs"
            );
        }
        // A broken role could end a process that has the database open, by cutting the file that SQLite maps into memory.
        data_dir.close_store(settings, &store).await;
        if ca.is_some() {
            ca::issue_server_certificate(data_dir.path(), settings, system_users.as_ref())?;
        }
        // While nothing is started or replaced yet.
        Role::ALL.into_iter().try_for_each(|role| role.visible_settings(settings, data_dir).map(drop))?;
        tokio::select! {
            prepared = prepare_docker(settings, data_dir, &installation) => prepared.map(|()| Some(installation.clone())),
            () = shutdown.begun() => Ok(None),
        }
    }
}

/// Requests for an upgrade: SIGUSR2, which `memgate upgrade` sends.
struct UpgradeRequests(Signal);

impl UpgradeRequests {
    fn on_signal() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::user_defined2())?))
    }

    async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
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
