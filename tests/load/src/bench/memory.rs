//! What one idle, logged-in connection costs each target in memory of its own.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use super::product::Logins;
use super::rig::Rig;
use super::summary::Point;
use crate::cpu;
use crate::failure::Failure;

/// Files that a process needs in addition to one for each connection, or two in a TCP proxy.
const OTHER_FILES: usize = 500;

/// A process that connections are made to.
struct Host {
    name: &'static str,
    address: SocketAddr,
    tls: bool,
    /// Its own memory before the first connection: what it keeps of others that have ended is theirs no more,
    /// and would make the next look cheap.
    before: f64,
}

pub(super) async fn measure(rig: &Rig, wanted: usize) -> Result<Vec<Point>, Failure> {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    let connections = wanted.min(files.saturating_sub(OTHER_FILES) / 2);
    let hosts = [
        ("memcached", rig.addresses.direct, false),
        ("haproxy", rig.addresses.haproxy, false),
        ("nginx", rig.addresses.nginx, false),
        ("twemproxy", rig.addresses.twemproxy, false),
        ("memgate", rig.product.endpoint(), false),
        ("haproxy", rig.addresses.haproxy_tls, true),
        ("stunnel", rig.addresses.stunnel, true),
        ("memgate", rig.product.endpoint(), true),
    ];
    let hosts = hosts.map(|(name, address, tls)| Host { name, address, tls, before: memory(rig, name) });
    let mut points = Vec::new();
    for host in &hosts {
        let mut point = Point {
            row: format!("memory/{connections}"),
            shape: "idle".into(),
            connections,
            protocol: "text".into(),
            tls: host.tls,
            target: host.name.into(),
            ..Point::default()
        };
        match one(rig, host, connections).await {
            Ok(bytes) => point.bytes_per_connection = Some(bytes),
            Err(failure) => {
                point.bytes_per_connection = Some([0.0; 2]);
                point.remarks.push(format!("void: {failure}"));
            }
        }
        points.push(point);
    }
    Ok(points)
}

fn memory(rig: &Rig, name: &str) -> f64 {
    rig.pids(name).into_iter().filter_map(cpu::own_memory).sum::<u64>() as f64
}

async fn one(rig: &Rig, host: &Host, connections: usize) -> Result<[f64; 2], Failure> {
    let Host { name, address, tls, before } = *host;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["idle", "--target", &address.to_string(), "--connections", &connections.to_string()]);
    if name == "memgate" {
        command.args(["--login", "text", "--credentials"]).arg(rig.logins(Logins::Token));
    }
    if tls {
        command.arg("--tls").arg(rig.product.ca());
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.kill_on_drop(true).process_group(0);
    let mut child = command.spawn()?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Failure::void("no pipes to the generator"));
    };
    let mut lines = BufReader::new(stdout).lines();
    let mut said = async |word: &str| match lines.next_line().await? {
        Some(line) if line == word => Ok((memory(rig, name) - before) / connections as f64),
        _ => Err(Failure::void("not all connections were made")),
    };
    let idle = said("idle").await?;
    stdin.write_all(b"\n").await?;
    let asked = said("asked").await?;
    drop(stdin);
    child.wait().await?;
    Ok([idle, asked])
}
