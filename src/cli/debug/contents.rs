//! What a debug file holds. What can't be had is named in its place: the file is made when something is broken.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use store::DatabaseRole;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::redaction::Redaction;
use super::settings::harmless;
use crate::cli::up::{health_address, lock_holder};
use crate::cli::{doctor, status};
use crate::data_dir::DataDir;
use crate::database_url;
use crate::global_args::GlobalArgs;
use crate::health_check;
use crate::output::CliError;
use crate::role::Role;
use crate::settings::Settings;

/// Time limit of a question to Docker or the store: counting rows may take a while.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of the end of a log.
const LOG_MAX: u64 = 2 << 20;
const JOURNAL_LINES: &str = "10000";

/// A file in the archive.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) text: String,
}

/// Collects everything.
///
/// # Errors
/// If the settings can't be read: then nobody knows what must not be told.
pub(super) fn collect(
    global: &GlobalArgs,
    data_dir: &DataDir,
    log: Option<&Path>,
    runtime: &Runtime,
) -> Result<Vec<Entry>, CliError> {
    let settings = Settings::load(global)?;
    let redaction = Redaction::new(secrets(&settings, data_dir));
    let up = lock_holder(data_dir).ok().flatten();
    let mut entries = vec![
        entry("versions.json", &versions()),
        entry("settings.json", &harmless(&settings)),
        from_result("doctor.json", doctor::check_installation(global)),
        entry("status.json", &runtime.block_on(status::read_status(&settings, data_dir))),
        from_result("store.json", runtime.block_on(row_counts(&settings, data_dir))),
        from_result("docker.json", runtime.block_on(docker(&settings, data_dir))),
        Entry { name: "log.txt", text: log_text(log) },
    ];
    for (role, [health, metrics]) in Role::ALL.into_iter().zip(ROLE_FILES) {
        let address = health_address(up.as_ref(), role, &settings);
        for (name, path) in [(health, "/status"), (metrics, "/metrics")] {
            let got = runtime.block_on(health_check::answer(address, path));
            entries.push(Entry { name, text: got.unwrap_or_else(|why| format!("{address}: {why}\n")) });
        }
    }
    for entry in &mut entries {
        entry.text = redaction.apply(&entry.text);
    }
    Ok(entries)
}

/// In the order of [`Role::ALL`].
const ROLE_FILES: [[&str; 2]; 3] = [
    ["provisioner-health.json", "provisioner-metrics.txt"],
    ["proxy-health.json", "proxy-metrics.txt"],
    ["webui-health.json", "webui-metrics.txt"],
];

fn entry(name: &'static str, document: &impl Serialize) -> Entry {
    let text = serde_json::to_string_pretty(document);
    Entry { name, text: text.unwrap_or_else(|error| format!("can't be written ({error})\n")) }
}

fn from_result(name: &'static str, result: Result<impl Serialize, CliError>) -> Entry {
    match result {
        Ok(document) => entry(name, &document),
        Err(error) => Entry { name, text: format!("{error}\n") },
    }
}

fn versions() -> serde_json::Value {
    let kernel = rustix::system::uname();
    let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or_default();
    json!({
        "memgate": env!("BUILD_VERSION"),
        "kernel": kernel.release().to_string_lossy(),
        "machine": kernel.machine().to_string_lossy(),
        "system": system.trim_matches('"'),
        "cpus": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "created_at": store::now(),
    })
}

async fn row_counts(settings: &Settings, data_dir: &DataDir) -> Result<serde_json::Value, CliError> {
    let counted = async {
        let store = data_dir.open_store(settings).await?;
        let counts = store.row_counts().await;
        data_dir.close_store(settings, &store).await;
        let kind = if settings.store.url.is_some() { "postgresql" } else { "sqlite" };
        Ok(json!({ "kind": kind, "rows": counts?.into_iter().collect::<std::collections::BTreeMap<_, _>>() }))
    };
    let late = || CliError::new("the store doesn't answer", "check how busy it is");
    timeout(TIMEOUT, counted).await.unwrap_or_else(|_| Err(late()))
}

async fn docker(settings: &Settings, data_dir: &DataDir) -> Result<serde_json::Value, CliError> {
    let config = data_dir.provisioner_config(settings);
    let asked = async {
        let info = provisioner::docker_info(&config).await?;
        let containers = provisioner::containers(&config, &data_dir.installation_id()?).await?;
        Ok(json!({ "engine": info, "containers": containers }))
    };
    let late = || CliError::new("Docker doesn't answer", "restart it");
    timeout(TIMEOUT, asked).await.unwrap_or_else(|_| Err(late()))
}

/// The end of a file, or of systemd's journal.
fn log_text(file: Option<&Path>) -> String {
    let Some(path) = file else { return journal() };
    let read = || {
        let mut file = File::open(path)?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_MAX)))?;
        let mut bytes = Vec::new();
        file.take(LOG_MAX).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("can't read {} ({error})\n", path.display()))
}

fn journal() -> String {
    let mut command = daemon::host_tool("journalctl");
    command.args(["--unit", "memgate", "--lines", JOURNAL_LINES, "--no-pager", "--output", "short-iso"]);
    match command.stdin(std::process::Stdio::null()).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => format!("no journal ({error}): name the log with --log\n"),
    }
}

/// All that must not be told, as far as this user may read it.
fn secrets(settings: &Settings, data_dir: &DataDir) -> Vec<String> {
    let mut secrets = data_dir.secrets();
    let urls =
        DatabaseRole::ALL.into_iter().filter_map(|role| data_dir.role_store_url(settings, role).ok()?);
    for url in urls.chain(settings.store.url.clone()) {
        secrets.extend(database_url::login(&url).map(|(_, password)| password));
        secrets.extend(database_url::without_password(&url).and_then(|(_, password)| password));
    }
    secrets.extend(settings.webui.mail.password.clone());
    let file = settings.webui.mail.password_file.as_ref();
    secrets
        .extend(file.and_then(|file| std::fs::read_to_string(file).ok()).map(|text| text.trim().to_owned()));
    secrets
}
