//! Many clients at once.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::account::{account, log_in};
use crate::client::Form;
use crate::error::LoadError;
use crate::faults::fault::{Fault, Promise};
use crate::faults::fleet::Process;
use crate::faults::scene::Scene;
use crate::http::http_get;
use crate::installation::Installation;

const IDLE: usize = 1_000;
const LOGINS_PER_SECOND: u64 = 500;
/// A limit of open files, and more clients than it allows.
const FILES: usize = 1_000;
const CLIENTS: usize = 600;
const FEW_SECONDS: f64 = 5.0;
const TICKS_PER_SECOND: f64 = 100.0;
const CHURN_SECONDS: u64 = 10;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "idle-connections",
        does: "1,000 idle connections",
        rules: "R-31",
        before: "2.3 KiB each",
        promise: Promise::UNNOTICED,
        inject: idle,
    },
    Fault {
        name: "few-files",
        does: "600 clients of one cache, at another proxy that may open 1,000 files",
        rules: "F-10, R-31",
        before: "with 200 files: 160 of 300 served, no spinning; HEALTH PORT DEAD",
        promise: Promise::UNNOTICED,
        inject: few_files,
    },
    Fault {
        name: "churn",
        does: "500 logins a second, 10 s",
        rules: "R-31",
        before: "9,994 of 9,994; p99 8.3 ms",
        promise: Promise::UNNOTICED,
        inject: churn,
    },
];

/// Resident memory of the proxy in KiB.
fn proxy_kib(scene: &Scene<'_>) -> Result<u64, LoadError> {
    let pid = scene.bed.installation.role_pid("proxy").unwrap_or_default();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    rss.ok_or_else(|| LoadError::invalid_run("the proxy's memory can't be read"))
}

fn idle(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let before = proxy_kib(scene)?;
    let (endpoint, accounts) = (scene.bed.installation.endpoint(), scene.bed.accounts.clone());
    scene.begin();
    let opened: Vec<_> = scene.bed.runtime.block_on(async {
        let mut all = Vec::new();
        for number in 0..IDLE {
            if let Ok(client) = log_in(endpoint, &accounts[number % accounts.len()], Form::Text).await {
                all.push(client);
            }
        }
        all
    });
    let seconds = scene.seconds();
    scene.wait(2.0)?;
    let each = proxy_kib(scene)?.saturating_sub(before) as f64 / IDLE as f64;
    scene.check(opened.len() == IDLE, "all log in");
    scene.check(each < 8.0, "at most 8 KiB each");
    scene.note(format!("{} opened in {seconds:.1} s, {each:.1} KiB each", opened.len()));
    scene.end();
    Ok(())
}

/// Another installation's proxy, with a limit of open files, and clients of one cache.
fn few_files(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let folder = tempfile::tempdir()?;
    let other = Installation::without_up(scene.bed.installation.program(), folder.path(), Vec::new())?;
    other.json(&["migrate"])?;
    let user = account(&other.json(&["user", "add", "files@example.org", "--no-wait"])?)?;
    let memgate = other.memgate(&["proxy"]);
    let mut limited = Command::new("prlimit");
    limited
        .arg(format!("--nofile={FILES}:{FILES}"))
        .arg("--")
        .arg(memgate.get_program())
        .args(memgate.get_args());
    for (key, value) in memgate.get_envs() {
        match value {
            Some(value) => limited.env(key, value),
            None => limited.env_remove(key),
        };
    }
    let proxy = Process::start(&limited, &folder.path().join("proxy.log"))?;
    let health = other.proxy_health();
    let is_ready = || http_get(health, "/readyz").is_ok_and(|(status, _)| status == 200);
    let started = scene.wait_for(20.0, || Ok(is_ready()))?;
    scene.check(started, "a proxy with few files starts");
    scene.begin();
    let endpoint = other.endpoint();
    let served: Vec<_> = scene.bed.runtime.block_on(async {
        let mut logins = JoinSet::new();
        for _ in 0..CLIENTS {
            let user = user.clone();
            logins.spawn(async move { log_in(endpoint, &user, Form::Text).await.ok() });
        }
        logins.join_all().await.into_iter().flatten().collect()
    });
    let before = cpu_ticks(proxy.0.id())?;
    scene.wait(FEW_SECONDS)?;
    let share = (cpu_ticks(proxy.0.id())? - before) as f64 / TICKS_PER_SECOND / FEW_SECONDS;
    let answers = is_ready();
    scene.check(share < 0.2, "it doesn't spin");
    scene.check(answers, "the health port answers");
    let count = served.len();
    drop(served);
    let again = scene
        .wait_for(10.0, || Ok(scene.bed.runtime.block_on(log_in(endpoint, &user, Form::Text)).is_ok()))?;
    scene.check(again, "a new client logs in when others have left");
    scene.note(format!("{count} of {CLIENTS} clients served, proxy {:.0} % of a core", share * 100.0));
    Ok(())
}

/// CPU time of a process.
fn cpu_ticks(pid: u32) -> Result<u64, LoadError> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may contain anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    Ok(field(11) + field(12))
}

fn churn(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let (endpoint, accounts) = (scene.bed.installation.endpoint(), scene.bed.accounts.clone());
    let total = LOGINS_PER_SECOND * CHURN_SECONDS;
    scene.begin();
    let mut took: Vec<Option<f64>> = scene.bed.runtime.block_on(async {
        let mut due = tokio::time::interval(Duration::from_secs_f64(1.0 / LOGINS_PER_SECOND as f64));
        let mut logins = JoinSet::new();
        for number in 0..total {
            due.tick().await;
            let account = accounts[number as usize % accounts.len()].clone();
            let form = if number % 2 == 0 { Form::Text } else { Form::Sasl };
            logins.spawn(async move {
                let started = Instant::now();
                let mut client = log_in(endpoint, &account, form).await.ok()?;
                client.get("kept:0").await.ok()?;
                Some(started.elapsed().as_secs_f64() * 1e3)
            });
        }
        logins.join_all().await
    });
    scene.end();
    let failed = took.iter().filter(|took| took.is_none()).count();
    took.retain(Option::is_some);
    took.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let at =
        |share: f64| took.get((took.len() as f64 * share) as usize).copied().flatten().unwrap_or_default();
    scene.check(failed == 0, "all log in");
    scene.note(format!("{failed} of {total} logins failed; p50 {:.1} ms, p99 {:.1} ms", at(0.5), at(0.99)));
    Ok(())
}
