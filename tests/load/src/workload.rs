//! The workload of one run: command-line arguments and their limits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cpu::Watched;
use crate::error::LoadError;
use crate::local_only;
use crate::login::{Login, LoginForm};
use crate::stream::{self, Tls};
use crate::wire::{KEY_LEN, Protocol};

const CONNECTIONS_MAX: usize = 20_000;
const PIPELINE_MAX: usize = 1_024;
const MULTIGET_MAX: usize = 100;
const VALUE_MAX: usize = 1 << 20;
/// Bytes of all values: the smallest cache holds them, so a miss is an error.
const KEYSPACE_MAX: usize = 32 << 20;
const SECONDS_MAX: f64 = 600.0;
const RATE_MAX: f64 = 10e6;

/// One run against one target.
#[derive(Debug, Clone, Args)]
pub(crate) struct Workload {
    /// The address to connect to; only on this machine
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// The protocol
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) protocol: Protocol,
    /// Connections, all opened before the run
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,
    /// Requests in flight on a connection (with --rate: at most)
    #[arg(long, default_value_t = 1)]
    pub(crate) pipeline: usize,
    /// Bytes of each value, at least 30, since it begins with its key
    #[arg(long, default_value_t = 100)]
    pub(crate) value: usize,
    /// Number of keys, all stored before the run [default: 10000, fewer for large values]
    #[arg(long)]
    pub(crate) keys: Option<usize>,
    /// Keys per get (text protocol only)
    #[arg(long, default_value_t = 1)]
    pub(crate) multiget: usize,
    /// Percentage of sets among the requests
    #[arg(long, default_value_t = 10)]
    pub(crate) sets: u32,
    /// Seconds to measure
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// Seconds to run before measuring
    #[arg(long, default_value_t = 0.5)]
    pub(crate) warm_up: f64,
    /// Maximum number of measured requests
    #[arg(long, default_value_t = 1_000_000_000)]
    pub(crate) count: u64,
    /// Open loop: send this many requests per second, however fast replies come; latency counts from the
    /// scheduled time
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// For each operation connect, log in, get one key and close
    #[arg(long, conflicts_with_all = ["rate", "multiget"])]
    pub(crate) churn: bool,
    #[command(flatten)]
    pub(crate) login_args: LoginArgs,
    /// A process whose CPU time is measured; may be repeated, equal names are added up
    #[arg(long = "watch", value_name = "NAME=PID")]
    pub(crate) watched: Vec<Watched>,
}

/// How connections log in, and with which credentials.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoginArgs {
    /// How to log in
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) login: LoginForm,
    /// A file with lines of `USERNAME PASSWORD [ADDRESS]`, one per cache, assigned to connections in turn;
    /// without an address the cache is reached at the target
    #[arg(long, value_name = "FILE", required_if_eq_any = [("login", "text"), ("login", "token"), ("login", "sasl")])]
    pub(crate) credentials: Option<PathBuf>,
    /// Use TLS, and trust this certificate authority
    #[arg(long, value_name = "CA_FILE")]
    pub(crate) tls: Option<PathBuf>,
    /// Make a full TLS handshake on every connection
    #[arg(long, requires = "tls")]
    pub(crate) no_resumption: bool,
}

impl Workload {
    /// Rejects values out of range, and targets on other machines.
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        local_only::check(self.target)?;
        let within = |name: &str, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(LoadError::new(format!("--{name} {value} is out of range"), format!("{least} to {most}")))
        };
        within("connections", self.connections, 1, CONNECTIONS_MAX)?;
        within("pipeline", self.pipeline, 1, PIPELINE_MAX)?;
        within("multiget", self.multiget, 1, MULTIGET_MAX)?;
        within("value", self.value, KEY_LEN, VALUE_MAX)?;
        within("keys", self.keys(), 1, KEYSPACE_MAX / self.value)?;
        if self.multiget > 1 && self.protocol != Protocol::Text {
            return Err(LoadError::new("--multiget needs the text protocol", "leave one of them out"));
        }
        let seconds = [self.seconds, self.warm_up].iter().all(|s| (0.0..=SECONDS_MAX).contains(s));
        if !seconds || self.rate.is_some_and(|rate| !(1.0..=RATE_MAX).contains(&rate)) {
            return Err(LoadError::new(
                "a time or rate is out of range",
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

/// The address of one user's cache, and how to log in there.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) target: SocketAddr,
    pub(crate) login: Login,
    pub(crate) tls: Option<Tls>,
}

impl LoginArgs {
    /// The endpoint of each user, in the file's order.
    pub(crate) fn endpoints(&self, target: SocketAddr) -> Result<Vec<Endpoint>, LoadError> {
        let tls = self.tls.as_ref().map(|ca| stream::client_config(ca, !self.no_resumption)).transpose()?;
        let Some(path) = self.credentials.as_ref().filter(|_| self.login != LoginForm::None) else {
            return Ok(vec![Endpoint { target, login: Login::none(), tls }]);
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            LoadError::new(format!("can't read {} ({error})", path.display()), "name a file that can be read")
        })?;
        let endpoints: Option<Vec<Endpoint>> =
            text.lines().map(|line| self.endpoint(line, target, tls.as_ref())).collect();
        let endpoints = endpoints.filter(|endpoints| !endpoints.is_empty()).ok_or_else(|| {
            let what = format!("{} is empty or has an invalid line", path.display());
            LoadError::new(what, "write lines of `USERNAME PASSWORD [ADDRESS]`")
        })?;
        endpoints.iter().try_for_each(|endpoint| local_only::check(endpoint.target))?;
        Ok(endpoints)
    }

    fn endpoint(&self, line: &str, target: SocketAddr, tls: Option<&Tls>) -> Option<Endpoint> {
        let mut words = line.split(' ');
        let login = Login::new(self.login, words.next()?, words.next()?);
        let target = words.next().map_or(Ok(target), str::parse).ok()?;
        Some(Endpoint { target, login, tls: tls.cloned() })
    }
}
