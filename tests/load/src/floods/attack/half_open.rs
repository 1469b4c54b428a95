//! Connections to the proxy that don't log in.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::pool::{self, Options};
use crate::error::LoadError;
use crate::floods::job::{Job, Tally};
use crate::floods::victim;

const NETWORKS: usize = 400;

/// Connections from 400 networks (/24), each of which sends `first` and then nothing.
pub(super) async fn networks(job: &Job, tally: &Arc<Tally>, first: &'static [u8]) -> Result<(), LoadError> {
    let options = Options { source: network, small_buffer: false };
    pool::keep(job, tally, options, move |mut stream: TcpStream, _| async move {
        stream.write_all(first).await?;
        pool::until_closed(&mut stream).await
    })
    .await
}

/// Silent connections from the victim's address.
pub(super) async fn neighbour(job: &Job, tally: &Arc<Tally>) -> Result<(), LoadError> {
    let options = Options { source: |_| Some(victim::SOURCE), small_buffer: false };
    pool::hold(job, tally, options).await
}

/// The source address of the `n`th connection: loopback addresses of 400 networks in turn.
fn network(n: usize) -> Option<Ipv4Addr> {
    let [high, low] = u16::try_from(n % NETWORKS).unwrap_or(0).to_be_bytes();
    Some(Ipv4Addr::new(127, 100 + high, low, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_has_one_source() {
        let sources: std::collections::BTreeSet<_> = (0..25_000).filter_map(network).collect();
        assert_eq!(sources.len(), NETWORKS);
        assert!(sources.iter().all(Ipv4Addr::is_loopback));
    }
}
