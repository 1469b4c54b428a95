//! `memgate up`: everything on one machine. Prepares the data folder, then runs the roles as
//! processes of their own until Ctrl-C. The caches are containers: they keep running.

mod bind_mount;
mod port_check;
mod supervisor;

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use daemon::Shutdown;
use rustix::fs::FlockOperation;
use serde::Serialize;
use store::Store;

use self::supervisor::Supervisor;
use crate::ca;
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::{self, CliError};
use crate::settings::{Settings, reachable};
use crate::system_users::SystemUsers;

/// What is printed when everything is ready.
#[derive(Debug, Serialize)]
struct Ready {
    web: String,
    endpoint: String,
    /// What clients must trust to speak TLS, if the certificate is ours.
    ca: Option<PathBuf>,
    ready: bool,
}

pub(crate) fn run(global: &GlobalArgs) -> Result<(), CliError> {
    let mut settings = Settings::load(global)?;
    daemon::telemetry::init(&settings.log.filter, settings.log.format);
    let accounts = SystemUsers::ensure()?;
    let mut folder = DataDir::of(global);
    folder.prepare(&settings, accounts.as_ref())?;
    let lock = lock(&folder)?;
    port_check::require_free(&settings, accounts.is_some())?;
    let mut ca = Some(folder.path().join(ca::CA));
    if let Some(accounts) = &accounts {
        folder = DataDir::at(&bind_mount::open(folder.path(), accounts)?);
    }
    if ca::is_wanted(&settings) {
        ca::certify(folder.path(), &settings, accounts.as_ref())?;
        settings.proxy.tls_certificate = Some(folder.path().join(ca::SERVER));
        settings.proxy.tls_key = Some(folder.path().join(ca::SERVER_KEY));
        settings.webui.ca_certificate.get_or_insert_with(|| folder.path().join(ca::CA));
    } else {
        ca = None;
    }
    // Paths are absolute from here on, and no role needs a right to where we were started.
    std::env::set_current_dir("/").map_err(|error| CliError::new(error.to_string(), "check /"))?;
    // One thread: roles are told of our end by the end of the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::new(error.to_string(), "check the system's limits"))?;
    let ended = runtime.block_on(supervise(&settings, &folder, accounts, ca, global.json));
    drop(lock);
    ended
}

async fn supervise(
    settings: &Settings,
    folder: &DataDir,
    accounts: Option<SystemUsers>,
    ca: Option<PathBuf>,
    json: bool,
) -> Result<(), CliError> {
    let shutdown = Shutdown::on_signals().map_err(|error| CliError::new(error.to_string(), "report this"))?;
    // Ours is the first connection and the last: SQLite's shared files stay there between the roles'.
    let store = Store::open(&settings.database(folder.path())).await?;
    tokio::select! {
        ready = check_docker(settings, &store) => ready?,
        () = shutdown.begun() => return Ok(()),
    }
    let supervisor = Supervisor::start(settings, folder.path(), accounts, &shutdown);
    let renewed = ca.is_some();
    let ended = tokio::select! {
        ended = supervisor.until_stopped(|| announce(settings, ca, json)) => ended,
        never = ca::renew(folder.path(), settings, accounts.as_ref()), if renewed => match never {},
    };
    store.close().await;
    ended
}

/// Docker answers, and there is an image to make caches from.
async fn check_docker(settings: &Settings, store: &Store) -> Result<(), CliError> {
    let installation = store.installation_id().await?;
    let docker = provisioner::docker_version(&settings.provisioner).await?;
    let image = provisioner::ensure_image(&settings.provisioner, &installation).await?;
    tracing::info!(installation, docker, image, "starting");
    Ok(())
}

fn announce(settings: &Settings, ca: Option<PathBuf>, json: bool) -> Result<(), CliError> {
    let web = settings.webui.base_url.clone();
    let ready = Ready {
        web: web.unwrap_or_else(|| format!("http://{}", reachable(settings.webui.listen))),
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

/// Held for as long as we run. The file says who we are, for `memgate down`.
fn lock(folder: &DataDir) -> Result<File, CliError> {
    let path = folder.lock_path();
    let cannot = |error: std::io::Error| {
        CliError::new(
            format!("can't lock {} ({error})", path.display()),
            "check that this user may write there",
        )
    };
    let mut options = OpenOptions::new();
    let mut file =
        options.create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(cannot)?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let who = running(&path).map_or_else(String::new, |pid| format!(" as process {pid}"));
        return Err(CliError::new(
            format!("memgate is running already with the data in {}{who}", folder.path().display()),
            "stop it first, or name another folder with --data DIR",
        ));
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(cannot)?;
    Ok(file)
}

/// The process that holds the lock, if one does.
pub(crate) fn running(lock: &Path) -> Option<i32> {
    let file = File::open(lock).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).err()?;
    std::fs::read_to_string(lock).ok()?.trim().parse().ok()
}
