//! Faults of an installation with PostgreSQL and three proxies behind a load balancer.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::account::{Account, account, log_in};
use crate::client::Form;
use crate::command::{docker, signal};
use crate::error::LoadError;
use crate::faults::fault::{CLOSED, Fault, Loses, Promise, Source, UNAVAILABLE};
use crate::faults::fleet::Fleet;
use crate::faults::postgres::Postgres;
use crate::faults::scene::Scene;
use crate::http::http_get;
use crate::login::{Login, LoginForm};

const AWAY_SECONDS: f64 = 40.0;
/// Well within the 30 s for which known tokens log in, and after them.
const EARLY: f64 = 12.0;
const LATE: f64 = 37.0;
const REPAIR_SECONDS: f64 = 15.0;
const TOKENS: usize = 20;
/// From version 2 of the PROXY protocol: a connection that the balancer opened for itself.
const PROXY_HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const WITHIN: Duration = Duration::from_secs(5);

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "postgres-away",
        does: "PostgreSQL killed, away 40 s, load balancer asks `/readyz`",
        rules: "F-4, F-26",
        before: "NO SERVER after 5 s, new connections die",
        promise: Promise {
            told: &[(Source::Status, "not ready"), (Source::Proxy, "503")],
            ..Promise::UNNOTICED
        },
        inject: postgres_away,
    },
    Fault {
        name: "postgres-away-kill",
        does: "PostgreSQL killed, away 15 s, and `docker kill`",
        rules: "F-4, F-34",
        before: "NOT REPAIRED meanwhile",
        promise: Promise { recovery: 0.0, errors: UNAVAILABLE, loses: Loses::Victim, told: &[] },
        inject: |scene| postgres_away_and(scene, "kill"),
    },
    Fault {
        name: "postgres-away-rm",
        does: "PostgreSQL killed, away 15 s, and `docker rm -f`",
        rules: "F-4, F-34",
        before: "NOT REPAIRED meanwhile",
        promise: Promise { recovery: 0.0, errors: UNAVAILABLE, loses: Loses::Victim, told: &[] },
        inject: |scene| postgres_away_and(scene, "rm -f"),
    },
    Fault {
        name: "postgres-away-pause",
        does: "PostgreSQL killed, away 15 s, and `docker pause`",
        rules: "F-4, F-34",
        before: "NOT REPAIRED meanwhile, then replaced",
        promise: Promise { recovery: 0.0, errors: UNAVAILABLE, loses: Loses::Nothing, told: &[] },
        inject: |scene| postgres_away_and(scene, "pause"),
    },
    Fault {
        name: "propagation",
        does: "20 tokens made, used at each of 3 proxies, and revoked",
        rules: "G-4",
        before: "usable: p50 4.6, max 12.3 ms; revoked: p50 35, max 50 ms",
        promise: Promise::UNNOTICED,
        inject: propagation,
    },
    Fault {
        name: "rolling-restart",
        does: "each of 3 proxies gets SIGTERM and is started again",
        rules: "F-7",
        before: "closes at a boundary, all connected again in 50 ms",
        promise: Promise { recovery: 1.0, errors: CLOSED, loses: Loses::Nothing, told: &[] },
        inject: rolling_restart,
    },
    Fault {
        name: "kill-one-proxy",
        does: "SIGKILL to one of 3 proxies, started again after 5 s",
        rules: "F-8",
        before: "its own connections; 0.06 s",
        promise: Promise { recovery: 1.0, errors: CLOSED, loses: Loses::Nothing, told: &[] },
        inject: kill_one,
    },
];

fn fleet<'s>(scene: &'s mut Scene<'_>) -> Result<&'s mut Fleet, LoadError> {
    scene.bed.fleet.as_mut().ok_or_else(|| LoadError::invalid_run("there is only one proxy"))
}

fn postgres<'s>(scene: &'s mut Scene<'_>) -> Result<&'s mut Postgres, LoadError> {
    scene.bed.postgres.as_mut().ok_or_else(|| LoadError::invalid_run("there is no PostgreSQL"))
}

/// Logs in over the load balancer as a new client would.
fn new_client(scene: &Scene<'_>) -> Result<(), String> {
    let (endpoint, account) = (scene.bed.endpoint(), &scene.bed.accounts[1]);
    let opened = scene.bed.runtime.block_on(log_in(endpoint, account, Form::Text));
    opened.map(drop).map_err(|failure| failure.to_string())
}

fn postgres_away(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    // The load balancer takes turns: afterwards each proxy knows the token.
    for _ in 0..3 {
        let _ = new_client(scene);
    }
    let health = scene.bed.installation.proxy_health();
    let says = |path: &str| http_get(health, path).map_or(0, |(status, _)| status);
    postgres(scene)?.kill()?;
    scene.begin();
    let done = scene.wait(EARLY).and_then(|()| {
        let early = (new_client(scene), says("/readyz"), says("/storez"));
        scene.note(format!(
            "after {EARLY} s: login {}, readyz {}, storez {}",
            word(&early.0),
            early.1,
            early.2
        ));
        scene.check(early.0.is_ok(), "known tokens log in for 30 s");
        scene.check(early.1 == 200 && early.2 == 503, "readyz is 200 and storez 503 meanwhile");
        scene.wait(LATE - EARLY)?;
        let late = (new_client(scene), says("/readyz"));
        scene.note(format!("after {LATE} s: login {}, readyz {}", word(&late.0), late.1));
        scene.check(late.0.is_err() && late.1 == 503, "afterwards no token logs in");
        scene.wait(AWAY_SECONDS - LATE)
    });
    postgres(scene)?.start_again()?;
    scene.end();
    done?;
    let again = scene.wait_for(20.0, || Ok(new_client(scene).is_ok()))?;
    let seconds = scene.ended.map_or(0.0, |ended| ended.elapsed().as_secs_f64());
    scene.check(again, "tokens log in again");
    scene.note(format!("logins again {seconds:.1} s after its start"));
    Ok(())
}

