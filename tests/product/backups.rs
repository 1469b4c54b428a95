//! Backups are made while the product works, and an installation is made of one again: the drill.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use testkit::Postgres;

use crate::harness::{Credentials, Installation, Product, deadline_in, docker, is_root, wait_until};
use crate::text_client::TextClient;

/// Stores and reads values until it is told to stop. Returns how often.
fn traffic(product: &Product, ada: &Credentials, stop: &AtomicBool) -> usize {
    let mut client = TextClient::log_in(product.endpoint(), ada);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let value = format!("value {count}");
        assert_eq!(client.set("steady", value.as_bytes()), "STORED");
        assert_eq!(client.get("steady"), Ok(Some(value.into_bytes())));
        count += 1;
    }
    count
}

/// Makes a backup under traffic. Returns its file.
fn back_up(product: &Product, ada: &Credentials) -> PathBuf {
    let folder = product.dir().join("backups");
    let stop = AtomicBool::new(false);
    let made = std::thread::scope(|scope| {
        let client = scope.spawn(|| traffic(product, ada, &stop));
        let folder = folder.to_str().unwrap();
        let made: Vec<_> =
            (0..3).map(|_| product.json(&["backup", "--folder", folder, "--keep", "2"])).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(client.join().unwrap() > 0);
        made
    });
    assert_eq!(made[2]["removed"].as_array().unwrap().len(), 1, "the oldest of three goes");
    let file = PathBuf::from(made[2]["file"].as_str().unwrap());
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let names: Vec<_> = fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names.len(), 2, "no drafts: {names:?}");
    file
}

/// A browser of a user who has signed in.
struct Browser {
    jar: PathBuf,
}

impl Browser {
    fn sign_in(product: &Product, email: &str) -> Self {
        let browser = Self { jar: product.dir().join("cookies") };
        let reset = product.json(&["user", "reset-password", email]);
        let password = reset["password"].as_str().unwrap();
        product.register_secret(password);
        let (email, password) = (format!("email={email}"), format!("password={password}"));
        // A busy web UI asks to try again.
        wait_until(deadline_in(60), "the user signs in", || {
            let page = browser.curl(product, "/sign-in", &[]);
            let Some((_, token)) = page.split_once("name=\"csrf_token\" value=\"") else { return false };
            let token = format!("csrf_token={}", token.split('"').next().unwrap());
            let fields = [&token, &email, &password].map(|field| ["--data-urlencode", field.as_str()]);
            browser.curl(product, "/sign-in", fields.as_flattened());
            browser.account(product) == "200 "
        });
        browser
    }

    /// The status of the page of the account, and where it redirects to.
    fn account(&self, product: &Product) -> String {
        let written = ["--output", "/dev/null", "--write-out", "%{http_code} %{redirect_url}"];
        self.curl(product, "/account", &written)
    }

