//! A store that is locked, lost, of another version, or of other keys: what commands and roles say, and that they change
//! nothing.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{failure, migrated};
use crate::database::execute_sql;
use crate::harness::{Installation, deadline_in, docker, wait_until};

/// Commands and roles that use the store.
const ROLES: [&str; 3] = ["proxy", "provisioner", "webui"];
/// More than a command takes, and less than it waits for a lock.
const AT_ONCE: Duration = Duration::from_secs(4);

fn database(installation: &Installation) -> PathBuf {
    installation.data().join("db/memgate.db")
}

/// All files of the data directory and their contents.
fn contents(installation: &Installation) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for folder in [installation.data(), installation.data().join("db")] {
        let paths = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
        let paths = paths.filter(|path| path.is_file() && !path.ends_with("memgate.db-shm"));
        files.extend(paths.map(|path| (path.clone(), fs::read(&path).unwrap())));
    }
    files.sort();
    files
}

/// Another program that has begun to write. It ends when its stdin closes.
struct Writer(Child);

impl Writer {
    fn start(installation: &Installation) -> Self {
        let program = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None); \
                       db.execute('BEGIN IMMEDIATE'); print('locked', flush=True); sys.stdin.read()";
        let mut command = Command::new("python3");
        command.args(["-c", program]).arg(database(installation));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "locked");
        Self(child)
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

// F-17.
#[test]
fn locked_database_is_read_at_once_and_writers_say_that_they_wait() {
    let installation = migrated();
    installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let writer = Writer::start(&installation);
    for arguments in [
        ["user", "list"].as_slice(),
        &["user", "show", "ada@example.org"],
        &["token", "list", "ada@example.org"],
        &["cache", "list", "ada@example.org"],
        &["instance", "list"],
        &["plan", "list"],
        &["audit", "verify"],
    ] {
        let started = Instant::now();
        installation.json(arguments);
        assert!(started.elapsed() < AT_ONCE, "{arguments:?}: {:?}", started.elapsed());
    }
    let started = Instant::now();
    let status = installation.memgate(&["status", "--json"]).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["store"]["ready"], true, "{status}");
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());

    let mut command = installation.memgate(&["user", "add", "bob@example.org", "--no-wait"]);
    let mut adding = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(adding.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("waiting for the database, which another program has locked"), "{line}");
    writer.end();
    assert!(adding.wait().unwrap().success());
    installation.json(&["user", "show", "bob@example.org"]);
}

// F-19.
#[test]
fn lost_database_is_never_replaced_and_works_again_when_it_is_back() {
    let installation = migrated();
    installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let (database, kept) = (database(&installation), installation.dir().join("kept"));
    fs::rename(&database, &kept).unwrap();
    let before = contents(&installation);
    for command in ["up", "migrate", "proxy", "provisioner", "webui"] {
        let (what, fix) = failure(&installation, &[command], 1);
        assert!(what.contains("memgate.db is missing") && fix.contains("restore it from a backup"), "{what}");
    }
    for command in [["user", "list"], ["image", "build"], ["plan", "list"]] {
        let (what, _) = failure(&installation, &command, 1);
        assert!(what.contains("memgate.db is missing"), "{what}");
    }
    let status = installation.memgate(&["status", "--json"]).output().unwrap();
    assert_eq!(status.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&status.stdout).contains("memgate.db is missing"));
    // Keys alone tell that there was an installation.
    let id = installation.data().join("installation.id");
    let text = fs::read(&id).unwrap();
    fs::remove_file(&id).unwrap();
    let (what, _) = failure(&installation, &["up"], 1);
    assert!(what.contains("memgate.db is missing"), "{what}");
    fs::write(&id, text).unwrap();
    assert_eq!(contents(&installation), before);
    // An empty file in its place is no installation's.
    fs::write(&database, "").unwrap();
    fs::set_permissions(&database, fs::Permissions::from_mode(0o660)).unwrap();
    for command in ["up", "migrate", "proxy"] {
        let (what, fix) = failure(&installation, &[command], 1);
        assert!(what.contains("database") && fix.contains("restore"), "{command}: {what}: {fix}");
    }
    assert_eq!(fs::metadata(&database).unwrap().len(), 0);
    fs::rename(&kept, &database).unwrap();
    installation.json(&["user", "show", "ada@example.org"]);
}

// F-19.
#[test]
fn tables_of_another_version_are_changed_by_up_and_migrate_only() {
    let installation = migrated();
    execute_sql(
        &installation,
        "DELETE FROM _sqlx_migrations WHERE version = (SELECT MAX(version) FROM _sqlx_migrations)",
    );
    for arguments in [["user", "list"].as_slice(), &["proxy"], &["provisioner"], &["webui"]] {
        let (what, fix) = failure(&installation, arguments, 1);
        assert!(what.contains("from an older memgate"), "{what}");
        assert!(fix.contains("`memgate migrate`"), "{fix}");
    }
    let future = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                  VALUES (99990101, 'future', 1, x'00', 0)";
    execute_sql(&installation, future);
    for arguments in [["user", "list"].as_slice(), &["proxy"], &["migrate"]] {
        let (what, fix) = failure(&installation, arguments, 1);
        assert!(what.contains("from a newer memgate"), "{what}");
        assert!(fix.contains("install that version"), "{fix}");
    }
}

