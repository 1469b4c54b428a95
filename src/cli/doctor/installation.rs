//! Checks of the installation: settings, data directory, store, Docker, roles.

use std::time::{Duration, Instant};

use provisioner::DockerInfo;
use store::{Store, now};
use tokio::time::timeout;

use super::machine;
use super::report::Report;
use crate::cli::config::check::Findings;
use crate::cli::status;
use crate::cli::up::LockHolder;
use crate::data_dir::DataDir;
use crate::output::CliError;
use crate::role::Role;
use crate::settings::Settings;
use crate::store_clock;

/// Time limit of a question to Docker or the store.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How far Docker's clock may differ: it is this machine's, unless its socket leads elsewhere.
const DOCKER_CLOCK_MAX: Duration = Duration::from_secs(2);

/// What `memgate config check` finds.
pub(super) fn settings(settings: &Settings, data_dir: &DataDir, report: &mut Report) {
    let findings = Findings::of(settings, data_dir);
    if findings.problems.is_empty() && findings.warnings.is_empty() {
        report.ok("settings", "they are valid");
    }
    for problem in findings.problems {
        report.problem("settings", problem.error, problem.fix);
    }
    for warning in findings.warnings {
        report.warning("settings", warning, "see docs/settings.md");
    }
    for unknown in findings.not_checked {
        report.warning(
            "settings",
            format!("not checked: {unknown}"),
            "run this as root, once everything else is right",
        );
    }
}

/// Returns whether a role runs.
pub(super) async fn check(
    settings: &Settings,
    data_dir: &DataDir,
    up: Option<&LockHolder>,
    report: &mut Report,
) -> bool {
    let installation = match data_dir.installation_id() {
        Ok(id) => Some(id),
        Err(error) => {
            report.error("data", error);
            None
        }
    };
    let mut has_instances = false;
    if installation.is_some() {
        report.ok("data", format!("{} holds an installation", data_dir.path().display()));
        has_instances = check_store(settings, data_dir, report).await.unwrap_or_default();
    }
    check_docker(settings, data_dir, installation.as_deref(), report).await;
    if let Some(id) = &installation {
        machine::firewall(id, has_instances, report);
        return check_roles(settings, id, up, report).await;
    }
    false
}

/// Returns whether there are instances that should run, if the store answers.
async fn check_store(settings: &Settings, data_dir: &DataDir, report: &mut Report) -> Option<bool> {
    let started = Instant::now();
    let store = match timeout(TIMEOUT, data_dir.open_store(settings)).await {
        Ok(Ok(store)) => store,
        Ok(Err(error)) => {
            report.error("store", error);
            return None;
        }
        Err(_) => {
            report.problem(
                "store",
                format!("it doesn't answer within {TIMEOUT:?}"),
                "check that it runs, and how busy it is",
            );
            return None;
        }
    };
    let kind = if settings.store.url.is_some() { "PostgreSQL" } else { "SQLite" };
    let millis = started.elapsed().as_millis();
    report.ok("store", format!("{kind} was opened in {millis} ms, and has this version's tables"));
    match timeout(TIMEOUT, check_contents(&store, settings, data_dir, report)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => report.error("store", error),
        Err(_) => report.problem("store", "it stopped answering", "check how busy it is"),
    }
    let instances = timeout(TIMEOUT, store.instances()).await;
    data_dir.close_store(settings, &store).await;
    Some(instances.ok()?.ok()?.iter().any(|instance| !instance.is_gone()))
}

