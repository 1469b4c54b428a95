//! Connections that are logged in and do nothing: what does one cost?

use std::io::BufRead as _;
use std::net::SocketAddr;

use clap::Args;

use crate::failure::Failure;
use crate::link::Link;
use crate::login::Login;
use crate::plan::Identity;
use crate::preload;
use crate::session::Known;
use crate::target;
use crate::wire::{Protocol, Wire};

const CONNECTIONS_MAX: usize = 20_000;

/// Prints `idle` when all connections are there, `asked` after a get on each (begun by a line on stdin),
/// and ends with stdin.
#[derive(Debug, Args)]
pub(crate) struct Idle {
    /// The address; only on this machine
    #[arg(long)]
    target: SocketAddr,
    /// How many
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
    #[command(flatten)]
    identity: Identity,
}

impl Idle {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        target::check(self.target)?;
        if self.connections > CONNECTIONS_MAX {
            return Err(Failure::new("too many connections", format!("{CONNECTIONS_MAX} at most")));
        }
        let ways = self.identity.ways(self.target)?;
        let wire = Wire::new(Protocol::Text, 1, 100);
        for way in &ways {
            preload::store_all(preload::enter(way, &wire)?, 1, Known { wire: &wire, login: &way.login })?;
        }
        let mut open: Vec<(Link, &Login)> = Vec::new();
        for way in ways.iter().cycle().take(self.connections) {
            open.push((preload::enter(way, &wire)?, &way.login));
        }
        println!("idle");
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok(());
        }
        let asked = |(link, login)| preload::get_one(link, Known { wire: &wire, login });
        let open: Vec<Link> = open.into_iter().map(asked).collect::<Result<_, _>>()?;
        println!("asked");
        std::io::stdin().lock().read_line(&mut line)?;
        drop(open);
        Ok(())
    }
}
