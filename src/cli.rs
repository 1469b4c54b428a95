//! The command line: what there is, and help that teaches it.

mod audit;
mod config;
mod connection;
mod down;
mod image;
mod instance;
mod lookup;
mod migrate;
mod plan;
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
  memgate up                                     all roles on this machine, data in ./data
  memgate user add ada@example.org               an account, its cache, and a first token
  memgate token create ada@example.org --name ci one more token
  memgate instance list --json                   what runs, for scripts
  memgate down --purge                           take everything away again

Settings are read from memgate.toml in the data folder (or --config FILE), then from MEMGATE_*
variables (MEMGATE_PROXY__LISTEN=0.0.0.0:11311), then from --set proxy.listen=0.0.0.0:11311.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 still pending.";

/// A private memcached for every user, behind one fast, authenticating proxy.
#[derive(Debug, Parser)]
#[command(name = "memgate", version, after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 100)]
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
    /// Run the proxy: the door that applications connect to
    Proxy(role::RoleArgs),
    /// Run the provisioner: makes caches out of what is wanted
    Provisioner(role::RoleArgs),
    /// Run the web UI
    Webui(role::RoleArgs),
    /// SystemUsers: add, list, show, suspend, resume, delete, reset-password
    #[command(subcommand)]
    User(user::UserCommand),
    /// Tokens, which applications log in with: create, list, show, update, rotate, certify, revoke
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Plans, of what caches may use: list, create, change
    #[command(subcommand)]
    Plan(plan::PlanCommand),
    /// Caches: list, show
    #[command(subcommand)]
    Instance(instance::InstanceCommand),
    /// Live connections: list, end
    #[command(subcommand)]
    Connection(connection::ConnectionCommand),
    /// The memcached image: build
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Make the data folder if need be, and bring the database's tables up to date
    Migrate,
    /// The audit log, of who did what: list, export, verify
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Settings: check
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Say how the roles, the store, Docker and the caches are
    Status,
}

impl Args {
    /// Does what was asked for.
    pub(crate) fn run(self) -> Result<(), CliError> {
        let global = &self.global;
        match self.command {
            Command::Up => up::run(global),
            Command::Down(down) => down.run(global),
            Command::Proxy(args) => role::run(role::Role::Proxy, &args, global),
            Command::Provisioner(args) => role::run(role::Role::Provisioner, &args, global),
            Command::Webui(args) => role::run(role::Role::Webui, &args, global),
            Command::User(command) => command.run(global),
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

/// Reads the command line. Help goes to stdout; a usage error ends in status 2, as JSON if that was asked for.
pub(crate) fn parse() -> Result<Args, ExitCode> {
    Args::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
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
    CliError::usage(what, "memgate --help shows what there is")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_makes_sense() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_every_command_takes_may_stand_anywhere() {
        for line in ["memgate --json --data d user list", "memgate user list --data d --json"] {
            let args = Args::try_parse_from(line.split(' ')).unwrap();
            assert!(args.global.json && args.global.data == Some("d".into()), "{line}");
        }
    }
}
