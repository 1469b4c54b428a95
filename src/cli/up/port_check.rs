//! Checks that the ports of all roles are free, and names the process that uses a taken one.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use daemon::listener::Port;

use crate::output::CliError;
use crate::settings::Settings;

/// Checks the listen addresses of all roles.
///
/// # Errors
/// Names all that can't be bound.
pub(crate) fn require_free(settings: &Settings) -> Result<(), CliError> {
    CliError::all(conflicts(settings)).map_or(Ok(()), Err)
}

/// Checks listen addresses that this process is to have beside its own.
///
/// # Errors
/// Names all that can't be bound.
pub(super) fn require_free_beside(
    new: impl Iterator<Item = (&'static str, SocketAddr)>,
) -> Result<(), CliError> {
    let conflicts = new.filter_map(|(key, address)| {
        let error = Port::bind(address, 1).err()?;
        let (what, fix) = explain(key, address, &error);
        Some((what, format!("{fix}; a port that memgate has itself changes only with a restart")))
    });
    CliError::all(conflicts).map_or(Ok(()), Err)
}

/// The addresses that can't be bound, each with its fix.
pub(crate) fn conflicts(settings: &Settings) -> Vec<(String, String)> {
    let failed = |(key, address)| Some(explain(key, address, &Port::bind(address, 1).err()?));
    settings.listeners().into_iter().filter_map(failed).collect()
}

/// What is wrong with an address, and how to fix it.
pub(super) fn explain(key: &str, address: SocketAddr, error: &std::io::Error) -> (String, String) {
    let variable = format!("MEMGATE_{}", key.replace('.', "__").to_uppercase());
    let in_use = format!("stop that process, or choose another address with {variable}=ADDRESS:PORT");
    match error.kind() {
        ErrorKind::AddrInUse => {
            let by = user_of(address).unwrap_or_default();
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

/// The process in whose way an address is, as far as this user may see it: what listens on it, else on its port.
fn user_of(address: SocketAddr) -> Option<String> {
    let mut sockets = listening_sockets();
    sockets.retain(|socket| socket.address.port() == address.port());
    sockets.sort_by_key(|socket| !socket.takes(address));
    let processes = || fs::read_dir("/proc").into_iter().flatten().flatten();
    let number = |process: fs::DirEntry| process.file_name().to_str()?.parse::<u32>().ok();
    // Sockets that this process keeps itself are not what is in the way.
    let others = || processes().filter_map(number).filter(|pid| *pid != std::process::id());
    sockets.iter().find_map(|socket| {
        let pid = others().find(|pid| has_socket(*pid, socket))?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        let on = if socket.takes(address) { String::new() } else { format!(" on {}", socket.address) };
        Some(format!(" by {} (process {pid}{on})", name.trim()))
    })
}

/// Whether a process listens on an address, with a socket that one of these users has made, and perhaps passed to it. `false` if
/// this user may not see it.
pub(crate) fn listens(pid: u32, address: SocketAddr, users: &[u32]) -> bool {
    let is_its = |socket: &ListeningSocket| {
        socket.takes(address) && users.contains(&socket.user) && has_socket(pid, socket)
    };
    listening_sockets().iter().any(is_its)
}

#[derive(Debug)]
struct ListeningSocket {
    address: SocketAddr,
    inode: u64,
    user: u32,
}

impl ListeningSocket {
    /// Whether it gets connections to an address.
    fn takes(&self, address: SocketAddr) -> bool {
        let (own, asked) = (self.address.ip(), address.ip());
        self.address.port() == address.port() && (own == asked || own.is_unspecified())
    }
}

fn has_socket(pid: u32, socket: &ListeningSocket) -> bool {
    let link = format!("socket:[{}]", socket.inode);
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files
        .map(|fd| fs::read_link(fd.path()))
        .any(|found| found.is_ok_and(|found| found.as_os_str() == link.as_str()))
}

fn listening_sockets() -> Vec<ListeningSocket> {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(listening_socket).collect()
}

/// The listening socket of a line of such a table; see proc(5).
fn listening_socket(line: &str) -> Option<ListeningSocket> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    if *fields.get(3)? != LISTEN {
        return None;
    }
    let address = local_address(fields.get(1)?)?;
    Some(ListeningSocket { address, inode: fields.get(9)?.parse().ok()?, user: fields.get(7)?.parse().ok()? })
}

/// Words of the address in this machine's order of bytes, a colon, and the port.
fn local_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let words: Vec<u32> = (0..address.len())
        .step_by(8)
        .map(|start| u32::from_str_radix(address.get(start..start.checked_add(8)?)?, 16).ok())
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpListener};

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

    //
    #[test]
    fn a_process_listens_only_on_the_address_of_its_socket() {
        let (own, user) = (std::process::id(), rustix::process::geteuid().as_raw());
        let with_port = |host: &str, port: u16| SocketAddr::new(host.parse().unwrap(), port);
        let one = TcpListener::bind("127.0.0.2:0").unwrap();
        let port = one.local_addr().unwrap().port();
        assert!(listens(own, one.local_addr().unwrap(), &[user]));
        assert!(!listens(own, one.local_addr().unwrap(), &[user.wrapping_add(1)]), "another user's socket");
        assert!(!listens(1, one.local_addr().unwrap(), &[user]), "another process");
        assert!(!listens(own, with_port("127.0.0.1", port), &[user]));
        // Another one with that port, which is listed before or after it.
        let other = TcpListener::bind(with_port("127.0.0.1", port)).unwrap();
        assert!(listens(own, other.local_addr().unwrap(), &[user]));
        let any = TcpListener::bind("0.0.0.0:0").unwrap();
        assert!(listens(own, with_port("127.0.0.1", any.local_addr().unwrap().port()), &[user]));
    }

    #[test]
    fn the_process_that_is_in_the_way_is_named() {
        // Another process than this one, which keeps sockets of its own.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut other = std::process::Command::new("sleep");
        let mut other = other.arg("1000").stdin(std::os::fd::OwnedFd::from(listener)).spawn().unwrap();
        let told = user_of(address).unwrap();
        let beside = user_of(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port())).unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(told, format!(" by sleep (process {})", other.id()));
        assert_eq!(beside, format!(" by sleep (process {} on {address})", other.id()));
    }

    #[test]
    fn addresses_of_the_kernel_are_read() {
        let words = |bytes: &[u8]| -> String {
            let words = bytes.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
            words.map(|word| format!("{word:08X}")).collect()
        };
        for text in ["127.0.0.1:8080", "0.0.0.0:1", "[::1]:65535", "[fd00::1:2]:80"] {
            let address: SocketAddr = text.parse().unwrap();
            let octets = match address.ip() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let listed = format!("{}:{:04X}", words(&octets), address.port());
            assert_eq!(local_address(&listed), Some(address));
        }
        for text in ["", ":", "0100007F", "010000:1F90", "0100007F:1F9000", "\u{e9}0100007:1F90"] {
            assert_eq!(local_address(text), None, "{text}");
        }
    }
}
