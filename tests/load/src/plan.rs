//! What one run does, from the command line, within bounds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cpu::Watched;
use crate::failure::Failure;
use crate::link::{self, Tls};
use crate::login::{Login, LoginForm};
use crate::target;
use crate::wire::{KEY_LEN, Protocol};

const CONNECTIONS_MAX: usize = 20_000;
const PIPELINE_MAX: usize = 1_024;
const MULTIGET_MAX: usize = 100;
const VALUE_MAX: usize = 1 << 20;
/// What the key space may hold in bytes: the smallest cache keeps it, so a miss is an error.
const KEYSPACE_MAX: usize = 32 << 20;
const SECONDS_MAX: f64 = 600.0;
const RATE_MAX: f64 = 10e6;

/// One run against one target.
#[derive(Debug, Clone, Args)]
pub(crate) struct Plan {
    /// The address to load; only on this machine
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// What to speak
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) protocol: Protocol,
    /// Connections, all open from the start
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,
    /// Requests that a connection keeps in flight (in an open loop: at most)
    #[arg(long, default_value_t = 1)]
    pub(crate) pipeline: usize,
    /// Bytes of each value, 30 at least: it begins with its key
    #[arg(long, default_value_t = 100)]
    pub(crate) value: usize,
    /// Keys, all stored before the run [default: 10000, fewer for large values]
    #[arg(long)]
    pub(crate) keys: Option<usize>,
    /// Keys of one get (text)
    #[arg(long, default_value_t = 1)]
    pub(crate) multiget: usize,
    /// Of a hundred requests, so many are sets
    #[arg(long, default_value_t = 10)]
    pub(crate) sets: u32,
    /// How long to measure
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// How long to run before that
    #[arg(long, default_value_t = 0.5)]
    pub(crate) warm_up: f64,
    /// Measured requests at most
    #[arg(long, default_value_t = 1_000_000_000)]
    pub(crate) count: u64,
    /// Open loop: so many requests a second, whatever the replies do; latency from the intended time
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Each operation connects, logs in, gets once and closes
    #[arg(long, conflicts_with_all = ["rate", "multiget"])]
    pub(crate) churn: bool,
    #[command(flatten)]
    pub(crate) identity: Identity,
    /// NAME=PID of a process whose CPU time is measured (may be repeated; same names add up)
    #[arg(long = "watch", value_name = "NAME=PID")]
    pub(crate) watched: Vec<Watched>,
}

/// How connections log in, and as whom.
#[derive(Debug, Clone, Args)]
pub(crate) struct Identity {
    /// How to log in
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) login: LoginForm,
    /// A file of `USERNAME PASSWORD [ADDRESS]` lines: connections take them by turns; each is a cache of its
    /// own, asked at its address where it has one and at the target's where not
    #[arg(long, value_name = "FILE", required_if_eq_any = [("login", "text"), ("login", "token"), ("login", "sasl")])]
    pub(crate) credentials: Option<PathBuf>,
    /// Speak TLS, and trust this certificate authority
    #[arg(long, value_name = "CA_FILE")]
    pub(crate) tls: Option<PathBuf>,
    /// Every TLS handshake is a whole one
    #[arg(long, requires = "tls")]
    pub(crate) no_resumption: bool,
}

impl Plan {
    /// Refuses what is out of bounds or elsewhere.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        target::check(self.target)?;
        let within = |name: &str, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(Failure::new(format!("--{name} {value} is out of bounds"), format!("{least} to {most}")))
        };
        within("connections", self.connections, 1, CONNECTIONS_MAX)?;
        within("pipeline", self.pipeline, 1, PIPELINE_MAX)?;
        within("multiget", self.multiget, 1, MULTIGET_MAX)?;
        within("value", self.value, KEY_LEN, VALUE_MAX)?;
        within("keys", self.keys(), 1, KEYSPACE_MAX / self.value)?;
        if self.multiget > 1 && self.protocol != Protocol::Text {
            return Err(Failure::new("--multiget needs the text protocol", "leave one of them out"));
        }
        let seconds = [self.seconds, self.warm_up].iter().all(|s| (0.0..=SECONDS_MAX).contains(s));
        if !seconds || self.rate.is_some_and(|rate| !(1.0..=RATE_MAX).contains(&rate)) {
            return Err(Failure::new(
                "a time or rate is out of bounds",
                format!("0 to {SECONDS_MAX} seconds, 1 to {RATE_MAX} requests a second"),
            ));
        }
        Ok(())
    }

    pub(crate) fn keys(&self) -> usize {
        self.keys.unwrap_or((KEYSPACE_MAX / 2 / self.value.max(1)).clamp(1, 10_000))
    }

    pub(crate) fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }
}

/// Where one user's cache is asked, and how it is entered.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) target: SocketAddr,
    pub(crate) login: Login,
    pub(crate) tls: Option<Tls>,
}

impl Identity {
    /// A way for each user, in the file's order.
    pub(crate) fn ways(&self, target: SocketAddr) -> Result<Vec<Way>, Failure> {
        let tls = self.tls.as_ref().map(|ca| link::trusting(ca, !self.no_resumption)).transpose()?;
        let Some(path) = self.credentials.as_ref().filter(|_| self.login != LoginForm::None) else {
            return Ok(vec![Way { target, login: Login::none(), tls }]);
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(format!("can't read {} ({error})", path.display()), "name a file that can be read")
        })?;
        let ways: Option<Vec<Way>> = text.lines().map(|line| self.way(line, target, tls.as_ref())).collect();
        let ways = ways.filter(|ways| !ways.is_empty()).ok_or_else(|| {
            let what = format!("{} has a line that is no login, or none", path.display());
            Failure::new(what, "write lines of `USERNAME PASSWORD [ADDRESS]`")
        })?;
        ways.iter().try_for_each(|way| target::check(way.target))?;
        Ok(ways)
    }

    fn way(&self, line: &str, target: SocketAddr, tls: Option<&Tls>) -> Option<Way> {
        let mut words = line.split(' ');
        let login = Login::new(self.login, words.next()?, words.next()?);
        let target = words.next().map_or(Ok(target), str::parse).ok()?;
        Some(Way { target, login, tls: tls.cloned() })
    }
}
