//! `memgate proxy`: a proxy that runs alone, as the child of the process that the operator has started.
//!
//! In an upgrade the old proxy goes on beside the new one until its TLS sessions have ended, but a shell, a container and the
//! service manager know one process: they signal it, and its end is the end of the service. So that process is neither of the
//! two: it holds the ports and no connection, goes on as the new program itself (`upgrade.rs`), and so is the parent of all its
//! proxies. If the first proxy were the main process, a program of long ago would run until the next restart as their subreaper.
//! The service manager alone could be told of another main process (`MAINPID=`), but neither shells nor containers.
//!
//! The proxy isn't started again when it ends: that is the affair of those who have started this process, which ends with it.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use daemon::{Reload, Shutdown};
use rustix::process::Signal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::listeners::{PortScope, RoleListeners};
use super::role_group::GroupFolders;
use super::role_supervisor::RoleSupervisor;
use super::supervised::{Common, Problems, RoleEnd, SupervisedRole, until_ready};
use super::upgrade::{self, Inherited, Program};
use super::{service_manager, single_threaded, tell_of_shutdown};
use crate::changed_settings;
use crate::cli::config::check::Findings;
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::CliError;
use crate::role::installation_source::InstallationSource;
use crate::role::{self, Role, RoleArgs};
use crate::settings::Settings;

const ROLE: Role = Role::Proxy;
/// The option of the child.
const CHILD: &str = "--child";
/// What shells add to the number of a signal that has ended a process.
const SIGNALLED: i32 = 128;

/// Arguments of the proxy's subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct ProxyArgs {
    #[command(flatten)]
    role: RoleArgs,
    /// Without the data directory: the key file that `memgate key export` has written
    #[arg(long, value_name = "FILE", conflicts_with = "supervised")]
    keys: Option<PathBuf>,
    /// Started by a proxy that runs alone: receive settings and listening sockets on stdin, and end with it
    #[arg(long, hide = true, conflicts_with = "supervised")]
    child: bool,
    /// Go on where the program before this one in the same process has left off
    #[arg(long, hide = true, conflicts_with_all = ["supervised", "child"])]
    resume: bool,
    /// Only say whether this program could take over from the one that runs
    #[arg(long, hide = true, conflicts_with_all = ["supervised", "child", "resume"])]
    check: bool,
}

/// Runs the proxy until SIGTERM or SIGINT, or until it ends itself. Returns its exit status.
pub(crate) fn run(args: &ProxyArgs, global: &GlobalArgs) -> Result<ExitCode, CliError> {
    let done = |result: Result<(), CliError>| result.map(|()| ExitCode::SUCCESS);
    if args.role.is_supervised() {
        return done(role::run(ROLE, &args.role, global));
    }
    if args.child {
        return done(role::run_lone_proxy(args.keys.as_deref(), global));
    }
    if args.check {
        return done(check(args, global));
    }
    upgrade::start_or_resume(args.resume, |program, inherited| start(args, global, program, inherited))
}

/// Prints this program's version if it could take over, with settings, keys and store as they are.
fn check(args: &ProxyArgs, global: &GlobalArgs) -> Result<(), CliError> {
    let (source, settings) = read(args, global)?;
    let problems = Findings::of_proxy(&settings).problems;
    CliError::all(problems.into_iter().map(|problem| (problem.error, problem.fix))).map_or(Ok(()), Err)?;
    single_threaded()?.block_on(source.require_usable(&settings, ROLE.name()))?;
    println!("{}", env!("BUILD_VERSION"));
    Ok(())
}

/// The installation, and the proxy's settings.
fn read(args: &ProxyArgs, global: &GlobalArgs) -> Result<(InstallationSource, Settings), CliError> {
    let source = InstallationSource::find(args.keys.as_deref(), global)?;
    let settings = source.settings(ROLE.database_role(), global)?;
    Ok((source, ROLE.own_settings(&settings)))
}

fn start(
    args: &ProxyArgs,
    global: &GlobalArgs,
    program: Rc<Program>,
    inherited: &mut Option<Inherited>,
) -> Result<ExitCode, CliError> {
    let own = inherited.as_ref().map(Inherited::own_settings).transpose()?.flatten();
    let (source, settings, installation) = match (own, &inherited) {
        // The files may be unusable by now.
        (Some(own), Some(inherited)) => (None, own, inherited.installation().to_owned()),
        _ => {
            let (source, settings) = read(args, global)?;
            let installation = source.installation_id()?;
            (Some(source), settings, installation)
        }
    };
    daemon::telemetry::init(&settings.log.filter, settings.log.format);
    let lone = LoneProxy {
        args,
        global,
        source,
        settings,
        installation,
        program,
        is_outdated: AtomicBool::new(false),
    };
    single_threaded()?.block_on(lone.supervise(inherited))
}

/// A proxy that runs alone, and this process, its parent.
struct LoneProxy<'a> {
    args: &'a ProxyArgs,
    global: &'a GlobalArgs,
    /// `None` if the program after this one has given up.
    source: Option<InstallationSource>,
    settings: Settings,
    installation: String,
    program: Rc<Program>,
    /// Whether the proxy is of an earlier program, because the one of this program couldn't take over.
    is_outdated: AtomicBool,
}