    fn curl(&self, product: &Product, path: &str, options: &[&str]) -> String {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--cookie"]).arg(&self.jar).arg("--cookie-jar").arg(&self.jar);
        let output = curl.args(options).arg(format!("http://{}{path}", product.web())).output().unwrap();
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A restore that is refused halfway, because the database isn't empty, leaves nothing that keeps the next one from working.
fn refuse(restored: &Installation, backup: &Path, server: &Postgres) {
    Postgres::query(&server.url(), "CREATE TABLE users (id TEXT)");
    let refused = restored.run(&["restore", backup.to_str().unwrap()]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && error.contains("pg_restore failed"), "{error}");
    assert!(!restored.data().exists(), "no keys stay");
    Postgres::query(&server.url(), "DROP TABLE users");
}

/// What a role leaves in the database that runs code of an attacker: a function, a table whose check calls it, an operator. Each
/// is made by the web UI's user where everybody may create something, as in PostgreSQL 14. Also what breaks whole dumps.
fn attack_database(product: &Product, database: &str) {
    let address = fs::read_to_string(product.data().join("store-webui.env")).unwrap();
    let address = address.trim().split_once('=').unwrap().1.to_owned();
    Postgres::query(database, "GRANT CREATE ON SCHEMA public TO PUBLIC");
    for sql in [
        "CREATE FUNCTION public.evil(id BIGINT) RETURNS BOOLEAN LANGUAGE plpgsql AS \
         $$ BEGIN EXECUTE 'CREATE ROLE evil SUPERUSER'; RETURN TRUE; EXCEPTION WHEN OTHERS THEN RETURN TRUE; END $$",
        "CREATE TABLE public.evil (id BIGINT CHECK (public.evil(id)))",
        "INSERT INTO public.evil VALUES (1)",
        "SELECT lo_create(0)",
    ] {
        Postgres::query(&address, sql);
    }
    Postgres::query(database, "REVOKE CREATE ON SCHEMA public FROM PUBLIC");
}

/// Restores a backup of `product`, which is gone, into an installation that works on.
fn drill(mut product: Product, mut restored: Installation, new_server: Option<&Postgres>) {
    restored.share_subnets(&product);
    let ada = product.add_user("ada@example.org");
    let browser = Browser::sign_in(&product, &ada.email);
    let revoked = product.credentials(&["token", "create", &ada.email, "--name", "revoked before"]);
    product.json(&["token", "revoke", &revoked.username]);
    let file = back_up(&product, &ada);
    let id = product.id();
    let again = product.run(&["backup", file.to_str().unwrap()]);
    let error = String::from_utf8(again.stderr).unwrap();
    assert!(error.contains("exists already"), "{error}");
    let refused = product.run(&["restore", file.to_str().unwrap()]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("an installation already"), "{error}");
    product.interrupt();
    // The machine is lost: only the backup is left.
    let containers = docker(&["ps", "-aq", "--filter", &format!("label=memgate={id}")]);
    assert!(!containers.is_empty());
    let down = product.run(&["down"]);
    assert!(down.status.success());
    let kept = restored.dir().join("kept.tar");
    fs::copy(&file, &kept).unwrap();
    let jar = restored.dir().join("cookies");
    fs::copy(&browser.jar, &jar).unwrap();
    drop(product);
    if let Some(server) = new_server {
        refuse(&restored, &kept, server);
    }

    let made = restored.json(&["restore", kept.to_str().unwrap()]);
    assert_eq!(made["installation"], id.as_str());
    let mut restored = Product::start_at(restored);
    wait_until(deadline_in(60), "everything is ready", || restored.run(&["status"]).status.success());
    assert_eq!(restored.id(), id);
    wait_until(deadline_in(60), "the cache is made again, and its token works", || {
        TextClient::try_log_in(restored.endpoint(), &ada).is_some()
    });
    wait_until(deadline_in(60), "everything is ready", || restored.run(&["status"]).status.success());
    assert_eq!(restored.id(), id);
    assert!(TextClient::try_log_in(restored.endpoint(), &revoked).is_none());
    let mut client = TextClient::log_in(restored.endpoint(), &ada);
    assert_eq!(client.set("key", b"value"), "STORED");
    assert!(restored.run(&["audit", "verify"]).status.success());
    let log = restored.json(&["audit", "list"]).to_string();
    assert!(log.contains("installation.restore"), "{log}");
    // who was signed in signs in again.
    let account = Browser { jar }.account(&restored);
    assert!(account.starts_with("303 ") && account.contains("/sign-in"), "{account}");
    restored.add_user("grace@example.org");
    assert_eq!(restored.data().join("db").exists(), new_server.is_none());
    // The harness ends an installation by where its store is.
    if let Some(server) = new_server {
        restored.use_postgres(server.url());
    }
    drop(restored);
}

#[test]
fn backup_of_sqlite_makes_the_installation_again() {
    if !is_root() {
        return;
    }
    drill(Product::start_at(Installation::with_sqlite()), Installation::with_sqlite(), None);
}

#[test]
fn backup_of_postgresql_makes_the_installation_again() {
    if !is_root() {
        return;
    }
    let (old, new) = (Postgres::start(), Postgres::start());
    let installation = Installation::with_postgres(old.url());
    installation.json(&["migrate", "--roles"]);
    // The restored installation knows its database from the backup alone.
    let settings = format!("[store]\nurl = \"{}\"\n", new.url());
    fs::write(installation.data().join("memgate.toml"), settings).unwrap();
    let product = Product::start_at(installation);
    //
    attack_database(&product, &old.url());
    drill(product, Installation::with_sqlite(), Some(&new));
    let count = |sql: &str| Postgres::query(&new.url(), sql)[0].clone();
    assert_eq!(count("SELECT COUNT(*) FROM pg_roles WHERE rolname = 'evil'"), "0");
    assert_eq!(count("SELECT COUNT(*) FROM pg_class WHERE relname = 'evil'"), "0");
    assert_eq!(count("SELECT COUNT(*) FROM pg_proc WHERE proname = 'evil'"), "0");
}

#[test]
fn restore_replaces_no_database_and_keeps_what_was_there() {
    let old = Installation::with_sqlite();
    assert!(old.run(&["migrate"]).status.success());
    let file = old.dir().join("file.tar");
    assert!(old.run(&["backup", file.to_str().unwrap()]).status.success());
    let new = Installation::with_sqlite();
    fs::create_dir_all(new.data().join("db")).unwrap();
    let database = new.data().join("db/memgate.db");
    fs::write(&database, b"somebody's").unwrap();
    fs::write(new.data().join("memgate.toml"), "[log]\n").unwrap();
    let refused = new.run(&["restore", file.to_str().unwrap()]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && error.contains("a database already"), "{error}");
    assert_eq!(fs::read(&database).unwrap(), b"somebody's");
    let mut names: Vec<_> = fs::read_dir(new.data()).unwrap().flatten().map(|it| it.file_name()).collect();
    names.sort();
    assert_eq!(names, ["db", "memgate.toml"]);
    fs::remove_file(&database).unwrap();
    assert!(new.run(&["restore", file.to_str().unwrap()]).status.success());
    assert_eq!(fs::read_to_string(new.data().join("memgate.toml")).unwrap(), "[log]\n");
}

// what isn't this installation's database is no backup of it.
#[test]
fn database_of_another_installation_is_not_backed_up() {
    if !is_root() {
        return;
    }
    let (own, other) = (Postgres::start(), Postgres::start());
    let installation = Installation::with_postgres(own.url());
    installation.json(&["migrate"]);
    Installation::with_postgres(other.url()).json(&["migrate"]);
    let file = installation.dir().join("backup.tar");
    let of_other = format!("store.url={}", other.url());
    let refused = installation.run(&["backup", file.to_str().unwrap(), "--set", &of_other]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && error.contains("installation"), "{error}");
    assert!(!file.exists());
    assert!(installation.run(&["backup", file.to_str().unwrap()]).status.success());
}

//
#[test]
fn file_that_others_may_have_written_is_not_restored() {
    if !is_root() {
        return;
    }
    let installation = Installation::with_sqlite();
    let file = installation.dir().join("file.tar");
    fs::write(&file, "").unwrap();
    let refused = |why: &str| {
        let refused = installation.run(&["restore", file.to_str().unwrap()]);
        let error = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && error.contains(why), "{error}");
    };
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    refused("can be changed by other users");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&file, Some(65_534), None).unwrap();
    refused("belongs to user 65534");
    std::os::unix::fs::chown(&file, Some(0), None).unwrap();
    refused("no backup of memgate");
}

// what `memgate restore` does by itself.
#[test]
fn database_that_was_restored_by_other_means_has_its_sessions_ended() {
    let installation = Installation::with_sqlite();
    installation.json(&["migrate"]);
    let restored = |log: serde_json::Value| log.to_string().contains("installation.restore");
    assert!(!restored(installation.json(&["audit", "list"])));
    installation.json(&["migrate", "--restored"]);
    assert!(restored(installation.json(&["audit", "list"])));
}

#[test]
fn file_that_is_no_backup_leaves_nothing_behind() {
    let installation = Installation::with_sqlite();
    let file = installation.dir().join("file.tar");
    for content in [&b""[..], b"no archive", &[0; 10_240]] {
        fs::write(&file, content).unwrap();
        let refused = installation.run(&["restore", file.to_str().unwrap()]);
        let error = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && error.contains("no backup of memgate"), "{error}");
        assert!(!installation.data().exists());
    }
}
