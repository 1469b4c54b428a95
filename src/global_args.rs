//! The options that every command takes.

use std::path::PathBuf;

/// Help lists a command's own options first.
const HEADING: &str = "Global options";

/// The options that every command takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct GlobalArgs {
    /// Data directory: SQLite database and keys [default: the directory of --config's FILE, else ./data, else /var/lib/memgate]
    #[arg(long, global = true, help_heading = HEADING, env = "MEMGATE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Settings file [default: memgate.toml in the data directory; for /var/lib/memgate also /etc/memgate/memgate.toml]
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Override one setting; takes precedence over file and environment (may be repeated). No passwords: all users see them
    #[arg(long = "set", global = true, help_heading = HEADING, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Log more: -v details of memgate, -vv also of its libraries (log.filter takes precedence)
    #[arg(short, long, global = true, help_heading = HEADING, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Print one JSON document on stdout, and errors as JSON on stderr
    #[arg(long, global = true, help_heading = HEADING)]
    pub(crate) json: bool,
}