impl LoneProxy<'_> {
    /// Runs the proxy until it has ended, or until another program goes on with it.
    async fn supervise(&self, inherited: &mut Option<Inherited>) -> Result<ExitCode, CliError> {
        let bug = |error: std::io::Error| CliError::new(error.to_string(), "report this bug");
        let shutdown = Shutdown::on_signals("memgate").map_err(bug)?;
        let mut reload = Reload::on_hangup(&shutdown).map_err(bug)?;
        upgrade::unblock_signals().map_err(bug)?;
        let mut from = inherited.as_ref().map(|inherited| inherited.version().to_owned());
        if let Some(failure) = inherited.as_ref().and_then(Inherited::failure) {
            tracing::error!("the new program gave up, so this one goes on: {failure}");
            from = None;
        }
        let roles = match inherited.take() {
            Some(inherited) => inherited.into_roles(PortScope::LoneProxy, &self.settings, None)?,
            None => SupervisedRole::all_new(RoleListeners::bind(PortScope::LoneProxy, &self.settings)?),
        };
        let proxy = roles.into_iter().find(|supervised| supervised.role == ROLE);
        let mut proxy = proxy.ok_or_else(|| CliError::new("there is no proxy", "report this bug"))?;
        loop {
            let common = Common {
                system_users: None,
                group_folders: GroupFolders::default(),
                shutdown: shutdown.clone(),
                reload: reload.clone(),
                leaving: CancellationToken::new(),
                problems: Problems::default(),
            };
            let (current, pid) = watch::channel(0);
            let end = tokio::select! {
                end = self.supervisor(proxy, current, &common).run() => end?,
                never = self.tell_of_readiness(pid, from.take(), &common.problems) => match never {},
                never = tell_of_shutdown(&shutdown) => match never {},
                never = self.wait_for_upgrade(&mut reload, &common.leaving) => match never {},
            };
            match end {
                RoleEnd::Stopped(status) => return Ok(exit_code(status, shutdown.has_begun())),
                RoleEnd::Left(left) => {
                    let all = std::slice::from_ref(left.as_ref());
                    tracing::error!(
                        "{}",
                        self.program.replace(None, &self.installation, &self.settings, all)
                    );
                    proxy = *left;
                }
            }
        }
    }

    fn supervisor(
        &self,
        supervised: SupervisedRole,
        current: watch::Sender<u32>,
        common: &Common,
    ) -> RoleSupervisor {
        let mut arguments: Vec<OsString> = self.program.arguments().to_vec();
        arguments.push(CHILD.into());
        RoleSupervisor {
            data: DataDir::of(self.global),
            installation: self.installation.clone(),
            settings: self.settings.clone(),
            supervised,
            current,
            all_ready: CancellationToken::new(),
            common: common.clone(),
            alone: Some(arguments),
        }
    }

    /// Tells the service manager that the proxy is ready, and how an upgrade `from` another version has ended.
    async fn tell_of_readiness(
        &self,
        mut pid: watch::Receiver<u32>,
        from: Option<String>,
        problems: &Problems,
    ) -> Infallible {
        if let Ok(pid) = pid.wait_for(|pid| *pid > 0).await.map(|pid| *pid) {
            let problem = problems.take();
            self.is_outdated.store(problem.is_some(), Ordering::Relaxed);
            until_ready(ROLE, ROLE.health(&self.settings), &self.installation, pid).await;
            match (from, problem) {
                (_, Some(problem)) => tracing::error!("the proxy isn't upgraded: {problem}"),
                (Some(from), None) => tracing::info!(from, to = env!("BUILD_VERSION"), "upgraded"),
                (None, None) => {}
            }
            service_manager::ready();
        }
        std::future::pending().await
    }

    /// Lets the supervisor leave the proxy to the program on disk when that or the settings have changed, and it could go on.
    async fn wait_for_upgrade(&self, reload: &mut Reload, leaving: &CancellationToken) -> Infallible {
        loop {
            reload.requested().await;
            if !self.has_changed() {
                tracing::info!("the program and the settings are those in use");
                continue;
            }
            match self.check_program().await {
                Ok(version) => {
                    tracing::info!(from = env!("BUILD_VERSION"), to = version, "upgrading");
                    leaving.cancel();
                    return std::future::pending().await;
                }
                Err(error) => tracing::error!("no upgrade: {error}"),
            }
        }
    }

    /// Whether the program on disk, the settings or the keys aren't those in use. What can't be read counts as changed: the check
    /// says why.
    fn has_changed(&self) -> bool {
        let is_same = read(self.args, self.global).is_ok_and(|(source, settings)| {
            self.source.as_ref().is_some_and(|own| own.has_same_keys(&source))
                && changed_settings::between(&self.settings, &settings).is_empty()
        });
        !is_same || !self.program.is_on_disk() || self.is_outdated.load(Ordering::Relaxed)
    }

    /// Asks the program on disk whether it could go on, and checks new ports. Returns its version.
    async fn check_program(&self) -> Result<String, CliError> {
        let version = self.program.check().await?;
        PortScope::LoneProxy.require_free(&read(self.args, self.global)?.1, &self.settings)?;
        Ok(version)
    }
}

/// The exit status that tells how the proxy has ended.
fn exit_code(status: Option<ExitStatus>, is_stopping: bool) -> ExitCode {
    let Some(status) = status else { return ExitCode::SUCCESS };
    let signal = status.signal();
    // One that was stopped before it could handle signals.
    if is_stopping && signal == Some(Signal::TERM.as_raw()) {
        return ExitCode::SUCCESS;
    }
    if signal.is_some() {
        tracing::error!(%status, "the proxy was ended");
    }
    let code = status.code().or(signal.map(|signal| SIGNALLED + signal)).unwrap_or(1);
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_status_is_that_of_the_proxy() {
        let ended = |raw: i32, is_stopping| {
            let code = exit_code(Some(ExitStatus::from_raw(raw)), is_stopping);
            format!("{code:?}")
        };
        let expected = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(ended(0, true), expected(0));
        assert_eq!(ended(3 << 8, false), expected(3));
        assert_eq!(ended(9, true), expected(137));
        assert_eq!(ended(15, false), expected(143));
        assert_eq!(ended(15, true), expected(0));
    }
}
