//! `memgate doctor`: looks for what goes wrong most often, on the operator's machine or on the way from a client to its cache,
//! and says how to fix it.

mod certificates;
mod client;
mod client_tls;
mod installation;
mod machine;
pub(super) mod report;

use std::path::PathBuf;

use self::client::Target;
use self::report::Report;
use crate::cli::up;
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::{self, CliError};
use crate::role::runtime;
use crate::settings::Settings;

/// Look for what goes wrong most often, and say how to fix it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  memgate doctor
  memgate doctor --json
  CACHE_TOKEN=mg_... memgate doctor --connect cache.example.org:11211
  memgate doctor --connect 10.0.0.5:11211 --ca ca.pem --token-file token.txt

Without --connect, it checks this machine: settings and who may read them, store and clock, Docker, firewall, ports,
certificates, disks, open files, kernel settings, roles. Run it as root.

With --connect, it does what an application does: looks the name up, connects, checks the certificate, logs in with the token
in --token-file or $CACHE_TOKEN, and stores, reads and deletes a key of its own. It needs neither root nor an installation. The
token isn't sent before the certificate is checked.

Exit status: 0 if there is no problem, else 1. Warnings don't count.")]
pub(crate) struct Doctor {
    /// Check the way from here to this endpoint
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
    /// The file with the token [default: $CACHE_TOKEN]
    #[arg(long, value_name = "FILE", requires = "connect")]
    token_file: Option<PathBuf>,
    /// The certificate authority to trust, in PEM [default: those that browsers trust]
    #[arg(long, value_name = "FILE", requires = "connect")]
    ca: Option<PathBuf>,
    /// Connect without TLS, and send the token for everybody on the way to read
    #[arg(long, requires = "connect", conflicts_with = "ca")]
    plaintext: bool,
    /// What the token's keys begin with
    #[arg(long, value_name = "PREFIX", requires = "connect", default_value = "")]
    key_prefix: String,
}

impl Doctor {
    pub(crate) fn run(&self, global: &GlobalArgs) -> Result<(), CliError> {
        let report = match &self.connect {
            Some(endpoint) => self.check_way(endpoint)?,
            None => check_installation(global)?,
        };
        output::print(global.json, &report, || report.text())?;
        match report.problems() {
            0 => Ok(()),
            1 => Err(CliError::new("there is a problem", "do what its line says")),
            number => Err(CliError::new(format!("there are {number} problems"), "do what their lines say")),
        }
    }

    fn check_way(&self, endpoint: &str) -> Result<Report, CliError> {
        let target = Target {
            endpoint,
            token: client::token(self.token_file.as_deref())?,
            ca: self.ca.as_deref(),
            plaintext: self.plaintext,
            key_prefix: &self.key_prefix,
        };
        let mut report = Report::default();
        runtime()?.block_on(client::check(&target, &mut report));
        Ok(report)
    }
}

/// Checks this machine and its installation.
///
/// # Errors
/// If the check itself can't run.
pub(super) fn check_installation(global: &GlobalArgs) -> Result<Report, CliError> {
    let mut report = Report::default();
    let settings = match Settings::load(global) {
        Ok(settings) => settings,
        Err(error) => {
            report.error("settings", error);
            return Ok(report);
        }
    };
    let data_dir = DataDir::of(global);
    // Who may not look at the lock is told so by the data's check.
    let up = up::lock_holder(&data_dir).ok().flatten();
    installation::settings(&settings, &data_dir, &mut report);
    machine::open_files(&settings, up.as_ref(), &mut report);
    machine::kernel(&mut report);
    machine::disk("disk of the data", data_dir.path(), &mut report);
    certificates::check(&settings, &data_dir, &mut report);
    let runtime = runtime()?;
    let runs = runtime.block_on(installation::check(&settings, &data_dir, up.as_ref(), &mut report));
    // What hangs is left behind.
    runtime.shutdown_background();
    machine::ports(&settings, up.as_ref(), runs, &mut report);
    Ok(report)
}
