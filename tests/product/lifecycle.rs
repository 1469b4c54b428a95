//! Start, stop, restart and removal of a product; and two products on one machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::database::execute_sql;
use crate::harness::{
    Installation, Product, deadline_in, docker, is_root, remaining_resources, signal, wait_until,
};
use crate::text_client::TextClient;

#[test]
fn product_starts_stops_and_restarts() {
    let mut product = Product::start_at(Installation::with_sqlite());
    let web = format!("http://{}", product.web());
    let expected = [
        format!("web UI: {web}"),
        format!("endpoint: {}", product.endpoint()),
        "memgate is ready".to_owned(),
    ];
    let (first, last) = product.stdout_lines.split_first().unwrap();
    assert!(first.starts_with("TLS: let clients trust /") && first.contains("/ca.pem, "), "{first}");
    assert!(first.ends_with(&format!(", also at {web}/ca.pem")), "{first}");
    assert_eq!(last, expected, "stdout ends with these three lines");
    let next =
        format!("next: sign up at {web}, or run `memgate --data {} user add", product.data().display());
    wait_until(deadline_in(5), "the next step is on stderr", || product.read_log().contains(&next));
    let status = product.json(&["status"]);
    assert_eq!((&status["ready"], &status["docker"]["ready"]), (&true.into(), &true.into()));

    let again = product.run(&["up"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("already running"), "{again:?}");

    let ada = product.add_user("ada@example.org");
    assert_eq!(TextClient::log_in(product.endpoint(), &ada).set("kept", b"over the restart"), "STORED");
    let container = product.container(&ada.email);

    let stopped = product.interrupt();
    assert!(stopped < Duration::from_secs(5), "{stopped:?}");
    let states = docker(&["inspect", "--format", "{{.State.Running}}", &container]);
    assert_eq!(states, ["true"], "caches keep running");

    let started = Instant::now();
    product.restart();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let value = TextClient::log_in(product.endpoint(), &ada).get("kept").unwrap();
    assert_eq!(value.as_deref(), Some(b"over the restart".as_slice()));
    assert_eq!(product.container(&ada.email), container);

    let id = product.id();
    product.interrupt();
    let down = product.json(&["down"]);
    assert_eq!(down["containers"], 1);
    assert_eq!(remaining_resources(&id), [""; 0]);
    assert!(product.json(&["user", "show", "ada@example.org"])["id"].is_string(), "users are kept");

    product.restart();
    wait_until(deadline_in(30), "the cache is running again", || {
        product.json(&["instance", "show", "ada@example.org"])["state"] == "running"
    });
    assert_eq!(
        TextClient::log_in(product.endpoint(), &ada).get("kept"),
        Ok(None),
        "the new container is empty"
    );

    // `down` stops a running product first.
    product.json(&["down", "--purge"]);
    assert_eq!(remaining_resources(&id), [""; 0]);
    assert!(!product.data().exists());
    let nothing = product.json(&["down", "--purge"]);
    assert!(nothing["installation"].is_null());
}

#[test]
fn two_products_run_on_one_machine() {
    let (one, other) = (Product::start(), Product::start());
    assert_ne!(one.id(), other.id());
    // The same e-mail address in both: users, tokens and caches are independent.
    let (here, there) = (one.add_user("ada@example.org"), other.add_user("ada@example.org"));
    assert_eq!(TextClient::log_in(one.endpoint(), &here).set("where", b"here"), "STORED");
    assert_eq!(TextClient::log_in(other.endpoint(), &there).set("where", b"there"), "STORED");
    let login = format!("{} {}", here.username, here.password);
    let reply = TextClient::connect(other.endpoint()).set("auth", login.as_bytes());
    assert_eq!(reply, "CLIENT_ERROR authentication failure");

    let id = one.id();
    drop(one);
    assert_eq!(remaining_resources(&id), [""; 0]);
    let value = TextClient::log_in(other.endpoint(), &there).get("where").unwrap();
    assert_eq!(value.as_deref(), Some(b"there".as_slice()));
    assert_eq!(other.json(&["status"])["ready"], true);
}

// F-8.
#[test]
fn killed_role_is_restarted_within_a_second() {
    let product = Product::start();
    let ada = product.add_user("ada@example.org");
    for name in ["proxy", "webui", "provisioner"] {
        let killed = product.role(name).unwrap();
        signal(killed, "KILL");
        let is_restarted = || product.role(name).is_some_and(|pid| pid != killed);
        wait_until(deadline_in(1), name, is_restarted);
        wait_until(deadline_in(10), "everything is ready", || product.run(&["status"]).status.success());
    }
    assert_eq!(TextClient::log_in(product.endpoint(), &ada).set("a", b"b"), "STORED");
}

#[test]
fn roles_stop_when_the_supervisor_is_killed() {
    let installation = Installation::with_sqlite();
    let (mut up, _) = installation.up();
    let children = format!("/proc/{0}/task/{0}/children", up.id());
    let role_pids = || fs::read_to_string(&children).unwrap_or_default();
    let pids: Vec<String> = role_pids().split_whitespace().map(str::to_owned).collect();
    up.kill().unwrap();
    up.wait().unwrap();
    wait_until(deadline_in(30), "all roles have stopped", || {
        pids.iter().all(|pid| !fs::exists(format!("/proc/{pid}/fd/0")).unwrap_or(false))
    });
    let down = installation.run(&["down", "--purge"]);
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
}

/// Runs `up`, which must fail quickly, and returns its error line.
fn failed_start(installation: &Installation) -> String {
    let started = Instant::now();
    let output = installation.run(&["up"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(started.elapsed() < Duration::from_secs(20));
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "one error line: {stderr}");
    errors[0].to_owned()
}

#[test]
fn port_in_use_is_named_with_its_process() {
    let installation = Installation::with_sqlite();
    let _taken = std::net::TcpListener::bind(installation.endpoint()).unwrap();
    let message = failed_start(&installation);
    let owner = format!("process {}", std::process::id());
    for part in [&installation.endpoint().to_string(), "proxy.listen", &owner, "MEMGATE_PROXY__LISTEN"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!installation.data().exists(), "a start that failed leaves nothing behind");
}

#[test]
fn all_ports_in_use_are_named_at_once() {
    let installation = Installation::with_sqlite();
    let _taken =
        [installation.endpoint(), installation.web()].map(|it| std::net::TcpListener::bind(it).unwrap());
    let message = failed_start(&installation);
    for part in ["(proxy.listen) is in use", "(webui.listen) is in use", "MEMGATE_WEBUI__LISTEN"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn unreachable_docker_is_named() {
    let installation = Installation::with_sqlite();
    let output = installation
        .memgate(&["up"])
        .env("MEMGATE_PROVISIONER__DOCKER_SOCKET", "/nonexistent.sock")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("error: Docker doesn't answer"), "{stderr}");
    assert!(!installation.data().exists(), "a start that failed leaves nothing behind");
}

#[test]
fn database_of_a_newer_version_is_rejected() {
    let installation = Installation::with_sqlite();
    assert!(installation.run(&["migrate"]).status.success());
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (99990101, 'future', 1, x'00', 0)";
    execute_sql(&installation, newer);
    let message = failed_start(&installation);
    assert!(message.contains("newer memgate") && message.contains("install that version"), "{message}");
}

#[test]
fn full_disk_is_named() {
    if !is_root() {
        return;
    }
    let installation = Installation::with_sqlite();
    let disk = installation.dir().join("disk");
    fs::create_dir(&disk).unwrap();
    let mount = |size: &str| {
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", size, "tmpfs"])
            .arg(&disk)
            .status()
            .unwrap()
            .success()
    };
    assert!(mount("size=256k"));
    let output = installation.memgate(&["up", "--data"]).arg(disk.join("data")).output().unwrap();
    assert!(!disk.join("data").exists(), "a start that failed leaves nothing behind");
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("is full") && stderr.contains("free some space"), "{stderr}");
}

#[test]
fn directory_with_other_files_is_rejected() {
    let installation = Installation::with_sqlite();
    fs::create_dir(installation.data()).unwrap();
    fs::write(installation.data().join("thesis.txt"), "mine").unwrap();
    fs::set_permissions(installation.data(), fs::Permissions::from_mode(0o755)).unwrap();
    let message = failed_start(&installation);
    assert!(message.contains("contains no memgate data"), "{message}");
    assert_eq!(fs::metadata(installation.data()).unwrap().permissions().mode() & 0o7777, 0o755);
}
