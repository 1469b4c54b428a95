//! Idle, authenticated connections, for measuring the memory of one.

use std::io::BufRead as _;
use std::net::SocketAddr;

use clap::Args;

use crate::error::LoadError;
use crate::local_only;
use crate::login::Login;
use crate::preload;
use crate::session::Expected;
use crate::stream::Stream;
use crate::wire::{Protocol, Wire};
use crate::workload::LoginArgs;

const CONNECTIONS_MAX: usize = 20_000;

/// Prints `idle` when all connections are open; after a line on stdin, gets a key on each and prints
/// `after_get`; ends when stdin does.
#[derive(Debug, Args)]
pub(crate) struct Idle {
    /// The address to connect to; only on this machine
    #[arg(long)]
    target: SocketAddr,
    /// The number of connections
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
    #[command(flatten)]
    login_args: LoginArgs,
}

impl Idle {
    pub(crate) fn run(&self) -> Result<(), LoadError> {
        local_only::check(self.target)?;
        if self.connections > CONNECTIONS_MAX {
            return Err(LoadError::new("too many connections", format!("{CONNECTIONS_MAX} at most")));
        }
        let endpoints = self.login_args.endpoints(self.target)?;
        let wire = Wire::new(Protocol::Text, 1, 100);
        for endpoint in &endpoints {
            preload::store_all(
                preload::connect(endpoint, &wire)?,
                1,
                Expected { wire: &wire, login: &endpoint.login },
            )?;
        }
        let mut open: Vec<(Stream, &Login)> = Vec::new();
        for endpoint in endpoints.iter().cycle().take(self.connections) {
            open.push((preload::connect(endpoint, &wire)?, &endpoint.login));
        }
        println!("idle");
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok(());
        }
        let get = |(stream, login)| preload::get_one(stream, Expected { wire: &wire, login });
        let open: Vec<Stream> = open.into_iter().map(get).collect::<Result<_, _>>()?;
        println!("after_get");
        std::io::stdin().lock().read_line(&mut line)?;
        drop(open);
        Ok(())
    }
}
