//! The command line's contract: documents, messages, exit statuses. No role runs here.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::Place;

/// A data folder as `memgate migrate` makes it.
fn prepared() -> Place {
    let place = Place::new();
    assert!(place.run(&["migrate"]).status.success());
    place
}

/// Runs a command that must fail with `status`, and gives its `{"error","fix"}`.
fn failure(place: &Place, arguments: &[&str], status: i32) -> (String, String) {
    let output = place.memgate(arguments).arg("--json").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    let said: Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("{arguments:?}: {stderr}"));
    (said["error"].as_str().unwrap().to_owned(), said["fix"].as_str().unwrap().to_owned())
}

#[test]
fn a_plan_is_made_changed_and_had() {
    let place = prepared();
    let made =
        place.json(&["plan", "create", "small", "--memory-mb", "32", "--operations-per-second", "2000"]);
    assert_eq!((&made["memory_mb"], &made["operations_per_second"]), (&32.into(), &2000.into()));
    assert_eq!(made["connections"], 20_000, "what isn't named is the default plan's");
    let added = place.json(&["user", "add", "ada@example.org", "--plan", "small", "--no-wait"]);
    assert_eq!(added["plan"], "small");
    assert_eq!(place.json(&["instance", "show", "ada@example.org"])["memory_mb"], 32);
    let limits = ["--operations-per-second", "none", "--bytes-per-second", "5000000"];
    let changed = place.json(&[&["plan", "change", "small"][..], &limits].concat());
    assert!(changed["operations_per_second"].is_null());
    assert_eq!((&changed["bytes_per_second"], &changed["memory_mb"]), (&5_000_000.into(), &32.into()));
    let list = String::from_utf8(place.run(&["plan", "list"]).stdout).unwrap();
    assert!(list.contains("BYTES/S") && list.contains("5000000") && list.contains("no limit"), "{list}");
    let (error, fix) = failure(&place, &["plan", "create", "small"], 1);
    assert!(error.contains("there is a plan small already") && fix.contains("plan change"), "{error}: {fix}");
    let (error, fix) = failure(&place, &["plan", "change", "huge", "--connections", "1"], 1);
    assert!(error.contains("there is no plan huge") && fix.contains("plan list"), "{error}: {fix}");
    failure(&place, &["plan", "change", "small", "--bytes-per-second", "0"], 2);
}

#[test]
fn a_token_is_limited_changed_and_rotated() {
    let place = prepared();
    place.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let create = ["token", "create", "ada@example.org", "--name", "shop", "--scope", "write,read"];
    let limits =
        ["--prefix", "shop:", "--expires", "30d", "--allow-from", "10.0.0.0/8", "--allow-from", "::1"];
    let made = place.json(&[&create[..], &limits].concat());
    let id = made["username"].as_str().unwrap();
    let shown = place.json(&["token", "show", id]);
    assert_eq!((&shown["name"], &shown["email"]), (&"shop".into(), &"ada@example.org".into()));
    assert_eq!(shown["scopes"], serde_json::json!(["read", "write"]));
    assert_eq!(shown["prefix"], "shop:");
    assert_eq!(shown["allow_from"], serde_json::json!(["10.0.0.0/8", "::1/128"]));
    let lifetime = shown["expires_at"].as_i64().unwrap() - shown["created_at"].as_i64().unwrap();
    assert!((lifetime - 30 * 86_400_000).abs() < 60_000, "{lifetime}");

    let narrowed = place.json(&["token", "update", id, "--scope", "read"]);
    assert_eq!(narrowed["scopes"], serde_json::json!(["read"]));
    for key in ["prefix", "allow_from", "expires_at"] {
        assert_eq!(narrowed[key], shown[key], "what isn't named stays");
    }
    let open = ["token", "update", id, "--no-prefix", "--allow-from", "any", "--expires", "never"];
    let open = place.json(&open);
    assert!(open["prefix"].is_null() && open["expires_at"].is_null());
    assert_eq!(open["allow_from"], serde_json::json!([]));

    let rotated = place.json(&["token", "rotate", id, "--grace", "2h"]);
    let successor = place.json(&["token", "show", rotated["token"].as_str().unwrap()]);
    assert_eq!((&successor["scopes"], &successor["name"]), (&narrowed["scopes"], &shown["name"]));
    assert!(successor["expires_at"].is_null());
    assert_eq!(rotated["replaces"]["successor"], successor["id"]);
    let old = place.json(&["token", "show", id]);
    assert!(old["expires_at"].as_i64() > shown["created_at"].as_i64());
    let (error, fix) = failure(&place, &["token", "rotate", id], 1);
    assert!(error.contains("has a successor already"), "{error}");
    assert!(fix.contains(successor["id"].as_str().unwrap()), "{fix}");
    let ended = ["token", "rotate", successor["id"].as_str().unwrap(), "--grace", "0s"];
    place.json(&ended);
    let (error, fix) = failure(&place, &["token", "update", ended[2], "--expires", "never"], 1);
    assert!(error.contains("is over (expired") && fix.contains("token create"), "{error}: {fix}");

    let list = place.run(&["token", "list", "ada@example.org"]);
    let list = String::from_utf8(list.stdout).unwrap();
    for words in ["SCOPES", "read,write,flush,stats", "ends in ", "expired "] {
        assert!(list.contains(words), "{words} is not in {list}");
    }
}

