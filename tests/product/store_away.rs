//! The store can't be used while caches need repair: its disk is really full, or PostgreSQL is gone. Callers see no more of it
//! than of the container's end, and status says what is wrong.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::Postgres;

use crate::database::query_sql;
use crate::harness::{Credentials, Installation, Product, deadline_in, docker, is_root, wait_until};
use crate::supervision::status;
use crate::text_client::TextClient;

const UNAVAILABLE: [&str; 2] = ["SERVER_ERROR backend unavailable", "SERVER_ERROR backend timed out"];
/// F-1's 10 s for a removed container, a second until the store counts as away, and one for a busy machine.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(12);

/// A file system of 24 MB, mounted until this is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        fs::create_dir(at).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=24m,mode=0711", "tmpfs"];
        assert!(Command::new("mount").args(options).arg(at).status().unwrap().success());
        Self(at.to_owned())
    }

    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Sets a value until it is stored again after errors, or no error comes. Every reply is checked.
fn until_stored(client: &mut TextClient, hit: impl FnOnce()) {
    hit();
    let (started, mut errors) = (Instant::now(), 0);
    loop {
        assert!(started.elapsed() < REPAIR_TIMEOUT, "not repaired after {errors} errors");
        match client.set("steady", b"value").as_str() {
            "STORED" if errors > 0 || started.elapsed() > Duration::from_secs(3) => break,
            "STORED" => {}
            reply if UNAVAILABLE.contains(&reply) => errors += 1,
            other => panic!("{other}"),
        }
    }
    println!("stored again after {:?} and {errors} errors", started.elapsed());
}

/// Kills, removes and pauses a container, each time while the store can't be used.
fn hit_in_each_way(client: &mut TextClient, name: &str) {
    until_stored(client, || drop(docker(&["kill", name])));
    until_stored(client, || drop(docker(&["rm", "-f", name])));
    assert_eq!(client.set("kept", b"value"), "STORED");
    until_stored(client, || drop(docker(&["pause", name])));
    assert_eq!(client.get("kept"), Ok(Some(b"value".to_vec())), "a paused container keeps its contents");
}

/// The name of a cache's container, which stays the same when it is made again.
fn container_name(instance: &serde_json::Value) -> String {
    docker(&["inspect", "-f", "{{.Name}}", instance["container"].as_str().unwrap()])[0]
        .trim_start_matches('/')
        .to_owned()
}

fn instance(product: &Product, user: &Credentials) -> serde_json::Value {
    product.json(&["instance", "show", &user.email])
}

// F-6, F-20, F-34.
#[test]
fn full_disk_is_reported_and_dead_containers_are_repaired() {
    if !is_root() {
        return;
    }
    let installation = Installation::with_sqlite();
    let disk = SmallDisk::mount(&installation.data());
    let product = Product::start_at(installation);
    let ada = product.add_user("ada@example.org");
    let mut client = TextClient::log_in(product.endpoint(), &ada);
    let before = instance(&product, &ada);
    disk.fill();
    let refused = product.run(&["token", "create", &ada.email, "--name", "refused", "--json"]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(1) && refused.stdout.is_empty() && words.contains("full"),
        "{words}"
    );
    // The proxy writes all the time, and so knows it first.
    wait_until(deadline_in(30), "status reports it", || {
        let status = status(&product);
        let proxy = &status["roles"]["proxy"];
        let message = proxy["message"].as_str().unwrap_or_default();
        status["ready"] == false && proxy["ready"] == false && message.contains("the disk is full")
    });
    hit_in_each_way(&mut client, &container_name(&before));
    disk.free();
    wait_until(deadline_in(30), "everything is ready", || product.run(&["status"]).status.success());
    assert_eq!(
        instance(&product, &ada)["generation"],
        before["generation"],
        "the recorded route stays right"
    );
    product.credentials(&["token", "create", &ada.email, "--name", "again"]);
    let tokens = product.json(&["token", "list", &ada.email]).to_string();
    assert!(tokens.contains("again") && !tokens.contains("refused"), "{tokens}");
    assert_eq!(query_sql(&product, "PRAGMA integrity_check"), ["ok"]);
    drop(product);
    drop(disk);
}

// F-4, F-26, F-34.
#[test]
fn containers_are_repaired_while_postgresql_is_away() {
    if !is_root() {
        return;
    }
    let mut postgres = Postgres::start();
    let product = Product::start_at(Installation::with_postgres(postgres.url()));
    let ada = product.add_user("ada@example.org");
    let mut client = TextClient::log_in(product.endpoint(), &ada);
    let before = instance(&product, &ada);
    let name = container_name(&before);
    postgres.kill();
    hit_in_each_way(&mut client, &name);
    let reported = status(&product);
    assert_eq!((&reported["ready"], &reported["store"]["ready"]), (&false.into(), &false.into()));
    postgres.start_again();
    wait_until(deadline_in(60), "everything is ready", || product.run(&["status"]).status.success());
    let after = instance(&product, &ada);
    assert_eq!((&after["generation"], &after["state"]), (&before["generation"], &"running".into()));
    drop(product);
}
