//! An operator upgrades memgate while applications use it: nobody notices. What can't work changes nothing.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use crate::checking_clients::{Kind, Load, Target};
use crate::harness::{Installation, MEMGATE, Product, deadline_in, is_root, signal, wait_until};
use crate::health::get;
use crate::installed_program::InstalledProgram;

fn start(change: impl FnOnce(&mut Command)) -> (Product, InstalledProgram) {
    let installation = Installation::new();
    let program = InstalledProgram::install(&installation);
    let mut up = installation.command(program.path(), &["up"]);
    change(&mut up);
    let log = File::create(installation.log()).unwrap();
    let started = installation.up_with(up.stderr(log));
    (Product::running(installation, started), program)
}

fn upgrade(product: &Product) -> Output {
    product.run(&["upgrade", "--json"])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Upgrades `count` times while `clients` use a cache, and others log in all the time. Prints how long requests took meanwhile.
fn upgrade_under_load(clients: usize, count: usize) {
    let (product, program) = start(|up| {
        up.env("MEMGATE_PROXY__HOLD", "10");
    });
    let ada = product.add_user("ada@example.org");
    product.json(&["plan", "update", "default", "--connections", "4000"]);
    let (target, supervisor) = (Target::new(&product, product.endpoint(), &ada), product.supervisor());
    let (load, mut upgrades) = (Load::new(&target), Vec::new());
    let times = load.run(clients, || {
        for _ in 0..count {
            program.replace();
            let output = upgrade(&product);
            assert!(output.status.success(), "{}", text(&output.stderr));
            upgrades.push(text(&output.stdout).trim().to_owned());
            load.wait_for_progress();
        }
    });
    println!("{clients} clients, {count} upgrades: {}; {upgrades:?}", load.summary(&times));
    assert_eq!(product.supervisor(), supervisor);
    for (role, pid) in product.roles().into_iter().rev().take(3) {
        assert!(program.is_that_of(pid), "the {role} is the new program");
    }
    // No client is left: old proxies end by themselves.
    wait_until(deadline_in(30), "three roles are left", || product.roles().len() == 3);
    assert_eq!(product.json(&["status"])["ready"], true);
}

// F-38.
#[test]
fn applications_notice_nothing_of_upgrades() {
    upgrade_under_load(60, 3);
}

/// `./deploy/measure upgrades`
#[test]
#[ignore = "takes minutes: ten upgrades with 2,000 clients"]
fn two_thousand_clients_notice_nothing_of_ten_upgrades() {
    upgrade_under_load(2000, 10);
}

// F-38, R-58.
#[test]
fn an_upgrade_that_can_not_work_changes_nothing() {
    let (product, program) = start(|_| {});
    let ada = product.add_user("ada@example.org");
    let target = Target::new(&product, product.endpoint(), &ada);
    let mut client = target.log_in(Kind::Text, "key").unwrap();
    let before = product.roles();
    let mut refused = |reason: &str| {
        let output = upgrade(&product);
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains(reason), "{reason}: {error}");
        client.use_cache().unwrap();
        assert_eq!(product.roles(), before, "{reason}");
    };
    // A mistake in the settings.
    let settings = product.data().join("memgate.toml");
    fs::write(&settings, "[proxy]\nconections = 77\n").unwrap();
    refused("unknown setting proxy.conections");
    fs::write(&settings, "[webui]\nplan = \"nosuch\"\n").unwrap();
    refused("there is no such plan");
    fs::remove_file(&settings).unwrap();
    // A program that isn't one, or that others may change.
    program.replace_by(b"not a program");
    refused("can't take over");
    program.replace();
    fs::set_permissions(program.path(), Permissions::from_mode(0o777)).unwrap();
    refused("others may change it");
    fs::remove_file(program.path()).unwrap();
    refused("can't find the new program");
    program.replace();
    // A role that runs alone and a user without rights can't be asked.
    if is_root() {
        let mut command = product.memgate(&["upgrade"]);
        let output = std::os::unix::process::CommandExt::uid(&mut command, 65534).output().unwrap();
        assert!(!output.status.success(), "{}", text(&output.stdout));
    }
    assert!(upgrade(&product).status.success());
    client.use_cache().unwrap();
    assert!(program.is_that_of(product.supervisor()));
}

// F-38: the program before goes on if the new one gives up after the check.
#[test]
fn the_program_before_goes_on_if_the_new_one_gives_up() {
    let (product, program) = start(|_| {});
    let ada = product.add_user("ada@example.org");
    let target = Target::new(&product, product.endpoint(), &ada);
    let mut client = target.log_in(Kind::Text, "key").unwrap();
    let before = product.roles();
    // Nor could the program before work with the settings that the new one finds.
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--check*) echo 9.9.9;; *) export MEMGATE_STORE__NOSUCH=1; exec {MEMGATE} \"$@\";; esac\n"
    );
    program.replace_by(script.as_bytes());
    let output = upgrade(&product);
    assert!(!output.status.success(), "{}", text(&output.stdout));
    client.use_cache().unwrap();
    assert_eq!(product.roles(), before);
    signal(product.role("webui").unwrap(), "TERM");
    let is_back = || product.role("webui").is_some_and(|pid| before.iter().all(|(_, old)| *old != pid));
    wait_until(deadline_in(20), "the web UI is started again", is_back);
}

// F-24, F-38.
#[test]
fn sighup_hands_over_to_changed_settings() {
    let (product, _program) = start(|_| {});
    let ada = product.add_user("ada@example.org");
    let target = Target::new(&product, product.endpoint(), &ada);
    let mut client = target.log_in(Kind::Text, "key").unwrap();
    let before = product.roles();
    fs::write(product.data().join("memgate.toml"), "[proxy]\nconnections = 777\n").unwrap();
    signal(product.supervisor(), "HUP");
    wait_until(deadline_in(60), "the settings are in use", || {
        get(product.role_health("proxy"), "/metrics")
            .is_some_and(|metrics| metrics.contains("memgate_proxy_connections_limit 777"))
    });
    client.use_cache().unwrap();
    wait_until(deadline_in(60), "all roles are replaced", || {
        let now = product.roles();
        now.len() == 3 && now.iter().all(|role| !before.contains(role))
    });
    client.use_cache().unwrap();
}
