//! A role beside those of `memgate up`: a stand-by provisioner, one with other keys.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::child::{bound_to_parent, free_ports, stop};
use crate::command::{docker, signal};
use crate::error::LoadError;
use crate::faults::fleet::Process;
use crate::faults::scene::Scene;
use crate::http::http_get;
use crate::installation::Installation;

const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// What is refused ends within this time.
const REFUSED_SECONDS: f64 = 10.0;
/// Characters of an error that are shown.
const WORDS_MAX: usize = 140;
/// Of an installation beside the one that is measured.
const OTHER_SUBNETS: &str = "10.217.0.0/16";

/// Whether the provisioner with this health endpoint leads.
fn leads(health: SocketAddr) -> bool {
    let metrics = http_get(health, "/metrics").map(|(_, text)| text).unwrap_or_default();
    metrics.lines().any(|line| line == "memgate_provisioner_leader 1")
}

pub(super) fn takes_over(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let [health] = free_ports();
    let first = scene.bed.installation.provisioner_health();
    let mut command = scene.bed.installation.memgate(&["provisioner"]);
    command.env("MEMGATE_PROVISIONER__HEALTH", health.to_string());
    let second = Process::start(&command, &scene.bed.folder.path().join("second-provisioner.log"))?;
    let waits = scene.wait_for(20.0, || Ok(http_get(health, "/readyz").is_ok()))?;
    scene.check(waits && leads(first) && !leads(health), "the second one waits");
    let pid = scene.bed.installation.role_pid("provisioner");
    scene.begin();
    signal(pid.unwrap_or_default(), Signal::KILL)?;
    let one_leads = scene.wait_for(15.0, || Ok(leads(health) || leads(first)))?;
    let seconds = scene.seconds();
    scene.check(one_leads && seconds < 5.0, "another one leads within 5 s");
    let which = if leads(health) { "the second one" } else { "the first one's successor" };
    scene.note(format!("{which} leads after {seconds:.1} s"));
    drop(second);
    scene.end();
    let first_leads = scene.wait_for(20.0, || Ok(leads(first)))?;
    scene.check(first_leads, "the one that is left leads");
    Ok(())
}

/// Another data directory with this installation's id and database, and keys of its own.
fn with_other_keys(scene: &Scene<'_>) -> Result<Vec<(&'static str, String)>, LoadError> {
    let folder = scene.bed.folder.path().join("other-keys");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let [health, proxy, proxy_health] = free_ports().map(|address: SocketAddr| address.to_string());
    let mut settings = vec![
        ("DATA", text(&folder)),
        ("PROVISIONER__HEALTH", health),
        ("PROXY__LISTEN", proxy),
        ("PROXY__HEALTH", proxy_health),
    ];
    // An installation of its own first, which makes keys.
    if !folder.exists() {
        let made = output(scene, "migrate", &settings)?;
        scene_ok(made.0, "another data directory is made")?;
        fs::copy(scene.bed.installation.data().join("installation.id"), folder.join("installation.id"))?;
    }
    settings.push(("STORE__PATH", text(&scene.bed.database())));
    Ok(settings)
}

fn scene_ok(holds: bool, what: &str) -> Result<(), LoadError> {
    if holds { Ok(()) } else { Err(LoadError::invalid_run(format!("not so: {what}"))) }
}

/// Runs a command with further settings: whether it succeeds, and what it says.
fn output(
    scene: &Scene<'_>,
    command: &str,
    settings: &[(&'static str, String)],
) -> Result<(bool, String), LoadError> {
    let mut command = scene.bed.installation.memgate(&[command]);
    for (key, value) in settings {
        command.env(format!("MEMGATE_{key}"), value);
    }
    // One that isn't refused would run on.
    let mut child = bound_to_parent(&command).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let ended = scene.wait_for(REFUSED_SECONDS, || Ok(child.try_wait()?.is_some()))?;
    if !ended {
        stop(&mut child, "TERM", STOP_TIMEOUT);
    }
    let output = child.wait_with_output()?;
    let words = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
    Ok((output.status.success(), words))
}

/// Starts a role, and `migrate`, with other keys: all are refused.
pub(super) fn other_keys(scene: &mut Scene<'_>, role: &str) -> Result<(), LoadError> {
    let settings = with_other_keys(scene)?;
    scene.begin();
    for command in ["migrate", role] {
        let (is_done, words) = output(scene, command, &settings)?;
        scene.check(!is_done && words.contains("key"), "it is refused, and says why");
        scene.note(format!("{command}: {}", words.chars().take(WORDS_MAX).collect::<String>()));
    }
    Ok(())
}

/// Another installation whose roles are started one by one, and `down`.
pub(super) fn down_beside_roles(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let folder = tempfile::tempdir()?;
    let settings = vec![("PROVISIONER__SUBNETS", OTHER_SUBNETS.to_owned())];
    let other = Installation::without_up(scene.bed.installation.program(), folder.path(), settings)?;
    other.json(&["migrate"])?;
    let mut roles = Vec::new();
    for role in ["provisioner", "proxy"] {
        roles.push(Process::start(&other.memgate(&[role]), &folder.path().join(format!("{role}.log")))?);
    }
    other.json(&["user", "add", "beside@example.org"])?;
    let id = fs::read_to_string(other.data().join("installation.id"))?.trim().to_owned();
    let filter = format!("label=memgate={id}");
    let count = || -> Result<usize, LoadError> {
        let mut count = docker(&["ps", "-aq", "--filter", &filter])?.lines().count();
        for kind in ["network", "volume"] {
            count += docker(&[kind, "ls", "-q", "--filter", &filter])?.lines().count();
        }
        Ok(count)
    };
    let before = count()?;
    scene.begin();
    let down = other.json(&["down"])?;
    scene.note(format!("{before} resources, stopped: {}", down["stopped_roles"]));
    scene.wait(3.0)?;
    scene.check(before >= 3 && count()? == 0, "nothing is left, and nothing comes back");
    Ok(())
}
