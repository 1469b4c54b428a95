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

/// Files that a process needs besides one for each connection, or two in a TCP proxy.
const OTHER_FILES: usize = 500;

pub(super) async fn measure(rig: &Rig, wanted: usize) -> Result<Vec<Point>, Failure> {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    let connections = wanted.min(files.saturating_sub(OTHER_FILES) / 2);
    let mut points = Vec::new();
    for (name, address, login) in [
        ("memcached", rig.addresses.direct, false),
        ("haproxy", rig.addresses.haproxy, false),
        ("nginx", rig.addresses.nginx, false),
        ("twemproxy", rig.addresses.twemproxy, false),
        ("memgate", rig.product.endpoint(), true),
    ] {
        let mut point = Point {
            row: format!("memory/{connections}"),
            shape: "idle".into(),
            connections,
            dialect: "text".into(),
            target: name.into(),
            ..Point::default()
        };
        match one(rig, (name, address, login), connections).await {
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

async fn one(
    rig: &Rig,
    (name, address, login): (&str, SocketAddr, bool),
    connections: usize,
) -> Result<[f64; 2], Failure> {
    let memory = || rig.pids(name).into_iter().filter_map(cpu::own_memory).sum::<u64>() as f64;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["idle", "--target", &address.to_string(), "--connections", &connections.to_string()]);
    if login {
        command.args(["--login", "text", "--credentials"]).arg(rig.logins(Logins::Token));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.kill_on_drop(true).process_group(0);
    let before = memory();
    let mut child = command.spawn()?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Failure::void("no pipes to the generator"));
    };
    let mut lines = BufReader::new(stdout).lines();
    let mut said = async |word: &str| match lines.next_line().await? {
        Some(line) if line == word => Ok((memory() - before) / connections as f64),
        _ => Err(Failure::void("not all connections were made")),
    };
    let idle = said("idle").await?;
    stdin.write_all(b"\n").await?;
    let asked = said("asked").await?;
    drop(stdin);
    child.wait().await?;
    Ok([idle, asked])
}
