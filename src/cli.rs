//! The command line: commands, options and help. Each command family has a file of its own.

mod api_key;
mod audit;
mod backup;
mod cache;
mod completion;
mod config;
mod confirmation;
mod connection;
mod context;
mod debug;
mod doctor;
mod down;
mod image;
mod instance;
mod key;
mod lookup;
mod migrate;
mod number;
mod plan;
mod readiness;
mod restore;
mod status;
mod token;
mod top;
mod up;
mod upgrade;
mod usage;
mod usage_error;
mod user;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::global_args::GlobalArgs;
use crate::output::CliError;
use crate::role;

pub(crate) use usage_error::parse;

const EXAMPLES: &str = "\
Examples:
  memgate up                                         run all roles on this machine, with data in ./data
  memgate user add ada@example.org                   create a user, a cache and a first token
  memgate cache create ada@example.org --cache shop  create another cache
  memgate token create ada@example.org --cache shop  create a token for it
  memgate instance list --json                       list all instances, for scripts
  memgate down --purge                               remove everything again

Run them as root (sudo), and with the data directory of `memgate up`: in the same folder, or with --data DIR.

Settings are read from memgate.toml in the data directory (or --config FILE), then from MEMGATE_*
variables (MEMGATE_PROXY__LISTEN=0.0.0.0:11311), then from --set proxy.listen=0.0.0.0:11311.

Exit status: 0 success, 1 failure, 2 invalid arguments, 3 still pending.";

const UP_HELP: &str = "\
Examples:
  memgate up --data /var/lib/memgate
  memgate up --set webui.endpoint=cache.example.org:11211

Run it as root: it creates the users that the other roles run as, and uses Docker and the firewall.
Ports, each a setting: 11211 for applications (proxy.listen), 8080 for browsers of this machine (webui.listen), and
9151 to 9153 for health and metrics of proxy, provisioner and web UI, also for this machine alone.

The last lines on stdout name the CA certificate that clients trust, the web UI and the endpoint. Next, sign up in the
web UI or run `memgate user add EMAIL` with the same --data.";

const ROLE_HELP: &str = "\
Example:
  memgate migrate --data /var/lib/memgate
  memgate provisioner --data /var/lib/memgate
  memgate webui --data /var/lib/memgate

`memgate up` runs these and the proxy on one machine. Run `memgate migrate` as root before you run them one by one.";

const PROXY_HELP: &str = "\
Examples:
  memgate proxy --data /var/lib/memgate
  memgate proxy --keys /etc/memgate/proxy.keys

`memgate up` runs a proxy, and the other roles. This one runs alone: beside roles that are run one by one, or on another
machine, with a key file instead of the data directory (see `memgate key export --help`).

To upgrade it, put the new program in its place, or change settings, then send SIGHUP to this process, or run
`systemctl reload memgate-proxy`. The new program is first asked whether it can work with the settings, the keys and the
store: if not, nothing changes, and the log says why. Then a new proxy takes over the listening sockets and all plaintext
connections, between two of their requests; TLS connections stay with the old one until they end or proxy.drain (1 hour) has
passed. Otherwise SIGHUP has the certificate read again.

SIGTERM and SIGINT end it. The proxy itself is a child of this process, which ends with its exit status, or 128 and the
number of the signal that has ended it.";

const STATUS_HELP: &str = "\
Examples:
  memgate status
  memgate status --json
  memgate status --role proxy

With --role, only that role's health endpoint is asked, for health checks of containers, where neither the store nor Docker can
be reached.

Exit status: 0 if everything is ready, else 1.";

const MANPAGE_HELP: &str = "\
Example:
  memgate manpage > /usr/local/share/man/man1/memgate.1";

