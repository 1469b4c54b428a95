//! A proxy that runs alone is upgraded in place, and ends as one process.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::checking_clients::{Client, Kind, Load, Target};
use crate::harness::{Credentials, MEMGATE, Product, deadline_in, signal, wait_until};
use crate::health::get;
use crate::installed_program::InstalledProgram;
use crate::lone_proxy::{LoneProxy, Place};

const UPGRADED: &str = " upgraded ";
const REFUSED: &str = " no upgrade: ";
const NOT_UPGRADED: &str = "the proxy isn't upgraded";
const GAVE_UP: &str = "the new program gave up";

/// A product with a cache, and a proxy that runs alone beside it.
struct Beside {
    proxy: LoneProxy,
    program: InstalledProgram,
    ada: Credentials,
    product: Product,
}

impl Beside {
    fn start() -> Self {
        let product = Product::start();
        let ada = product.add_user("ada@example.org");
        let program = InstalledProgram::install(&product);
        let proxy = LoneProxy::with_data(&product, program.path(), Place::new(0), |_| {});
        proxy.wait_until_ready();
        Self { proxy, program, ada, product }
    }

    fn target(&self) -> Target {
        Target::new(&self.product, self.proxy.endpoint, &self.ada)
    }

    /// The proxy in force, when none drains.
    fn only_child(&self) -> u32 {
        let mut children = Vec::new();
        wait_until(deadline_in(30), "one proxy is left", || {
            children = self.proxy.children();
            children.len() == 1
        });
        children[0]
    }