fn word(login: &Result<(), String>) -> &str {
    login.as_ref().map_or_else(String::as_str, |()| "works")
}

fn postgres_away_and(scene: &mut Scene<'_>, hit: &str) -> Result<(), LoadError> {
    let victim = scene.bed.victim()?;
    postgres(scene)?.kill()?;
    scene.begin();
    let command: Vec<&str> = hit.split(' ').chain([victim.container.as_str()]).collect();
    let done = docker(&command).and_then(|_| scene.wait(REPAIR_SECONDS));
    let last = scene.checker.record.last_error();
    postgres(scene)?.start_again()?;
    scene.end();
    done?;
    let repaired = last.zip(scene.begun).map_or(0.0, |(at, begun)| (at - begun).as_secs_f64());
    scene.check(repaired < 6.0, "the container is repaired meanwhile");
    Ok(())
}

/// A connection to one proxy, as the load balancer opens it, with the reply to a login.
fn log_in_at(proxy: SocketAddr, account: &Account) -> std::io::Result<(TcpStream, bool)> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(WITHIN))?;
    let login = Login::new(LoginForm::Text, &account.username, &account.password);
    stream.write_all(&[PROXY_HEADER, login.request()].concat())?;
    let mut reply = [0; 8];
    let is_stored = stream.read_exact(&mut reply).is_ok() && &reply == b"STORED\r\n";
    Ok((stream, is_stored))
}

fn propagation(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let first = scene.bed.installation.endpoint();
    let proxies: Vec<SocketAddr> =
        std::iter::once(first).chain(fleet(scene)?.proxies.iter().map(|proxy| proxy.listen)).collect();
    let email = scene.bed.accounts[1].email.clone();
    let (mut usable, mut revoked) = (Vec::new(), Vec::new());
    scene.begin();
    for number in 0..TOKENS {
        let name = format!("propagated-{number}");
        let created = scene.bed.installation.json(&["token", "create", &email, "--name", &name])?;
        let token = account(&created)?;
        let started = Instant::now();
        let mut streams = Vec::new();
        for proxy in &proxies {
            let (stream, is_stored) = log_in_at(*proxy, &token)?;
            scene.check(is_stored, "a new token is usable at once");
            usable.push(started.elapsed().as_secs_f64() * 1e3);
            streams.push(stream);
        }
        let installation = &scene.bed.installation;
        let closed = std::thread::scope(|scope| -> Result<Vec<Instant>, LoadError> {
            let readers: Vec<_> = streams
                .into_iter()
                .map(|mut stream| {
                    scope.spawn(move || {
                        let _ = stream.read(&mut [0]);
                        Instant::now()
                    })
                })
                .collect();
            installation.json(&["token", "revoke", &token.username])?;
            Ok(readers.into_iter().filter_map(|reader| reader.join().ok()).collect())
        })?;
        // The command returns when all proxies have applied it, or some time later.
        let returned = Instant::now();
        revoked.extend(closed.iter().map(|at| at.saturating_duration_since(returned).as_secs_f64() * 1e3));
        scene.wait(0.0)?;
    }
    let max = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    scene.check(max(&usable) < 1_000.0 && max(&revoked) < 1_000.0, "both within a second");
    scene.note(format!(
        "usable at all three within {:.0} ms of its creation; closed at most {:.0} ms after `token revoke` had returned",
        max(&usable),
        max(&revoked)
    ));
    scene.end();
    Ok(())
}

fn rolling_restart(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    scene.begin();
    let first = scene.bed.installation.role_pid("proxy").unwrap_or_default();
    signal(first, Signal::TERM)?;
    wait_until_ready(scene, None)?;
    for number in 0..2 {
        let pid = fleet(scene)?.proxies[number].process.0.id();
        signal(pid, Signal::TERM)?;
        restart(scene, number)?;
        wait_until_ready(scene, Some(number))?;
    }
    scene.end();
    let refused = scene.checker.record.seen().errors.keys().any(|error| error.contains("refused"));
    scene.check(!refused, "no connection is refused");
    Ok(())
}

fn restart(scene: &mut Scene<'_>, number: usize) -> Result<(), LoadError> {
    let bed = &mut *scene.bed;
    let Some(fleet) = &mut bed.fleet else { return Ok(()) };
    fleet.proxies[number].restart(&bed.installation, bed.folder.path())
}

/// Waits until a proxy is ready, and the load balancer has seen that.
fn wait_until_ready(scene: &mut Scene<'_>, number: Option<usize>) -> Result<(), LoadError> {
    let health = match number {
        Some(number) => fleet(scene)?.proxies[number].health,
        None => scene.bed.installation.proxy_health(),
    };
    scene.wait(1.0)?;
    let ready =
        scene.wait_for(20.0, || Ok(http_get(health, "/readyz").is_ok_and(|(status, _)| status == 200)))?;
    scene.check(ready, "the proxy is ready again");
    scene.wait(2.0)
}

fn kill_one(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let pid = fleet(scene)?.proxies[0].process.0.id();
    scene.begin();
    signal(pid, Signal::KILL)?;
    scene.wait(5.0)?;
    restart(scene, 0)?;
    wait_until_ready(scene, Some(0))?;
    let seen = scene.checker.record.seen();
    let connections = scene.bed.accounts.len() as u64 * 2;
    scene.check(seen.closed < connections, "only its own connections are closed");
    scene.note(format!("{} errors for {connections} connections", seen.closed));
    Ok(())
}