//
#[test]
fn down_goes_by_the_id_file_where_the_store_cannot_be_read() {
    let installation = migrated();
    let (database, folder) = (database(&installation), installation.data().join("db"));
    let id = fs::read_to_string(installation.data().join("installation.id")).unwrap();
    let (label, network) = (format!("memgate={}", id.trim()), format!("memgate-{}-net-0", id.trim()));
    let down = || {
        docker(&["network", "create", "--internal", "--label", &label, &network]);
        for (arguments, removed) in [(&["down", "--dry-run"][..], false), (&["down"], true)] {
            let output = installation.memgate(arguments).arg("--json").output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{arguments:?}: {stderr}");
            let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(printed["networks"], 1, "{arguments:?}: {printed}");
            let exists = !docker(&["network", "ls", "-q", "--filter", &format!("name={network}")]).is_empty();
            assert_eq!(exists, !removed, "{arguments:?}");
            if removed {
                return stderr;
            }
        }
        unreachable!("the last one returns")
    };
    execute_sql(
        &installation,
        "DELETE FROM _sqlx_migrations WHERE version = (SELECT MAX(version) FROM _sqlx_migrations)",
    );
    down();
    fs::write(&database, "neither a database nor empty").unwrap();
    assert!(down().contains("going by its id alone"));
    // Whatever the store is, a provisioner that leads would create everything again.
    let lock = fs::File::options().read(true).write(true).open(folder.join("memgate.leader")).unwrap();
    lock.lock().unwrap();
    let (what, _) = failure(&installation, &["down"], 1);
    assert!(what.contains("a provisioner of this installation runs"), "{what}");
    drop(lock);
    fs::remove_file(&database).unwrap();
    assert!(down().contains("going by its id alone"));
    fs::remove_dir_all(&folder).unwrap();
    assert!(down().contains("going by its id alone"));
    installation.json(&["down", "--purge"]);
    assert!(!installation.data().join("installation.id").exists());
}

// F-28.
#[test]
fn other_keys_are_refused_by_roles_and_commands_and_never_made() {
    let installation = migrated();
    installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let create = ["token", "create", "ada@example.org"];
    for (name, users) in [
        ("token.key", &["proxy", "webui", "up", "migrate"][..]),
        ("lane.key", &["proxy", "provisioner", "up", "migrate"]),
    ] {
        let key = installation.data().join(name);
        let right = fs::read(&key).unwrap();
        fs::remove_file(&key).unwrap();
        for command in users {
            let (what, _) = failure(&installation, &[command], 1);
            assert!(what.contains(name), "{command}: {what}");
            assert!(!key.exists(), "{command} makes no key");
        }
        fs::write(&key, "0123456789abcdef".repeat(4)).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        let commands = users.iter().map(|command| vec![*command]);
        let commands = commands.chain((name == "token.key").then(|| create.to_vec()));
        for command in commands {
            let (what, fix) = failure(&installation, &command, 1);
            assert!(what.contains(&format!("is not the {name} of this installation")), "{command:?}: {what}");
            assert!(fix.contains(&format!("put the right {name} back")), "{fix}");
        }
        fs::write(&key, right).unwrap();
    }
    installation.json(&create);
    // Only root's commands decide which keys are the right ones, where the database doesn't tell.
    execute_sql(
        &installation,
        "UPDATE installation SET token_key_fingerprint = NULL, lane_key_fingerprint = NULL",
    );
    for role in ROLES {
        let (what, fix) = failure(&installation, &[role], 1);
        assert!(what.contains("doesn't tell whether") && fix.contains("`memgate migrate`"), "{what}: {fix}");
    }
    assert!(installation.run(&["migrate"]).status.success());
    installation.json(&create);
    // a new lane key, as docs/operating.md makes one.
    fs::write(installation.data().join("lane.key"), "0123456789abcdef".repeat(4)).unwrap();
    assert!(!installation.run(&["migrate"]).status.success());
    execute_sql(&installation, "UPDATE installation SET lane_key_fingerprint = NULL");
    assert!(installation.run(&["migrate"]).status.success());
}

// F-28: as on a second machine, which has the id but made keys of its own.
#[test]
fn second_data_directory_needs_the_keys_of_the_first() {
    let (first, second) = (migrated(), Installation::with_sqlite());
    let shared = format!("store.path={}", database(&first).display());
    let (what, fix) = failure(&second, &["migrate", "--set", &shared], 1);
    assert!(what.contains("installation.id is missing") && fix.contains("copy it and both keys"), "{what}");
    assert!(!second.data().join("token.key").exists() && !second.data().join("lane.key").exists());
    for name in ["installation.id", "token.key", "lane.key"] {
        fs::copy(first.data().join(name), second.data().join(name)).unwrap();
        let migrated = second.run(&["migrate", "--set", &shared]).status.success();
        assert_eq!(migrated, name == "lane.key", "after {name}");
    }
}