async fn check_contents(
    store: &Store,
    settings: &Settings,
    data_dir: &DataDir,
    report: &mut Report,
) -> Result<(), CliError> {
    if let Some(deviation) = store.clock_deviation().await? {
        match store_clock::warning(deviation) {
            None => report.ok("clock", "it agrees with the store's"),
            Some(text) if store_clock::is_refused(deviation) => {
                report.problem("clock", text, store_clock::FIX);
            }
            Some(text) => report.warning("clock", text, store_clock::FIX),
        }
    }
    match data_dir.token_key(store).await.map(drop).and(data_dir.lane_key(store).await.map(drop)) {
        Ok(()) => report.ok("keys", "they are the store's"),
        Err(error) => report.error("keys", error),
    }
    if !data_dir.has_role_users(settings)? && settings.store.url.is_some() {
        let fix = "run `memgate migrate --roles`, then restart";
        report.warning("database users", "all roles use one, with all rights", fix);
    }
    Ok(())
}

async fn check_docker(
    settings: &Settings,
    data_dir: &DataDir,
    installation: Option<&str>,
    report: &mut Report,
) {
    let config = data_dir.provisioner_config(settings);
    let info = match timeout(TIMEOUT, provisioner::docker_info(&config)).await {
        Ok(Ok(info)) => info,
        Ok(Err(error)) => return report.error("docker", CliError::from_error(&error)),
        Err(_) => {
            let fix = "restart Docker, and see `journalctl -u docker`";
            return report.problem("docker", format!("it doesn't answer within {TIMEOUT:?}"), fix);
        }
    };
    let DockerInfo { version, storage_driver, cgroup_version, .. } = &info;
    report.ok(
        "docker",
        format!("version {version}, {storage_driver}, control groups of version {cgroup_version}"),
    );
    if let Some(clock) = info.clock {
        let difference = clock.since(now()).max(now().since(clock));
        if difference > DOCKER_CLOCK_MAX {
            let found = format!("Docker's clock differs by {} s from this machine's", difference.as_secs());
            report.warning("clock", found, store_clock::FIX);
        }
    }
    if let Some(root) = &info.root {
        machine::disk("disk of Docker", root, report);
    }
    let Some(installation) = installation else { return };
    if let Ok(Ok(foreign)) = timeout(TIMEOUT, provisioner::foreign_resources(&config, installation)).await
        && !foreign.is_empty()
    {
        let found = format!("these claim to be memgate's and aren't: {}", foreign.join(", "));
        report.warning("docker", found, "rename or remove them: memgate doesn't touch them");
    }
    match timeout(TIMEOUT, provisioner::image_status(&config, installation)).await {
        Ok(Ok(Some(image))) if image.is_older_than(settings.provisioner.image_age_days) => {
            report.warning(
                "image",
                "memcached's image is old",
                "run `memgate image build` and `memgate image upgrade`",
            );
        }
        Ok(Ok(Some(_))) => report.ok("image", "memcached's image is there"),
        Ok(Ok(None)) => {
            report.warning("image", "there is no memcached image yet", "start `memgate up`, which builds it");
        }
        Ok(Err(error)) => report.error("image", CliError::from_error(&error)),
        Err(_) => {}
    }
}

/// Returns whether one of them runs.
async fn check_roles(
    settings: &Settings,
    installation: &str,
    up: Option<&LockHolder>,
    report: &mut Report,
) -> bool {
    let address = |role: Role| {
        let known = up.iter().flat_map(|up| &up.health).find(|(known, _)| *known == role);
        known.map_or_else(|| role.health(settings), |(_, address)| *address)
    };
    let mut runs = false;
    for role in Role::ALL {
        let asked = status::ask_role(role, address(role), installation).await;
        let message = asked.health.message.unwrap_or_default();
        runs |= asked.health.ready;
        match (asked.health.ready, asked.process) {
            (true, _) if asked.notices.is_empty() => report.ok(role.name(), "ready"),
            (true, _) => report.warning(role.name(), message, "see `memgate status`"),
            (false, None) => {
                let fix = "start `memgate up`, or `systemctl start memgate`; see its log";
                report.problem(role.name(), message, fix);
            }
            (false, Some(_)) => report.problem(role.name(), message, "see its log"),
        }
    }
    runs
}
