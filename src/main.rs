//! `memgate`: one binary with a subcommand per role, and the operator's commands.
//!
//! `cli` defines the commands, one file for each family. They share the options that every command takes
//! (`global_args`), the settings (`settings`), the data directory (`data_dir`) and the output format (`output`).

mod backup_archive;
mod ca;
mod changed_settings;
mod cli;
mod data_dir;
mod database_url;
mod global_args;
mod health_check;
mod key_file;
mod locations;
mod output;
mod readable_file;
mod role;
mod settings;
mod store_clock;
mod store_outage;
mod system_users;
mod trusted_folder;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Files that we create are for owner and group only: keys, the database and SQLite's files beside it.
    rustix::process::umask(rustix::fs::Mode::RWXO);
    let args = match cli::parse() {
        Ok(args) => args,
        Err(exit) => return exit,
    };
    let json = args.global.json;
    match args.run() {
        Ok(status) => status,
        Err(error) => error.report(json),
    }
}
