//! What `memgate status` and each role's `/readyz` say, asked all the time by a thread of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::http::http_get;

const INTERVAL: Duration = Duration::from_millis(200);
/// `memgate status` is a process; it is asked less often.
const STATUS_INTERVAL: Duration = Duration::from_millis(700);
/// Characters of a text that are kept.
const TEXT_MAX: usize = 400;

/// Who says whether everything is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Source {
    /// `memgate status`
    Status,
    Proxy,
    Provisioner,
    Webui,
}

impl Source {
    pub(super) const ALL: [Self; 4] = [Self::Status, Self::Proxy, Self::Provisioner, Self::Webui];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Proxy => "proxy",
            Self::Provisioner => "provisioner",
            Self::Webui => "webui",
        }
    }
}

/// An answer of one of them.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) at: Instant,
    pub(super) source: Source,
    /// Exit status 0, or HTTP status 200.
    pub(super) is_ready: bool,
    /// The exit status or HTTP status, and what isn't ready.
    pub(super) text: String,
}

/// What one of them said during a fault: the first and last time in seconds after the fault at which it wasn't ready, and
/// the first text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct NotReady {
    pub(super) first: f64,
    pub(super) last: f64,
    pub(super) text: String,
}

/// Asks until it is dropped.
pub(super) struct Watch {
    answers: Arc<Mutex<Vec<Answer>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// `status` makes the command, and `health` are the health endpoints of proxy, provisioner and web UI.
    pub(super) fn start(status: impl Fn() -> Command + Send + 'static, health: [SocketAddr; 3]) -> Self {
        let (answers, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let repeat = |interval: Duration, mut ask: Box<dyn FnMut() -> Vec<Answer> + Send>| {
            let (answers, stop): (Arc<Mutex<Vec<Answer>>>, _) = (Arc::clone(&answers), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let new = ask();
                    answers.lock().unwrap_or_else(PoisonError::into_inner).extend(new);
                    std::thread::sleep(interval);
                }
            })
        };
        let [proxy, provisioner, webui] = health;
        let roles = [(Source::Proxy, proxy), (Source::Provisioner, provisioner), (Source::Webui, webui)];
        let threads = vec![
            repeat(
                INTERVAL,
                Box::new(move || roles.map(|(source, address)| ask_role(source, address)).into()),
            ),
            repeat(STATUS_INTERVAL, Box::new(move || vec![ask_status(status())])),
        ];
        Self { answers, stop, threads }
    }

    pub(super) fn restart(&self) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn answers(&self) -> Vec<Answer> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether all of them are ready, by answers to questions that were asked after `since`.
    pub(super) fn all_ready_since(&self, since: Instant) -> bool {
        let answers = self.answers();
        Source::ALL.iter().all(|source| {
            let last = answers.iter().rev().find(|answer| answer.source == *source);
            last.is_some_and(|answer| answer.at > since && answer.is_ready)
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What each of them said between two times, relative to `fault`. Who was ready all the time isn't in it.
pub(super) fn summary(answers: &[Answer], fault: Instant) -> BTreeMap<Source, NotReady> {
    let mut not_ready: BTreeMap<Source, NotReady> = BTreeMap::new();
    for answer in answers.iter().filter(|answer| !answer.is_ready && answer.at >= fault) {
        let seconds = answer.at.duration_since(fault).as_secs_f64();
        let new = || NotReady { first: seconds, last: seconds, text: answer.text.clone() };
        not_ready.entry(answer.source).or_insert_with(new).last = seconds;
    }
    not_ready
}

/// The first line of a response to `GET /readyz`.
fn ask_role(source: Source, address: SocketAddr) -> Answer {
    let asked = Instant::now();
    let answer = |is_ready, text| Answer { at: asked, source, is_ready, text };
    match http_get(address, "/readyz") {
        Ok((status, body)) => {
            answer(status == 200, format!("{status} {}", shown(body.lines().next().unwrap_or_default())))
        }
        Err(error) => answer(false, format!("no answer ({})", error.kind())),
    }
}

fn ask_status(mut status: Command) -> Answer {
    let at = Instant::now();
    let (is_ready, text) = match status.output() {
        Ok(output) => (output.status.success(), status_text(&output)),
        Err(error) => (false, error.to_string()),
    };
    Answer { at, source: Source::Status, is_ready, text }
}

/// The exit status, and the lines that say what isn't ready or what an operator should see to.
fn status_text(output: &Output) -> String {
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    // Docker's version stands behind the same word.
    let telling = |line: &&str| {
        line.contains("not ready") || (line.contains("ready: ") && !line.trim_start().starts_with("docker"))
    };
    let mut text: Vec<String> = lines
        .lines()
        .filter(telling)
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    if text.is_empty() && !output.status.success() {
        text.push(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let code = output.status.code().map_or("killed".to_owned(), |code| code.to_string());
    shown(&format!("exit {code} {}", text.join("; ")))
}

fn shown(text: &str) -> String {
    text.trim().chars().take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_not_ready_is_summed_up() {
        let fault = Instant::now();
        let answer = |seconds, source, is_ready, text: &str| Answer {
            at: fault + Duration::from_secs(seconds),
            source,
            is_ready,
            text: text.into(),
        };
        let answers = [
            answer(1, Source::Proxy, true, "200 ready"),
            answer(2, Source::Proxy, false, "503 first"),
            answer(4, Source::Proxy, false, "503 second"),
            answer(5, Source::Status, true, "exit 0"),
        ];
        let not_ready = summary(&answers, fault);
        assert_eq!(not_ready.len(), 1);
        assert_eq!(not_ready[&Source::Proxy], NotReady { first: 2.0, last: 4.0, text: "503 first".into() });
    }
}