    fn goes_on_with(&self, child: u32, clients: &mut [Client]) {
        clients.iter_mut().for_each(|client| client.use_cache().unwrap());
        assert_eq!(self.only_child(), child, "{}", self.proxy.read_log());
    }
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

// F-38.
#[test]
fn applications_notice_nothing_of_upgrades_of_a_lone_proxy() {
    const UPGRADES: usize = 3;
    let Beside { mut proxy, program, ada, product } = Beside::start();
    let target = Target::new(&product, proxy.endpoint, &ada);
    let (load, pid) = (Load::new(&target), proxy.id());
    let times = load.run(60, || {
        for _ in 0..UPGRADES {
            program.replace();
            proxy.upgrade(UPGRADED);
            load.wait_for_progress();
        }
    });
    println!("{UPGRADES} upgrades of a proxy that runs alone: {}", load.summary(&times));
    // No client is left, and no process of the old ones.
    wait_until(deadline_in(30), "one proxy is left", || proxy.children().len() == 1);
    let child = proxy.children()[0];
    assert!(program.is_that_of(pid) && program.is_that_of(child));
    // Connections that drain end as those of the proxy in force.
    let tls = target.log_in(Kind::Tls, "key").unwrap();
    program.replace();
    proxy.upgrade(UPGRADED);
    let children = proxy.children();
    assert_eq!(children.len(), 2, "{children:?}");
    assert!(proxy.end("TERM").success(), "{}", proxy.read_log());
    assert!(!children.into_iter().any(is_alive));
    assert!(!proxy.read_log().contains("unfinished tasks"), "{}", proxy.read_log());
    drop(tls);
}

// F-24, F-38, R-58.
#[test]
fn upgrade_of_a_lone_proxy_that_can_not_work_changes_nothing() {
    let beside = Beside::start();
    let Beside { proxy, program, .. } = &beside;
    let target = beside.target();
    let mut clients = [Kind::Text, Kind::Binary, Kind::Tls].map(|kind| target.log_in(kind, "key").unwrap());
    let child = beside.only_child();
    let mut refused = |reason: &str| {
        proxy.upgrade(REFUSED);
        let log = proxy.read_log();
        let line = log.lines().rfind(|line| line.contains(REFUSED)).unwrap();
        assert!(line.contains(reason), "{reason}: {line}");
        beside.goes_on_with(child, &mut clients);
    };
    let settings = proxy.settings_file();
    fs::write(&settings, "[proxy]\nconections = 77\n").unwrap();
    refused("unknown setting proxy.conections");
    fs::write(&settings, "[proxy]\nbuffer_mb = 5\n").unwrap();
    refused("proxy.buffer_mb");
    fs::write(&settings, "[store]\nurl = \"mysql://x\"\n").unwrap();
    refused("store.url");
    // Its section isn't the proxy's affair.
    fs::write(&settings, "[webui]\nendpoint = \"x\"\n").unwrap();
    proxy.upgrade("the program and the settings are those in use");
    program.replace_by(b"not a program");
    refused("can't take over");
    program.replace();
    fs::set_permissions(program.path(), Permissions::from_mode(0o777)).unwrap();
    refused("others may change it");
    fs::remove_file(program.path()).unwrap();
    refused("can't find the new program");
    // What works is done, with changed settings too.
    program.replace();
    fs::write(&settings, "[proxy]\nconnections = 777\n").unwrap();
    proxy.upgrade(UPGRADED);
    let metrics = get(proxy.health, "/metrics").unwrap();
    assert!(metrics.contains("memgate_proxy_connections_limit 777"));
    clients.iter_mut().for_each(|client| client.use_cache().unwrap());
    drop(clients);
    assert_ne!(beside.only_child(), child);
}

// F-38.
#[test]
fn lone_proxy_goes_on_if_the_new_one_dies() {
    let mut beside = Beside::start();
    for (number, variable, result) in [
        // The new program gives up, as it can't read its settings; then its proxy does, as it can't use the store.
        (1, "MEMGATE_STORE__NOSUCH=1", GAVE_UP),
        (2, "MEMGATE_STORE__URL=mysql://x", NOT_UPGRADED),
    ] {
        beside.program.replace();
        beside.proxy =
            LoneProxy::with_data(&beside.product, beside.program.path(), Place::new(number), |_| {});
        beside.proxy.wait_until_ready();
        let (target, child) = (beside.target(), beside.only_child());
        let mut clients =
            [Kind::Text, Kind::Binary, Kind::Tls].map(|kind| target.log_in(kind, "key").unwrap());
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *--check*) echo 9.9.9;; *) export {variable}; exec {MEMGATE} \"$@\";; esac\n"
        );
        beside.program.replace_by(script.as_bytes());
        beside.proxy.upgrade(result);
        beside.goes_on_with(child, &mut clients);
    }
}

// F-24: those who have started it see one process.
#[test]
fn lone_proxy_and_its_parent_end_together() {
    let mut beside = Beside::start();
    let child = beside.only_child();
    signal(child, "KILL");
    assert_eq!(beside.proxy.wait().code(), Some(128 + 9), "{}", beside.proxy.read_log());

    let Beside { program, product, .. } = &beside;
    let mut killed = LoneProxy::with_data(product, program.path(), Place::new(1), |_| {});
    killed.wait_until_ready();
    let children = killed.children();
    assert_eq!(children.len(), 1);
    killed.end("KILL");
    wait_until(deadline_in(10), "the proxy ends with its parent", || !children.iter().copied().any(is_alive));

    for name in ["INT", "TERM"] {
        let mut ended = LoneProxy::with_data(
            product,
            program.path(),
            Place::new(if name == "INT" { 2 } else { 3 }),
            |_| {},
        );
        ended.wait_until_ready();
        assert!(ended.end(name).success(), "{}", ended.read_log());
    }
    // A start that fails is told once, with its exit status.
    let mut failed = LoneProxy::with_data(product, program.path(), Place::new(4), |command| {
        command.env("MEMGATE_STORE__URL", "mysql://x");
    });
    assert_eq!(failed.wait().code(), Some(1));
    assert_eq!(failed.read_log().matches("error: ").count(), 1, "{}", failed.read_log());
}
