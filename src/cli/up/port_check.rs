//! Are the ports free that the roles are about to take? If not, which is taken, and by whom.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use crate::output::CliError;
use crate::settings::Settings;

/// Fails with the first that is taken; or that only root may have, if the roles give root up.
pub(crate) fn require_free(settings: &Settings, unprivileged: bool) -> Result<(), CliError> {
    for (key, address) in [
        ("proxy.listen", settings.proxy.listen),
        ("proxy.health", settings.proxy.health),
        ("provisioner.health", settings.provisioner.health),
        ("webui.listen", settings.webui.listen),
        ("webui.health", settings.webui.health),
    ] {
        if let Err(error) = TcpListener::bind(address) {
            return Err(explain(key, address, &error));
        }
        if unprivileged && address.port() < first_for_everybody() {
            return Err(CliError::new(
                format!("{address} ({key}) is a port for root only, which the role gives up"),
                format!(
                    "choose a higher one, or run `sysctl net.ipv4.ip_unprivileged_port_start={}`",
                    address.port()
                ),
            ));
        }
    }
    Ok(())
}

fn first_for_everybody() -> u16 {
    let setting = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    setting.ok().and_then(|port| port.trim().parse().ok()).unwrap_or(1024)
}

fn explain(key: &str, address: SocketAddr, error: &std::io::Error) -> CliError {
    let variable = format!("MEMGATE_{}", key.replace('.', "__").to_uppercase());
    let fix = format!("stop what uses it, or choose another with {variable}=ADDRESS:PORT");
    match error.kind() {
        ErrorKind::AddrInUse => {
            let by = owner(address.port()).map_or_else(String::new, |who| format!(" by {who}"));
            CliError::new(format!("{address} ({key}) is in use{by}"), fix)
        }
        ErrorKind::AddrNotAvailable => {
            let fix = format!("choose one of its addresses with {variable}=ADDRESS:PORT");
            CliError::new(format!("{address} ({key}) is no address of this machine"), fix)
        }
        _ => CliError::new(format!("can't listen on {address} ({key}: {error})"), fix),
    }
}

/// The name and id of the process that listens on a port, if we may know.
fn owner(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| listening_inode(&table, port))?;
    let socket = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let path = process.path();
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let has_it = fs::read_dir(path.join("fd"))
            .ok()?
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == socket.as_str()));
        let name = fs::read_to_string(path.join("comm")).ok()?;
        has_it.then(|| format!("{} (process {pid})", name.trim()))
    })
}

/// The socket's inode in a table of proc(5)'s net/tcp.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let listens = *fields.get(3)? == LISTEN && u16::from_str_radix(local_port, 16) == Ok(port);
        listens.then(|| fields.get(9)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_listens_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let who = owner(listener.local_addr().unwrap().port()).unwrap();
        assert!(who.contains(&format!("process {}", std::process::id())), "{who}");
    }
}
