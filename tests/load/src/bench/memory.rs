//! The memory that each target needs for one idle, authenticated connection.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use super::memgate::Logins;
use super::summary::Point;
use super::testbed::Testbed;
use crate::cpu;
use crate::error::LoadError;

/// Open files of a process beyond those of connections (one each, two in a TCP proxy).
const OTHER_FILES: usize = 500;

/// A server whose memory is measured.
struct Server {
    name: &'static str,
    address: SocketAddr,
    tls: bool,
    /// Its private memory, in bytes, before the first connection. Memory that it keeps after connections have
    /// closed would make later ones look cheaper.
    before: f64,
}

pub(super) async fn measure(testbed: &Testbed, wanted: usize) -> Result<Vec<Point>, LoadError> {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    let connections = wanted.min(files.saturating_sub(OTHER_FILES) / 2);
    let servers = [
        ("memcached", testbed.addresses.direct, false),
        ("haproxy", testbed.addresses.haproxy, false),
        ("nginx", testbed.addresses.nginx, false),
        ("twemproxy", testbed.addresses.twemproxy, false),
        ("memgate", testbed.memgate.endpoint(), false),
        ("haproxy", testbed.addresses.haproxy_tls, true),
        ("stunnel", testbed.addresses.stunnel, true),
        ("memgate", testbed.memgate.endpoint(), true),
    ];
    let servers =
        servers.map(|(name, address, tls)| Server { name, address, tls, before: memory(testbed, name) });
    let mut points = Vec::new();
    for server in &servers {
        let mut point = Point {
            row: format!("memory/{connections}"),
            shape: "idle".into(),
            connections,
            protocol: "text".into(),
            tls: server.tls,
            target: server.name.into(),
            ..Point::default()
        };
        match bytes_per_connection(testbed, server, connections).await {
            Ok(bytes) => point.bytes_per_connection = Some(bytes),
            Err(error) => {
                point.bytes_per_connection = Some([0.0; 2]);
                point.remarks.push(format!("invalid: {error}"));
            }
        }
        points.push(point);
    }
    Ok(points)
}

fn memory(testbed: &Testbed, name: &str) -> f64 {
    testbed.pids(name).into_iter().filter_map(cpu::private_memory).sum::<u64>() as f64
}

async fn bytes_per_connection(
    testbed: &Testbed,
    server: &Server,
    connections: usize,
) -> Result<[f64; 2], LoadError> {
    let Server { name, address, tls, before } = *server;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["idle", "--target", &address.to_string(), "--connections", &connections.to_string()]);
    if name == "memgate" {
        command.args(["--login", "text", "--credentials"]).arg(testbed.logins(Logins::Token));
    }
    if tls {
        command.arg("--tls").arg(testbed.memgate.ca());
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.kill_on_drop(true).process_group(0);
    let mut child = command.spawn()?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(LoadError::invalid_run("no pipes to the generator"));
    };
    let mut lines = BufReader::new(stdout).lines();
    let mut await_word = async |word: &str| match lines.next_line().await? {
        Some(line) if line == word => Ok((memory(testbed, name) - before) / connections as f64),
        _ => Err(LoadError::invalid_run("not all connections were opened")),
    };
    let idle = await_word("idle").await?;
    stdin.write_all(b"\n").await?;
    let after_get = await_word("after_get").await?;
    drop(stdin);
    child.wait().await?;
    Ok([idle, after_get])
}
