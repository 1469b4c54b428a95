//! A clock that differs from the store's: a little is warned of, much is refused.

use std::fs::File;

use testkit::Postgres;

use crate::harness::{Installation, Product, is_root};

/// Lets the database tell another time from now on.
fn move_clock(url: &str, seconds: i32) {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE STRICT AS \
         $$SELECT pg_catalog.statement_timestamp() + {seconds} * interval '1 s'$$"
    );
    Postgres::query(url, &sql);
}

#[test]
fn roles_that_judge_expiry_refuse_a_clock_that_is_far_off() {
    if !is_root() {
        return;
    }
    let postgres = Postgres::start();
    let installation = Installation::with_postgres(postgres.url());
    assert!(installation.run(&["migrate"]).status.success());
    move_clock(&postgres.url(), 40);
    for command in ["up", "proxy", "webui"] {
        let output = installation.run(&[command]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{command}");
        for part in ["s behind the store's", "timedatectl set-ntp true"] {
            assert!(said.contains(part), "{command}: {said}");
        }
    }
    let output = installation.run(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let is_clock = |check: &&serde_json::Value| check["check"] == "clock" && check["outcome"] == "problem";
    assert!(report["checks"].as_array().unwrap().iter().any(|check| is_clock(&check)), "{report}");

    move_clock(&postgres.url(), -5);
    let log = File::create(installation.log()).unwrap();
    let mut up = installation.memgate(&["up"]);
    let started = installation.up_with(up.stderr(log));
    let product = Product::running(installation, started);
    assert!(product.read_log().contains("s ahead of the store's"), "{}", product.read_log());
}