#[test]
fn a_token_has_certificates() {
    let place = prepared();
    place.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let create = ["token", "create", "ada@example.org", "--expires", "30d"];
    let made = place.json(&[&create[..], &["--certificate"]].concat());
    let id = made["username"].as_str().unwrap();
    assert!(made["certificate"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    let key = made["certificate_key"].as_str().unwrap();
    assert!(rcgen::KeyPair::from_pem(key).is_ok());
    let shown = place.json(&["token", "show", id]);
    assert_eq!(shown["certificates"][0]["fingerprint"], made["fingerprint"]);
    assert_eq!(shown["certificates"][0]["not_after"], shown["expires_at"], "it ends with its token");
    let without = place.json(&["token", "create", "ada@example.org"]);
    assert!(without["certificate"].is_null() && without["fingerprint"].is_null());

    let folder = place.folder().join("shop");
    let out = ["--certificate-out", folder.to_str().unwrap()];
    let written = place.json(&[&["token", "certify", id], &out[..]].concat());
    assert!(written["certificate"].is_null() && written["certificate_key"].is_null());
    let file = |key: &str| std::path::PathBuf::from(written[key].as_str().unwrap());
    assert!(rcgen::KeyPair::from_pem(&fs::read_to_string(file("key_file")).unwrap()).is_ok());
    assert_eq!(fs::metadata(file("key_file")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(file("certificate_file")).unwrap().contains("BEGIN CERTIFICATE"));
    let (error, fix) = failure(&place, &[&["token", "certify", id], &out[..]].concat(), 1);
    assert!(error.contains("File exists") && fix.contains("another folder"), "{error}: {fix}");

    let request = place.folder().join("shop.csr");
    let own = rcgen::KeyPair::generate().unwrap();
    let text = rcgen::CertificateParams::default().serialize_request(&own).unwrap().pem().unwrap();
    fs::write(&request, text).unwrap();
    let certify = ["token", "certify", id, "--csr", request.to_str().unwrap()];
    let signed = place.json(&certify);
    assert!(signed["certificate"].is_string() && signed["certificate_key"].is_null());
    fs::write(&request, key).unwrap();
    let (error, fix) = failure(&place, &certify, 1);
    assert!(error.contains("no certificate request") && fix.contains("PEM"), "{error}: {fix}");
    assert!(!error.contains("PRIVATE"), "{error}");

    while place.json(&["token", "show", id])["certificates"].as_array().unwrap().len() < 16 {
        place.json(&["token", "certify", id]);
    }
    let (error, _) = failure(&place, &["token", "certify", id], 1);
    assert!(error.contains("as many certificates as"), "{error}");
    let words = String::from_utf8(place.run(&["token", "show", id]).stdout).unwrap();
    assert!(words.contains(made["fingerprint"].as_str().unwrap()) && words.contains("(ends in "), "{words}");
    place.json(&["token", "revoke", id]);
    let (error, _) = failure(&place, &["token", "certify", id], 1);
    assert!(error.contains("is over"), "{error}");
    let kept = fs::read(place.data().join("memgate.db-wal")).unwrap_or_default();
    assert!(!kept.windows(11).any(|window| window == b"PRIVATE KEY"));
}

#[test]
fn an_account_its_token_and_its_end() {
    let place = prepared();
    let added = place.json(&["user", "add", "Ada@Example.org", "--no-wait"]);
    assert_eq!(added["email"], "ada@example.org");
    assert_eq!(added["endpoint"], place.endpoint().to_string());
    let (username, password) = (added["username"].as_str().unwrap(), added["password"].as_str().unwrap());
    assert_eq!(added["token"], format!("{username}_{password}"));
    assert!(username.starts_with("mg_") && username.len() == 15, "{username}");

    let made = place.json(&["token", "create", "ada@example.org", "--name", "ci"]);
    for key in ["email", "endpoint", "username", "password", "token"] {
        assert!(made[key].is_string(), "{key}");
    }
    let tokens = place.json(&["token", "list", "ada@example.org"]);
    let tokens = tokens["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 2);
    assert!(tokens.iter().any(|token| token["name"] == "ci" && token["revoked_at"].is_null()));

    let id = made["username"].as_str().unwrap();
    assert!(place.json(&["token", "revoke", id])["revoked_at"].is_i64());
    let shown = place.json(&["user", "show", "ada@example.org"]);
    assert_eq!(shown["instance"]["state"], "pending");
    assert_eq!(shown["tokens"].as_array().unwrap().iter().filter(|t| t["revoked_at"].is_i64()).count(), 1);

    assert_eq!(place.json(&["user", "list"])["users"][0]["email"], "ada@example.org");
    assert_eq!(place.json(&["instance", "list"])["instances"][0]["state"], "pending");
    assert_eq!(place.json(&["instance", "show", "ada@example.org"])["memory_mb"], 64);
    // What is kept of a secret is not the secret.
    let secret = made["password"].as_str().unwrap().as_bytes();
    for file in ["memgate.db", "memgate.db-wal"] {
        let kept = fs::read(place.data().join(file)).unwrap_or_default();
        assert!(!kept.windows(secret.len()).any(|window| window == secret), "{file}");
    }
}

#[test]
fn the_audit_log_says_who_did_what_and_that_it_is_whole() {
    let place = prepared();
    place.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let first = place.json(&["audit", "verify"]);
    assert_eq!(first["entries"], 1);
    let made = place.json(&["token", "create", "ada@example.org"]);
    place.json(&["token", "revoke", made["username"].as_str().unwrap()]);
    let list = place.json(&["audit", "list", "--limit", "2"]);
    let actions: Vec<_> = list["entries"].as_array().unwrap().iter().map(|entry| &entry["action"]).collect();
    assert_eq!(actions, ["token.create", "token.revoke"]);
    let exported = place.run(&["audit", "export"]).stdout;
    let exported = String::from_utf8(exported).unwrap();
    assert_eq!(exported.lines().count(), 3);
    assert!(!exported.contains(made["password"].as_str().unwrap()));
    let head = first["head"].as_str().unwrap();
    assert_eq!(place.json(&["audit", "verify", "--head", head])["entries"], 3);
    let (what, fix) = failure(&place, &["audit", "verify", "--head", "abc"], 1);
    assert!(what.contains("doesn't hold that head") && fix.contains("restore"), "{what}: {fix}");
}

#[test]
fn purge_leaves_all_as_it_is_where_postgresql_has_the_data() {
    let place = prepared();
    let files = || fs::read_dir(place.data()).unwrap().flatten().map(|it| it.file_name()).collect::<Vec<_>>();
    let before = files();
    let elsewhere = "store.url=postgres://memgate@127.0.0.1:1/memgate";
    let (error, fix) = failure(&place, &["down", "--purge", "--set", elsewhere], 1);
    assert_eq!(error, "--purge doesn't empty PostgreSQL");
    assert!(fix.contains("drop the database yourself") && fix.contains("`memgate down`"), "{fix}");
    assert_eq!(files(), before);
}

/// A token that ends while its certificate's request is read: it is made, and the certificate isn't kept.
#[test]
fn a_token_is_shown_whatever_becomes_of_its_certificate() {
    let place = prepared();
    place.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let pipe = place.folder().join("request.csr");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let create = ["token", "create", "ada@example.org", "--expires", "1s", "--json", "--csr"];
    let mut command = place.memgate(&create);
    let command = command.arg(&pipe).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Opened as soon as somebody reads; by then the token's end is settled.
    let mut pipe = fs::File::options().write(true).open(&pipe).unwrap();
    let opened = Instant::now();
    while opened.elapsed() < Duration::from_millis(1100) {
        std::thread::sleep(Duration::from_millis(20));
    }
    pipe.write_all(request.as_bytes()).unwrap();
    drop(pipe);
    let output = command.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("is over"), "{stderr}");
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let shown = place.json(&["token", "show", made["token"].as_str().unwrap()]);
    assert_eq!(shown["certificates"], serde_json::json!([]));
    assert!(made["fingerprint"].is_null() && made["certificate"].is_null());
}

#[test]
fn every_denial_names_the_fix() {
    let place = prepared();
    place.json(&["user", "add", "ada@example.org", "--no-wait"]);
    for (arguments, what) in [
        (["user", "add", "ada@example.org", "--no-wait"].as_slice(), "taken"),
        (&["user", "add", "ADA@example.org", "--no-wait"], "taken"),
        (&["user", "add", "ada", "--no-wait"], "e-mail"),
        (&["user", "add", "bob@example.org", "--plan", "gold", "--no-wait"], "plan"),
        (&["user", "show", "bob@example.org"], "no account"),
        (&["token", "create", "bob@example.org"], "no account"),
        (&["token", "list", "bob@example.org"], "no account"),
        (&["token", "revoke", "mg_000000000000"], "no such token"),
        (&["token", "revoke", "x"], "no such token"),
        (&["token", "show", "x"], "no such token"),
        (&["token", "certify", "mg_000000000000"], "no such token"),
        (&["token", "rotate", "mg_000000000000"], "no such token"),
        (&["token", "update", "mg_000000000000", "--scope", "read"], "no such token"),
        (&["instance", "show", "bob@example.org"], "no account"),
        (&["status"], "not everything is ready"),
        (&["user", "list", "--config", "/nonexistent.toml"], "no settings file"),
        (&["user", "list", "--data", "/nonexistent"], "no memgate data"),
    ] {
        let (error, fix) = failure(&place, arguments, 1);
        assert!(error.contains(what) && !fix.is_empty(), "{arguments:?}: {error}: {fix}");
    }
    assert_eq!(place.json(&["user", "list"])["users"].as_array().unwrap().len(), 1);
    for arguments in [
        ["user"].as_slice(),
        &["no-such-command"],
        &["user", "add"],
        &["token", "create", "a", "-x"],
        &["audit", "list", "--limit", "0"],
        &["audit", "list", "--limit=-1"],
    ] {
        failure(&place, arguments, 2);
    }
    let create = ["token", "create", "ada@example.org"];
    for (wrong, what) in [
        (["--scope", "admin"].as_slice(), "take some of read, write, flush, stats"),
        (&["--scope", ","], "take some of read, write, flush, stats"),
        (&["--prefix", "two words"], "without spaces"),
        (&["--expires", "tomorrow"], "write it like 90s"),
        (&["--expires", "0s"], "or never"),
        (&["--allow-from", "10.0.0.1/8"], "write 10.0.0.0/8"),
        (&["--allow-from", "any", "--allow-from", "::/0"], "any stands beside networks"),
    ] {
        let (error, _) = failure(&place, &[&create[..], wrong].concat(), 2);
        assert!(error.contains(what), "{wrong:?}: {error}");
    }
    let (error, fix) = failure(&place, &["token", "update", "mg_000000000000"], 2);
    assert!(error.contains("nothing to change") && fix.contains("--scope"), "{error}: {fix}");
    let plain = place.run(&["user", "show", "bob@example.org"]);
    assert_eq!(
        String::from_utf8_lossy(&plain.stderr),
        "error: there is no account bob@example.org: memgate user list shows them all\n"
    );
    assert!(plain.stdout.is_empty());
}

#[test]
fn unknown_settings_are_refused_wherever_they_are() {
    let place = prepared();
    let file = place.folder().join("typo.toml");
    fs::write(&file, "[proxy]\nlisen = \"127.0.0.1:1\"\n").unwrap();
    let (error, fix) = failure(&place, &["config", "check", "--config", file.to_str().unwrap()], 1);
    assert!(error.contains("proxy.lisen") && error.contains("typo.toml"), "{error}");
    assert!(fix.contains("proxy.listen"), "{fix}");

    for (name, key, meant) in [
        ("MEMGATE_PROXY__LISEN", "proxy.lisen", "proxy.listen"),
        ("MEMGATE_PROXY_LISTEN", "proxy_listen", "proxy.listen"),
        ("MEMGATE_STOER__PATH", "stoer", "store"),
    ] {
        let output = place.memgate(&["config", "check"]).env(name, "x").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr.contains(key) && stderr.contains(meant), "{name}: {stderr}");
    }
    let (error, fix) = failure(&place, &["config", "check", "--set", "webui.listn=1"], 1);
    assert!(error.contains("webui.listn") && fix.contains("webui.listen"), "{error}: {fix}");
    let (error, _) = failure(&place, &["config", "check", "--set", "webui.listen=here"], 1);
    assert!(error.contains("webui.listen"), "{error}");
}

#[test]
fn later_layers_win() {
    let place = prepared();
    let file = place.data().join("memgate.toml");
    fs::write(&file, "[log]\nfilter = \"warn\"\n[webui]\nplan = \"file\"\n").unwrap();
    let read = place.json(&["config", "check"]);
    assert_eq!((&read["log"]["filter"], &read["webui"]["plan"]), (&"warn".into(), &"file".into()));
    let output =
        place.memgate(&["config", "check", "--json"]).env("MEMGATE_LOG__FILTER", "error").output().unwrap();
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read["log"]["filter"], "error");
    let output = place
        .memgate(&["config", "check", "--json", "--set", "log.filter=debug"])
        .env("MEMGATE_LOG__FILTER", "error")
        .output()
        .unwrap();
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read["log"]["filter"], "debug");
    let read = place.json(&["config", "check", "--set", "store.url=postgres://a@h/d?password=secret"]);
    assert_eq!(read["store"]["url"], "postgres://a@h/d?password=***");
    // Users are shown where the proxy listens, unless somebody says otherwise.
    assert_eq!(read["webui"]["endpoint"], place.endpoint().to_string());
}

