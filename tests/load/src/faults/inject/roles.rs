//! Faults of memgate's own processes.

use rustix::process::Signal;

use super::second_role;
use crate::command::{docker, signal};
use crate::error::LoadError;
use crate::faults::fault::{CLOSED, Fault, Loses, Promise, Source};
use crate::faults::scene::Scene;

const BACK: Promise = Promise { recovery: 1.0, errors: CLOSED, loses: Loses::Nothing, told: &[] };
const SIGN_UPS: usize = 12;
const KILLS: usize = 4;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "kill-provisioner",
        does: "SIGKILL to the provisioner",
        rules: "F-12",
        before: "no error",
        promise: Promise::UNNOTICED,
        inject: |scene| to_role(scene, "provisioner", Signal::KILL),
    },
    Fault {
        name: "kill-webui",
        does: "SIGKILL to the web UI",
        rules: "F-23",
        before: "no error",
        promise: Promise::UNNOTICED,
        inject: |scene| to_role(scene, "webui", Signal::KILL),
    },
    Fault {
        name: "kill-proxy",
        does: "SIGKILL to the proxy",
        rules: "F-8",
        before: "reset, refused for 0.2 s; 0.35 s",
        promise: BACK,
        inject: |scene| to_role(scene, "proxy", Signal::KILL),
    },
    Fault {
        name: "kill-proxy-often",
        does: "SIGKILL to the proxy, six times",
        rules: "F-23",
        before: "the 6th time 12.8 s away",
        promise: Promise { recovery: 5.0, ..BACK },
        inject: proxy_often,
    },
    Fault {
        name: "sighup",
        does: "SIGHUP to `memgate up` and to each role",
        rules: "F-24",
        before: "KILLS A ROLE",
        promise: Promise::UNNOTICED,
        inject: sighup,
    },
    Fault {
        name: "stop-proxy",
        does: "SIGSTOP of the proxy, 10 s",
        rules: "F-25",
        before: "requests wait, all right afterwards; 1 s",
        promise: Promise { told: &[(Source::Status, "proxy")], ..Promise::UNNOTICED },
        inject: |scene| {
            scene.begin();
            stopped(scene, "proxy", 10.0)
        },
    },
    Fault {
        name: "stop-proxy-hung",
        does: "SIGSTOP of the proxy, for good",
        rules: "F-25",
        before: "NOBODY RESTARTS IT",
        // 15 s without a sign of life, and at most 5 s until it is started again.
        promise: Promise {
            recovery: 20.0,
            errors: &["closed", "connection reset", "connection refused", "broken pipe", "timed out"],
            loses: Loses::Nothing,
            told: &[(Source::Status, "hangs")],
        },
        inject: |scene| to_role(scene, "proxy", Signal::STOP),
    },
    Fault {
        name: "kill-up",
        does: "SIGKILL to `memgate up`, started again",
        rules: "F-8",
        before: "all down until it is started; 0.7 s after that",
        // The roles end by themselves, and the next `up` waits for them.
        promise: Promise { recovery: 5.0, ..BACK },
        inject: |scene| up_again(scene, "KILL"),
    },
    Fault {
        name: "restart-up",
        does: "SIGTERM to `memgate up`, started again (an upgrade)",
        rules: "F-7",
        before: "caches survive; 1.9 s refused",
        promise: Promise { recovery: 5.0, ..BACK },
        inject: |scene| up_again(scene, "TERM"),
    },
    Fault {
        name: "sign-ups-kill-provisioner",
        does: "12 sign-ups, and SIGKILL to the provisioner 4 times meanwhile",
        rules: "F-12",
        before: "no doubles, nothing leaked; 10.7 s",
        promise: Promise::UNNOTICED,
        inject: sign_ups,
    },
    Fault {
        name: "two-provisioners",
        does: "a second provisioner waits, SIGKILL to the leading one",
        rules: "F-13",
        before: "the other leads in 1 s",
        promise: Promise::UNNOTICED,
        inject: second_role::takes_over,
    },
    Fault {
        name: "proxy-other-keys",
        does: "a proxy, and `migrate`, on a machine with other keys",
        rules: "F-28",
        before: "PROXY READY, REFUSES EVERY LOGIN",
        promise: Promise::UNNOTICED,
        inject: |scene| second_role::other_keys(scene, "proxy"),
    },
    Fault {
        name: "provisioner-other-keys",
        does: "a stand-by provisioner with other keys",
        rules: "F-28, F-29",
        before: "REPLACES EVERY CACHE, all ready",
        promise: Promise::UNNOTICED,
        inject: |scene| second_role::other_keys(scene, "provisioner"),
    },
    Fault {
        name: "down-beside-roles",
        does: "`memgate down` of another installation whose roles run one by one",
        rules: "F-13",
        before: "error, caches come back",
        promise: Promise::UNNOTICED,
        inject: second_role::down_beside_roles,
    },
];

