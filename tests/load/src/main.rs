//! A load generator for memcached's protocols (`load run`, `load idle`), the benchmark that runs it against memgate and
//! its peers in alternating rounds (`load bench`, started by `deploy/bench`), floods with what another tenant feels
//! meanwhile (`load floods`, started by `deploy/measure floods`), faults with what a checking client sees (`load faults`,
//! started by `deploy/measure faults`), sign-ups at once (`load sign-ups`, `deploy/measure sign-ups`), ways to share out the
//! CPUs (`load cpus`, `deploy/measure cpus`), caches that are filled for minutes (`load fill`, `deploy/measure fill`), and
//! addresses that go from one cache to the next under load (`load address-reuse`, `deploy/measure address-reuse`).
//!
//! It connects to this machine only: other targets are rejected.

mod account;
mod address_reuse;
mod bench;
mod cgroup;
mod child;
mod client;
mod command;
mod cpu;
mod cpus;
mod direct;
mod error;
#[cfg(test)]
mod fake_memcached;
mod faults;
mod fill;
mod filler;
mod floods;
mod generator;
mod http;
mod idle;
mod installation;
mod interrupt;
mod local_only;
mod login;
mod outcome;
mod preload;
mod reply_checker;
mod session;
mod sign_ups;
mod stream;
mod values;
mod wire;
mod workload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::LoadError;

/// Generate load for memcached's protocols, or run the benchmark.
#[derive(Debug, Parser)]
#[command(name = "load", version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one workload against one target; prints one line of JSON
    Run(workload::Workload),
    /// Open connections, log in, and hold them until stdin ends; prints a line when all are open
    Idle(idle::Idle),
    /// Measure memgate and its peers in alternating rounds; prints a table
    Bench(bench::Bench),
    /// Measure what another tenant feels while each known flood runs; prints a table
    Floods(floods::Floods),
    /// Inject known faults under a client that checks every byte; prints a table
    Faults(faults::Faults),
    /// Measure how long sign-ups at once wait for their caches; prints a table
    SignUps(sign_ups::SignUps),
    /// Measure ways to share out the CPUs to caches; prints a table
    Cpus(cpus::Cpus),
    /// Measure the memory of caches that are filled for minutes; prints a table
    Fill(fill::Fill),
    /// Measure whether anything crosses when a cache gets the address of a deleted one
    AddressReuse(address_reuse::AddressReuse),
    /// Run one process of a flood; `load floods` starts it
    #[command(hide = true)]
    Attack(floods::Attack),
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Run(workload) => run(&workload),
        Command::Idle(idle) => idle.run(),
        Command::Bench(bench) => bench.run(),
        Command::Floods(floods) => floods.run(),
        Command::Faults(faults) => faults.run(),
        Command::SignUps(sign_ups) => sign_ups.run(),
        Command::Cpus(cpus) => cpus.run(),
        Command::Fill(fill) => fill.run(),
        Command::AddressReuse(address_reuse) => address_reuse.run(),
        Command::Attack(attack) => attack.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(workload: &workload::Workload) -> Result<(), LoadError> {
    let outcome = generator::run(workload)?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}
