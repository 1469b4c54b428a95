//! A network namespace: backends need an address that isn't loopback, and memcached's one port may be taken
//! on this machine's own addresses.

use std::fs::File;
use std::process::{Command, Stdio};

/// This machine's end of each veth pair. Outside the range that the provisioner assigns.
const HOST_ADDRESS: &str = "10.214.7.254/32";

/// A network namespace with one address, connected to this machine by a veth pair. Deleted when dropped.
#[derive(Debug)]
pub struct Namespace {
    /// What `ip netns` calls it.
    pub name: String,
    /// Locked against another run of the tests on this machine, which uses the same addresses.
    _lock: File,
}

impl Namespace {
    /// Creates the namespace of `address`, an IPv4 address in 10.214.7.0/24. Needs root.
    pub fn create(address: &str) -> Self {
        let number = address.rsplit('.').next().unwrap();
        let (name, veth) = (format!("memgate-test-{number}"), format!("mgtest{number}"));
        let lock = File::create(std::env::temp_dir().join(format!("{name}.lock"))).unwrap();
        lock.lock().unwrap();
        // A run that was killed may have left one.
        let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
        let _ = Command::new("ip").args(["link", "del", &veth]).stderr(Stdio::null()).status();
        let peer = format!("{address}/32");
        ip(&["netns", "add", &name]);
        let namespace = Self { name, _lock: lock };
        let name = namespace.name.as_str();
        ip(&["link", "add", &veth, "type", "veth", "peer", "name", "eth0", "netns", name]);
        ip(&["address", "add", HOST_ADDRESS, "peer", &peer, "dev", &veth]);
        ip(&["link", "set", &veth, "up"]);
        ip(&["-n", name, "address", "add", &peer, "peer", HOST_ADDRESS, "dev", "eth0"]);
        ip(&["-n", name, "link", "set", "eth0", "up"]);
        namespace
    }

    /// Takes the namespace's link down or up. Meanwhile packets are dropped, and nobody is told.
    pub fn set_link(&self, up: bool) {
        ip(&["-n", &self.name, "link", "set", "eth0", if up { "up" } else { "down" }]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Deletes the veth pair, too.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).status();
    assert!(done.unwrap().success(), "`ip {}` failed: run the tests as root", arguments.join(" "));
}
