//! `memgate`: one binary, a subcommand per role, and the operator's commands.
//!
//! Every command family has a file of its own; they share the arguments (`args`), the settings
//! (`settings`), the data folder (`folder`) and the way of saying what went wrong (`report`).

mod account;
mod args;
mod audit;
mod authority;
mod config;
mod connection;
mod down;
mod folder;
mod image;
mod instance;
mod migrate;
mod passage;
mod plan;
mod ports;
mod probe;
mod report;
mod role;
mod settings;
mod status;
mod supervisor;
mod table;
mod token;
mod up;
mod user;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Whatever we make is for its owner and group: keys, the database and what SQLite puts beside it.
    rustix::process::umask(rustix::fs::Mode::RWXO);
    let args = match args::parse() {
        Ok(args) => args,
        Err(exit) => return exit,
    };
    let json = args.global.json;
    match args.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}
