//! Start, stop, start again, take away; and two products side by side.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Place, Product, docker, is_root, left_of, signal, wait_until, within};
use crate::text::Text;

#[test]
fn up_down_and_up_again() {
    let mut product = Product::start();
    let web = format!("http://{}", product.web());
    let expected = [web, product.endpoint().to_string(), "memgate is ready".to_owned()];
    let (first, last) = product.announced.split_first().unwrap();
    assert!(first.starts_with("TLS: let clients trust /") && first.contains("/ca.pem "), "{first}");
    assert_eq!(last, expected, "stdout ends in these three lines");
    let status = product.json(&["status"]);
    assert_eq!((&status["ready"], &status["docker"]["ready"]), (&true.into(), &true.into()));

    let again = product.run(&["up"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("running already"), "{again:?}");

    let ada = product.add_user("ada@example.org");
    assert_eq!(Text::log_in(product.endpoint(), &ada).set("kept", b"over the restart"), "STORED");
    let container = product.container(&ada.email);

    let stopped = product.interrupt();
    assert!(stopped < Duration::from_secs(5), "{stopped:?}");
    let states = docker(&["inspect", "--format", "{{.State.Running}}", &container]);
    assert_eq!(states, ["true"], "caches keep running");

    let began = Instant::now();
    product.start_again();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let value = Text::log_in(product.endpoint(), &ada).get("kept").unwrap();
    assert_eq!(value.as_deref(), Some(b"over the restart".as_slice()));
    assert_eq!(product.container(&ada.email), container);

    let id = product.id();
    product.interrupt();
    let down = product.json(&["down"]);
    assert_eq!(down["containers"], 1);
    assert_eq!(left_of(&id), [""; 0]);
    assert!(product.json(&["user", "show", "ada@example.org"])["id"].is_string(), "accounts are kept");

    product.start_again();
    wait_until(within(30), "the cache is back", || {
        product.json(&["instance", "show", "ada@example.org"])["state"] == "running"
    });
    assert_eq!(Text::log_in(product.endpoint(), &ada).get("kept"), Ok(None), "back, and empty");

    // While it runs: `down` stops it first.
    product.json(&["down", "--purge"]);
    assert_eq!(left_of(&id), [""; 0]);
    assert!(!product.data().exists());
    let nothing = product.json(&["down", "--purge"]);
    assert!(nothing["installation"].is_null());
}

#[test]
fn two_products_beside_each_other() {
    let (one, other) = (Product::start(), Product::start());
    assert_ne!(one.id(), other.id());
    // The same person in both: accounts, tokens and caches have nothing in common.
    let (here, there) = (one.add_user("ada@example.org"), other.add_user("ada@example.org"));
    assert_eq!(Text::log_in(one.endpoint(), &here).set("where", b"here"), "STORED");
    assert_eq!(Text::log_in(other.endpoint(), &there).set("where", b"there"), "STORED");
    let login = format!("{} {}", here.username, here.password);
    let refused = Text::connect(other.endpoint()).set("auth", login.as_bytes());
    assert_eq!(refused, "CLIENT_ERROR authentication failure");

    let id = one.id();
    drop(one);
    assert_eq!(left_of(&id), [""; 0]);
    let value = Text::log_in(other.endpoint(), &there).get("where").unwrap();
    assert_eq!(value.as_deref(), Some(b"there".as_slice()));
    assert_eq!(other.json(&["status"])["ready"], true);
}

#[test]
fn a_role_that_ends_is_back_within_a_second() {
    let product = Product::start();
    let ada = product.add_user("ada@example.org");
    for name in ["proxy", "webui", "provisioner"] {
        let killed = product.role(name).unwrap();
        signal(killed, "KILL");
        let back = || product.role(name).is_some_and(|pid| pid != killed);
        wait_until(within(1), name, back);
        wait_until(within(10), "all is ready", || product.run(&["status"]).status.success());
    }
    assert_eq!(Text::log_in(product.endpoint(), &ada).set("a", b"b"), "STORED");
}

#[test]
fn roles_end_with_a_supervisor_that_is_killed() {
    let place = Place::new();
    let (mut up, _) = place.up();
    let children = format!("/proc/{0}/task/{0}/children", up.id());
    let role_pids = || fs::read_to_string(&children).unwrap_or_default();
    let pids: Vec<String> = role_pids().split_whitespace().map(str::to_owned).collect();
    up.kill().unwrap();
    up.wait().unwrap();
    wait_until(within(30), "no role is left", || {
        pids.iter().all(|pid| !fs::exists(format!("/proc/{pid}/fd/0")).unwrap_or(false))
    });
    let down = place.run(&["down", "--purge"]);
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
}

/// Runs `up`, which must fail at once, and gives its message.
fn refused(place: &Place) -> String {
    let began = Instant::now();
    let output = place.run(&["up"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(began.elapsed() < Duration::from_secs(20));
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "one line says it: {stderr}");
    errors[0].to_owned()
}

#[test]
fn a_port_in_use_is_named_with_its_owner() {
    let place = Place::new();
    let _taken = std::net::TcpListener::bind(place.endpoint()).unwrap();
    let message = refused(&place);
    let owner = format!("process {}", std::process::id());
    for part in [&place.endpoint().to_string(), "proxy.listen", &owner, "MEMGATE_PROXY__LISTEN"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn an_engine_that_is_away_is_named() {
    let place = Place::new();
    let output = place
        .memgate(&["up"])
        .env("MEMGATE_PROVISIONER__DOCKER_SOCKET", "/nonexistent.sock")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("error: Docker doesn't answer"), "{stderr}");
}

#[test]
fn a_database_from_a_newer_version_is_refused() {
    let place = Place::new();
    assert!(place.run(&["migrate"]).status.success());
    let newer = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); \
                 db.execute(\"INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (99990101, 'of the future', 1, x'00', 0)\"); db.commit()";
    let database = place.data().join("memgate.db");
    assert!(Command::new("python3").args(["-c", newer]).arg(database).status().unwrap().success());
    let message = refused(&place);
    assert!(message.contains("newer memgate") && message.contains("install that version"), "{message}");
}

#[test]
fn a_full_disk_is_named() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let disk = place.folder().join("disk");
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
    let output = place.memgate(&["up", "--data"]).arg(disk.join("data")).output().unwrap();
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("is full") && stderr.contains("free some space"), "{stderr}");
}

#[test]
fn a_folder_of_other_things_is_refused() {
    let place = Place::new();
    fs::create_dir(place.data()).unwrap();
    fs::write(place.data().join("thesis.txt"), "mine").unwrap();
    fs::set_permissions(place.data(), fs::Permissions::from_mode(0o755)).unwrap();
    let message = refused(&place);
    assert!(message.contains("holds no memgate data"), "{message}");
    assert_eq!(fs::metadata(place.data()).unwrap().permissions().mode() & 0o7777, 0o755);
}