#[test]
fn passwords_come_from_stdin_and_are_kept_as_argon2id() {
    let place = prepared();
    let add = |email: &str, password: &str| {
        let mut child = place
            .memgate(&["user", "add", email, "--password-stdin", "--no-wait", "--json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let short = add("ada@example.org", "short\n");
    assert_eq!(short.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&short.stderr).contains("10"), "{short:?}");
    let good = add("ada@example.org", "correct horse battery\n");
    assert!(good.status.success(), "{good:?}");
    let kept: Vec<u8> = ["memgate.db", "memgate.db-wal"]
        .iter()
        .flat_map(|file| fs::read(place.data().join(file)).unwrap_or_default())
        .collect();
    let holds = |text: &str| kept.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("$argon2id$v=19$m=19456,t=2,p=1$") && !holds("correct horse"));
}

#[test]
fn help_teaches() {
    let place = Place::new();
    for (arguments, word) in [
        (["--help"].as_slice(), "Examples:"),
        (&["user", "add", "--help"], "--password-stdin"),
        (&["token", "create", "--help"], "jq"),
        (&["down", "--help"], "--purge"),
    ] {
        let output = place.run(arguments);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains(word), "{arguments:?}");
    }
    assert!(place.run(&["--version"]).stdout.starts_with(b"memgate "));
}

#[test]
fn keys_and_databases_that_everybody_can_read_are_refused() {
    for file in ["token.key", "memgate.db"] {
        let place = prepared();
        let path = place.data().join(file);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let (error, fix) = failure(&place, &["up"], 1);
        assert!(error.contains("read by everybody") && fix.contains("chmod o="), "{file}: {error}: {fix}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644, "{file}");
    }
}