/// A role that runs alone, and the lines of its log. Ends when it is dropped.
struct Running {
    role: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(installation: &Installation, role: &str) -> Self {
        let mut role = installation.memgate(&[role]).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = role.stderr.take().unwrap();
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let _ = BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| send.send(line));
        });
        Self { role, lines }
    }

    fn wait_for_line(&self, text: &str) {
        let deadline = deadline_in(60);
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if line.contains(text) {
                return;
            }
            seen.push(line);
        }
        panic!("the log has no line with {text:?}: {seen:#?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.role.kill();
        let _ = self.role.wait();
    }
}

/// The database's files while nobody can write them, not even root, nor where they are open already. Not `-shm`: the kernel
/// ends a process that writes to the memory of such a file.
struct Immutable([PathBuf; 2]);

impl Immutable {
    fn make(installation: &Installation) -> Self {
        let database = database(installation);
        let files = Self([database.with_file_name("memgate.db-wal"), database]);
        files.set("+i");
        files
    }

    fn set(&self, flag: &str) {
        let done = Command::new("chattr").arg(flag).args(&self.0).output().unwrap();
        let error = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "run the tests as root, with a /tmp on ext4, xfs or btrfs: {error}");
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        self.set("-i");
    }
}

// F-18.
#[test]
fn running_role_writes_again_after_the_database_could_only_be_read() {
    let installation = migrated();
    let seen_at = || {
        let program = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); \
                       print(db.execute('SELECT COALESCE(MAX(seen_at), 0) FROM proxies').fetchone()[0])";
        let output = Command::new("python3").args(["-c", program]).arg(database(&installation)).output();
        String::from_utf8(output.unwrap().stdout).unwrap().trim().parse::<i64>().unwrap()
    };
    let proxy = Running::start(&installation, "proxy");
    wait_until(deadline_in(60), "the proxy registers", || seen_at() > 0);
    let files = Immutable::make(&installation);
    proxy.wait_for_line("the store takes no writes");
    drop(files);
    let before = seen_at();
    proxy.wait_for_line("the store takes writes again");
    wait_until(deadline_in(60), "the proxy's row is renewed", || seen_at() > before);
}

#[test]
fn backup_that_everybody_can_read_is_refused_until_its_mode_is_changed() {
    let installation = migrated();
    let database = database(&installation);
    fs::set_permissions(&database, fs::Permissions::from_mode(0o644)).unwrap();
    for command in ["up", "migrate", "proxy"] {
        let (what, fix) = failure(&installation, &[command], 1);
        assert!(what.contains("can be read by everybody, as a restored backup often can"), "{what}");
        assert_eq!(fix, format!("run `chmod o= {}`", fs::canonicalize(&database).unwrap().display()));
    }
    assert!(Command::new("chmod").arg("o=").arg(&database).status().unwrap().success());
    assert!(installation.run(&["migrate"]).status.success());
}

#[test]
fn settings_file_with_a_password_must_be_private() {
    let installation = migrated();
    let file = installation.data().join("memgate.toml");
    let set = |url: &str, mode: u32| {
        let mut settings = fs::File::create(&file).unwrap();
        writeln!(settings, "[store]\nurl = \"{url}\"").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    };
    for url in ["postgres://ada:secret@h/d", "postgres://ada@h/d?password=secret"] {
        set(url, 0o644);
        let (what, fix) = failure(&installation, &["config", "check"], 1);
        assert!(
            what.contains("holds the database's password in line 2 and can be read by everybody"),
            "{what}"
        );
        assert_eq!(fix, format!("run `chmod o= {}`", file.display()));
        set(url, 0o640);
        installation.json(&["config", "check"]);
    }
    set("postgres://ada@h/d", 0o644);
    installation.json(&["config", "check"]);
    let (what, fix) = failure(&installation, &["config", "check", "--set", "store.connections=1"], 1);
    assert!(what.contains("store.connections") && fix.contains("2 or more"), "{what}: {fix}");
}

// a broken role may write any address into the store.
#[test]
fn address_that_no_instance_can_have_is_not_asked() {
    let installation = migrated();
    installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    // The port of memcached, on an address of this test alone.
    let listener = std::net::TcpListener::bind("127.117.16.1:11211").unwrap();
    listener.set_nonblocking(true).unwrap();
    execute_sql(
        &installation,
        "INSERT OR REPLACE INTO routes (instance_id, state, generation, address, changed_at, revision) \
         SELECT id, 'running', 1, '127.117.16.1', 0, 1 FROM instances",
    );
    let shown = installation.json(&["instance", "show", "ada@example.org"]);
    assert_eq!(shown["address"], "127.117.16.1");
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
