//! The command line: commands, options and help. Each command family has a file of its own.

mod audit;
mod cache;
mod config;
mod confirmation;
mod connection;
mod context;
mod down;
mod image;
mod instance;
mod lookup;
mod migrate;
mod plan;
mod readiness;
mod status;
mod token;
mod up;
mod user;

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::global_args::GlobalArgs;
use crate::output::CliError;
use crate::role;

const EXAMPLES: &str = "\
Examples:
  memgate up                                     run all roles on this machine, with data in ./data
  memgate user add ada@example.org               create a user, a cache and a first token
  memgate cache create ada@example.org --cache b create another cache
  memgate token create ada@example.org --cache b create a token for it
  memgate instance list --json                   list all instances, for scripts
  memgate down --purge                           remove everything again

Settings are read from memgate.toml in the data directory (or --config FILE), then from MEMGATE_*
variables (MEMGATE_PROXY__LISTEN=0.0.0.0:11311), then from --set proxy.listen=0.0.0.0:11311.

Exit status: 0 success, 1 failure, 2 invalid arguments, 3 still pending.";

/// A private memcached for every user, behind one fast, authenticating proxy.
#[derive(Debug, Parser)]
#[command(name = "memgate", version = env!("MEMGATE_VERSION"))]
#[command(after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run all roles on this machine until Ctrl-C; the caches keep running
    Up,
    /// Remove the containers, networks, volumes and firewall rules of this installation
    Down(down::Down),
    /// Run the proxy that applications connect to
    Proxy(role::RoleArgs),
    /// Run the provisioner, which reconciles containers with the desired state
    Provisioner(role::RoleArgs),
    /// Run the web UI
    Webui(role::RoleArgs),
    /// Manage users: add, list, show, suspend, resume, delete, reset-password
    #[command(subcommand)]
    User(user::UserCommand),
    /// Manage caches: list, show, create, delete
    #[command(subcommand)]
    Cache(cache::CacheCommand),
    /// Manage tokens, the credentials of applications: create, list, show, update, rotate, certify, revoke
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Manage plans (resource limits): list, create, update
    #[command(subcommand)]
    Plan(plan::PlanCommand),
    /// Show the containers that run caches: list, show
    #[command(subcommand)]
    Instance(instance::InstanceCommand),
    /// Manage live connections: list, close
    #[command(subcommand)]
    Connection(connection::ConnectionCommand),
    /// Manage the memcached image: build
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Create the data directory if it is missing, and migrate the database to this version
    Migrate,
    /// Read the audit log: list, export, verify
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Check settings
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Show the status of roles, store, Docker and caches
    Status,
}

impl Args {
    /// Runs the command.
    ///
    /// # Errors
    /// If the command fails; the error carries its exit status.
    pub(crate) fn run(self) -> Result<(), CliError> {
        let global = &self.global;
        match self.command {
            Command::Up => up::run(global),
            Command::Down(down) => down.run(global),
            Command::Proxy(args) => role::run(role::Role::Proxy, &args, global),
            Command::Provisioner(args) => role::run(role::Role::Provisioner, &args, global),
            Command::Webui(args) => role::run(role::Role::Webui, &args, global),
            Command::User(command) => command.run(global),
            Command::Cache(command) => command.run(global),
            Command::Token(command) => command.run(global),
            Command::Plan(command) => command.run(global),
            Command::Instance(command) => command.run(global),
            Command::Connection(command) => command.run(global),
            Command::Image(command) => command.run(global),
            Command::Migrate => migrate::run(global),
            Command::Audit(command) => command.run(global),
            Command::Config(command) => command.run(global),
            Command::Status => status::run(global),
        }
    }
}

/// Parses the command line. Prints help on stdout, or a usage error on stderr with exit status 2.
pub(crate) fn parse() -> Result<Args, ExitCode> {
    Args::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        // The arguments didn't parse, so the option itself has to be searched for.
        _ if std::env::args_os().any(|arg| arg == OsStr::new("--json")) => usage(&error).report(true),
        _ => {
            let _ = error.print();
            ExitCode::from(2)
        }
    })
}

fn usage(error: &clap::Error) -> CliError {
    let text = error.to_string();
    let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    CliError::usage(what, "see `memgate --help`")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_definitions_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn global_options_are_accepted_anywhere() {
        for line in ["memgate --json --data d -v user list", "memgate user list --data d -v --json"] {
            let args = Args::try_parse_from(line.split(' ')).unwrap();
            assert!(args.global.json && args.global.data == Some("d".into()), "{line}");
            assert_eq!(args.global.verbose, 1, "{line}");
        }
    }

    #[test]
    fn version_names_the_package_and_a_commit() {
        let version = env!("MEMGATE_VERSION");
        assert!(version.starts_with(env!("CARGO_PKG_VERSION")), "{version}");
    }
}
