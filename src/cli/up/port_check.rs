//! Checks that the ports of all roles are free, and names the process that uses a taken one.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;

use daemon::listener::Port;

use crate::output::CliError;
use crate::settings::Settings;

/// Checks the listen addresses of all roles.
///
/// # Errors
/// Names all that can't be bound.
pub(crate) fn require_free(settings: &Settings) -> Result<(), CliError> {
    let mut conflicts = Vec::new();
    for (key, address) in settings.listeners() {
        if let Err(error) = Port::bind(address, 1) {
            conflicts.push(explain(key, address, &error));
        }
    }
    CliError::all(conflicts).map_or(Ok(()), Err)
}

/// What is wrong with an address, and how to fix it.
pub(super) fn explain(key: &str, address: SocketAddr, error: &std::io::Error) -> (String, String) {
    let variable = format!("MEMGATE_{}", key.replace('.', "__").to_uppercase());
    let in_use = format!("stop that process, or choose another address with {variable}=ADDRESS:PORT");
    match error.kind() {
        ErrorKind::AddrInUse => {
            // Sockets that this process keeps itself are not what is in the way.
            let other = listener(address.port()).filter(|listener| listener.pid != std::process::id());
            let by = other
                .map_or_else(String::new, |Listener { pid, name, .. }| format!(" by {name} (process {pid})"));
            (format!("{address} ({key}) is in use{by}"), in_use)
        }
        ErrorKind::AddrNotAvailable => (
            format!("{address} ({key}) is not an address of this machine"),
            format!("choose an address of this machine with {variable}=ADDRESS:PORT"),
        ),
        ErrorKind::PermissionDenied => (
            format!("{address} ({key}) is a privileged port"),
            format!("run this as root, or choose a port above 1023 with {variable}=ADDRESS:PORT"),
        ),
        _ => (format!("can't listen on {address} ({key}: {error})"), in_use),
    }
}

/// A process that listens on a port.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) pid: u32,
    /// The user who made the socket, and perhaps passed it to the process.
    pub(crate) socket_user: u32,
    name: String,
}

/// The process that listens on a port, if this user may see it.
pub(crate) fn listener(port: u16) -> Option<Listener> {
    let (inode, socket_user) = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| listening_socket(&table, port))?;
    let socket = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let path = process.path();
        let pid = process.file_name().to_str()?.parse().ok()?;
        let owns_socket = fs::read_dir(path.join("fd"))
            .ok()?
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == socket.as_str()));
        let name = fs::read_to_string(path.join("comm")).ok()?;
        owns_socket.then(|| Listener { pid, socket_user, name: name.trim().to_owned() })
    })
}

/// The inode of the listening socket in a /proc/net/tcp table, and its user; see proc(5).
fn listening_socket(table: &str, port: u16) -> Option<(u64, u32)> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let listens = *fields.get(3)? == LISTEN && u16::from_str_radix(local_port, 16) == Ok(port);
        listens.then(|| Some((fields.get(9)?.parse().ok()?, fields.get(7)?.parse().ok()?))).flatten()
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn all_conflicts_are_told_at_once() {
        let taken: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let mut settings = Settings::default();
        let [one, two, three] = [0, 1, 2].map(|n: usize| taken[n].local_addr().unwrap());
        (settings.proxy.listen, settings.webui.health, settings.webui.listen) = (one, two, three);
        let error = require_free(&settings).unwrap_err().to_string();
        for (key, address) in [("proxy.listen", one), ("webui.health", two), ("webui.listen", three)] {
            assert!(error.contains(&format!("{address} ({key}) is in use")), "{error}");
            let variable = format!("MEMGATE_{}=", key.replace('.', "__").to_uppercase());
            assert!(error.contains(&variable), "{error}");
        }
    }

    #[test]
    fn listening_process_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let process = super::listener(listener.local_addr().unwrap().port()).unwrap();
        assert_eq!(process.pid, std::process::id(), "{process:?}");
        assert_eq!(process.socket_user, rustix::process::geteuid().as_raw(), "{process:?}");
    }
}