fn to_role(scene: &mut Scene<'_>, role: &str, sent: Signal) -> Result<(), LoadError> {
    let pid = scene.bed.installation.role_pid(role);
    let pid = pid.ok_or_else(|| LoadError::invalid_run(format!("the {role} doesn't run")))?;
    if scene.begun.is_none() {
        scene.begin();
    }
    signal(pid, sent)?;
    if sent == Signal::STOP || sent == Signal::HUP {
        return Ok(());
    }
    let installation = &scene.bed.installation;
    let again = scene.wait_for(30.0, || Ok(installation.role_pid(role).is_some_and(|now| now != pid)))?;
    scene.check(again, "the role is started again");
    Ok(())
}

fn proxy_often(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    for _ in 0..6 {
        to_role(scene, "proxy", Signal::KILL)?;
        scene.wait(0.3)?;
    }
    let seconds = scene.seconds();
    scene.end();
    scene.note(format!("six processes in {seconds:.1} s"));
    Ok(())
}

fn sighup(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    const ROLES: [&str; 3] = ["proxy", "provisioner", "webui"];
    let pids = |scene: &Scene<'_>| ROLES.map(|role| scene.bed.installation.role_pid(role));
    let before = pids(scene);
    scene.begin();
    for role in ROLES {
        to_role(scene, role, Signal::HUP)?;
    }
    if let Some(up) = scene.bed.installation.up_pid() {
        signal(up, Signal::HUP)?;
    }
    scene.wait(2.0)?;
    let after = pids(scene);
    scene.check(before == after, "no process ends");
    Ok(())
}

/// Stops a role for a while.
fn stopped(scene: &mut Scene<'_>, role: &str, seconds: f64) -> Result<(), LoadError> {
    let pid = scene.bed.installation.role_pid(role);
    let pid = pid.ok_or_else(|| LoadError::invalid_run(format!("the {role} doesn't run")))?;
    signal(pid, Signal::STOP)?;
    let waited = scene.wait(seconds);
    signal(pid, Signal::CONT)?;
    scene.end();
    waited
}

fn up_again(scene: &mut Scene<'_>, sent: &str) -> Result<(), LoadError> {
    scene.begin();
    let ended = scene.bed.installation.end_up(sent);
    scene.check(ended, "memgate up ends in time");
    let stopped = scene.seconds();
    scene.end();
    let bed = &mut *scene.bed;
    bed.runtime.block_on(bed.installation.up())?;
    let seconds = scene.seconds();
    scene.note(format!("ended after {stopped:.1} s, ready {:.1} s later", seconds - stopped));
    Ok(())
}

fn sign_ups(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let emails: Vec<String> = (0..SIGN_UPS).map(|number| format!("new-{number}@example.org")).collect();
    scene.begin();
    for (number, email) in emails.iter().enumerate() {
        scene.bed.installation.json(&["user", "add", email, "--no-wait"])?;
        if number % (SIGN_UPS / KILLS) == 0 {
            to_role(scene, "provisioner", Signal::KILL)?;
        }
    }
    let installation = &scene.bed.installation;
    let all_run = || {
        let list = installation.json(&["instance", "list"])?;
        let instances = list["instances"].as_array().cloned().unwrap_or_default();
        Ok(instances.iter().all(|instance| instance["state"] == "running"))
    };
    let running = scene.wait_for(60.0, all_run)?;
    let seconds = scene.seconds();
    scene.check(running, "all new caches run");
    let label = format!("label=memgate={}", scene.bed.id()?);
    let expected = SIGN_UPS + scene.bed.accounts.len();
    let count = |kind: &[&str]| -> Result<usize, LoadError> {
        Ok(docker(&[kind, &["-q", "--filter", &label]].concat())?.lines().count())
    };
    let (containers, volumes) = (count(&["ps", "-a"])?, count(&["volume", "ls"])?);
    scene.check(containers == expected && volumes == expected, "a container and a volume for each cache");
    scene.note(format!(
        "{expected} caches, {containers} containers, {volumes} volumes; all running after {seconds:.1} s"
    ));
    for email in &emails {
        scene.bed.installation.json(&["user", "delete", email, "--yes"])?;
    }
    let installed = || Ok(docker(&["ps", "-aq", "--filter", &label])?.lines().count() == expected - SIGN_UPS);
    let removed = scene.wait_for(60.0, installed)?;
    scene.check(removed, "the containers of deleted users are removed");
    Ok(())
}
