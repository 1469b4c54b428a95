//! The roles' users of a PostgreSQL database: what `memgate migrate --roles` leaves behind when it fails, and repairs when it is
//! run again.

use std::fs;

use testkit::Postgres;

use crate::harness::{Installation, Product, is_root};

/// A database whose owner may not create users. Returns its URL.
fn create_plain_database(server: &Postgres) -> String {
    Postgres::query(&server.url(), "CREATE ROLE plain LOGIN PASSWORD 'plain'");
    Postgres::query(&server.url(), "CREATE DATABASE plain OWNER plain");
    let url = server.url().replace("postgres://postgres@", "postgres://plain:plain@");
    url.strip_suffix("/postgres").unwrap().to_owned() + "/plain"
}

fn refused(installation: &Installation, arguments: &[&str]) -> String {
    let output = installation.run(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_user_who_may_create_no_others_is_refused_and_memgate_starts_afterwards() {
    if !is_root() {
        return;
    }
    let server = Postgres::start();
    let installation = Installation::with_postgres(create_plain_database(&server));
    let error = refused(&installation, &["migrate", "--roles"]);
    assert!(error.contains("CREATEROLE"), "{error}");
    let names: Vec<_> =
        fs::read_dir(installation.data()).unwrap().flatten().map(|it| it.file_name()).collect();
    assert!(names.iter().all(|it| !it.to_string_lossy().starts_with("store-")), "{names:?}");
    let product = Product::start_at(installation);
    product.add_user("ada@example.org");
    drop(product);
}

#[test]
fn nothing_is_copied_to_postgresql_if_the_roles_users_can_not_be_created() {
    if !is_root() {
        return;
    }
    let server = Postgres::start();
    let url = create_plain_database(&server);
    let installation = Installation::with_sqlite();
    assert!(installation.run(&["migrate"]).status.success());
    let file = installation.data().join("db/memgate.db");
    let from = format!("sqlite:{}", file.display());
    let run = |arguments: &[&str]| {
        installation.memgate(arguments).env("MEMGATE_STORE__URL", &url).output().unwrap()
    };
    let output = run(&["migrate", "--from", &from, "--roles"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("CREATEROLE"), "{error}");
    assert!(file.exists());
    assert_eq!(Postgres::query(&url, "SELECT COUNT(*) FROM installation"), ["0"]);
    assert!(run(&["migrate", "--from", &from]).status.success());
    assert!(!file.exists());
}

#[test]
fn files_follow_the_database_and_the_passwords_that_it_has() {
    if !is_root() {
        return;
    }
    let server = Postgres::start();
    let installation = Installation::with_postgres(server.url());
    installation.json(&["migrate", "--roles"]);
    let file = installation.data().join("store-proxy.env");
    let first = fs::read_to_string(&file).unwrap();
    // Another address keeps the password.
    let other = format!("{}?sslmode=disable", server.url());
    let moved = installation.memgate(&["migrate"]).env("MEMGATE_STORE__URL", &other).output().unwrap();
    assert!(moved.status.success());
    assert_eq!(fs::read_to_string(&file).unwrap(), first.trim_end().to_owned() + "?sslmode=disable\n");
    // A run that ended halfway: the database may have either password.
    let draft = installation.data().join("store-proxy.env.new");
    fs::write(&draft, "").unwrap();
    installation.json(&["migrate"]);
    let second = fs::read_to_string(&file).unwrap();
    assert!(!draft.exists() && second != first);
    let url = second.trim_end().strip_prefix("MEMGATE_STORE__URL=").unwrap();
    assert_eq!(Postgres::query(url, "SELECT 1"), ["1"]);
    // Files of a database that isn't used any more stop nothing.
    let sqlite = Installation::with_sqlite();
    assert!(sqlite.run(&["migrate"]).status.success());
    fs::copy(&file, sqlite.data().join("store-proxy.env")).unwrap();
    assert!(sqlite.run(&["migrate"]).status.success());
}
