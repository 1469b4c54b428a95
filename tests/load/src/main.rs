//! A load generator for memcached's protocols (`load run`, `load idle`), and the benchmark that runs it
//! against memgate and its peers by turns (`load bench`, started by `deploy/bench`).
//!
//! It talks to this machine only: other targets are refused.

mod bench;
mod cpu;
mod engine;
mod failure;
#[cfg(test)]
mod fake;
mod idle;
mod link;
mod login;
mod outcome;
mod plan;
mod preload;
mod reader;
mod session;
mod target;
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

/// Load for memcached's protocols, and the benchmark made of it.
#[derive(Debug, Parser)]
#[command(name = "load", version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One run against one target; prints one line of JSON
    Run(plan::Plan),
    /// Open connections, log in, and hold them until stdin ends; prints a line when all are there
    Idle(idle::Idle),
    /// memgate and its peers by turns; prints a table
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Run(plan) => run(&plan),
        Command::Idle(idle) => idle.run(),
        Command::Bench(bench) => bench.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(plan: &plan::Plan) -> Result<(), Failure> {
    let outcome = engine::run(plan)?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}