/// A private memcached for every user, behind one fast, authenticating proxy.
#[derive(Debug, Parser)]
#[command(name = "memgate", version = env!("BUILD_VERSION"))]
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
    #[command(after_help = UP_HELP)]
    Up(up::UpArgs),
    /// Remove the containers, networks, volumes and firewall rules of this installation
    Down(down::Down),
    Upgrade(upgrade::Upgrade),
    /// Run the proxy that applications connect to
    #[command(after_help = PROXY_HELP)]
    Proxy(up::ProxyArgs),
    /// Run the provisioner, which reconciles containers with the desired state
    #[command(after_help = ROLE_HELP)]
    Provisioner(role::RoleArgs),
    /// Run the web UI
    #[command(after_help = ROLE_HELP)]
    Webui(role::RoleArgs),
    /// Manage users: add, list, show, update, suspend, resume, delete, reset-password
    #[command(subcommand)]
    User(user::UserCommand),
    /// Manage caches: list, show, stats, create, restart, flush, resize, suspend, resume, delete
    #[command(subcommand)]
    Cache(cache::CacheCommand),
    /// Manage tokens, the credentials of applications: create, list, show, update, rotate, certify, revoke
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Manage API keys, with which users' scripts manage their caches and tokens: create, list, revoke
    #[command(subcommand)]
    ApiKey(api_key::ApiKeyCommand),
    /// Manage plans (resource limits): list, create, update, delete
    #[command(subcommand)]
    Plan(plan::PlanCommand),
    /// Show the containers that run caches: list, show, events
    #[command(subcommand)]
    Instance(instance::InstanceCommand),
    /// Manage live connections: list, close
    #[command(subcommand)]
    Connection(connection::ConnectionCommand),
    /// Export what caches used, hour by hour: what a bill is made from
    #[command(subcommand)]
    Usage(usage::UsageCommand),
    /// Manage the memcached image: build, show, upgrade
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Write what further proxies need: export
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Create the data directory if it is missing, and migrate the database to this version
    Migrate(migrate::Migrate),
    Backup(backup::Backup),
    Restore(restore::Restore),
    /// Read the audit log: list, export, verify
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Check settings: check
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Show the status of roles, store, Docker and caches
    #[command(after_help = STATUS_HELP)]
    Status(status::StatusArgs),
    Top(top::Top),
    Doctor(doctor::Doctor),
    Debug(debug::Debug),
    /// Print a script that completes commands and options: bash, zsh, fish
    Completion(completion::Completion),
    /// Print the manual page
    #[command(after_help = MANPAGE_HELP)]
    Manpage,
}

impl Args {
    /// Runs the command. Returns the exit status.
    ///
    /// # Errors
    /// If the command fails; the error carries its exit status.
    pub(crate) fn run(self) -> Result<ExitCode, CliError> {
        let global = &self.global;
        let ran = match self.command {
            Command::Up(args) => up::run(&args, global),
            Command::Upgrade(upgrade) => upgrade.run(global),
            Command::Down(down) => down.run(global),
            Command::Proxy(args) => return up::run_proxy(&args, global),
            Command::Provisioner(args) => role::run(role::Role::Provisioner, &args, global),
            Command::Webui(args) => role::run(role::Role::Webui, &args, global),
            Command::User(command) => command.run(global),
            Command::Cache(command) => command.run(global),
            Command::Token(command) => command.run(global),
            Command::ApiKey(command) => command.run(global),
            Command::Plan(command) => command.run(global),
            Command::Instance(command) => command.run(global),
            Command::Connection(command) => command.run(global),
            Command::Usage(command) => command.run(global),
            Command::Image(command) => command.run(global),
            Command::Key(command) => command.run(global),
            Command::Migrate(migrate) => migrate.run(global),
            Command::Backup(backup) => backup.run(global),
            Command::Restore(restore) => restore.run(global),
            Command::Audit(command) => command.run(global),
            Command::Config(command) => command.run(global),
            Command::Status(status) => status.run(global),
            Command::Top(top) => top.run(global),
            Command::Doctor(doctor) => doctor.run(global),
            Command::Debug(debug) => debug.run(global),
            Command::Completion(completion) => completion.run(),
            Command::Manpage => completion::print_manpage(),
        };
        ran.map(|()| ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests;
