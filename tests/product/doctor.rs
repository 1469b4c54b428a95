//! `memgate doctor` on a machine and from a client, and the debug file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use serde_json::Value;
use testkit::Postgres;

use crate::harness::{Installation, Product, is_root};

/// The outcome of each check, and what was found; the worst of checks with the same name.
fn outcomes(output: &Output) -> BTreeMap<String, (String, String)> {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut found: BTreeMap<String, (String, String)> = BTreeMap::new();
    for check in report["checks"].as_array().unwrap() {
        let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
        let outcome = (text("outcome"), format!("{}: {}", text("found"), text("fix")));
        // "ok" < "problem" < "warning": a problem is what counts.
        let known = found.entry(text("check")).or_insert_with(|| outcome.clone());
        if outcome.0 == "problem" || known.0 == "ok" {
            *known = outcome;
        }
    }
    found
}

fn problems(output: &Output) -> Vec<String> {
    let found = outcomes(output);
    found
        .into_iter()
        .filter(|(_, (outcome, _))| outcome == "problem")
        .map(|(check, (_, text))| format!("{check}: {text}"))
        .collect()
}

#[test]
fn doctor_finds_nothing_wrong_with_what_works_and_names_what_does_not() {
    let mut product = Product::start();
    let ada = product.add_user("ada@example.org");
    let output = product.run(&["doctor", "--json"]);
    assert!(output.status.success() && problems(&output).is_empty(), "{:?}", problems(&output));
    let found = outcomes(&output);
    for check in [
        "settings",
        "data",
        "store",
        "keys",
        "docker",
        "firewall",
        "ports",
        "certificate",
        "proxy",
        "webui",
        "provisioner",
    ] {
        assert!(found.contains_key(check), "{check}: {found:?}");
    }

    // From a client's side: with the right authority, with none, with a wrong token.
    let (file, ca) = (product.dir().join("token"), product.data().join("ca.pem"));
    fs::write(&file, &ada.token).unwrap();
    let endpoint = product.endpoint().to_string();
    let way = |options: &[&str]| {
        let basic = ["doctor", "--json", "--connect", &endpoint, "--token-file", file.to_str().unwrap()];
        product.run(&[&basic[..], options].concat())
    };
    let trusted = ["--ca", ca.to_str().unwrap()];
    let output = way(&trusted);
    assert!(output.status.success(), "{:?}", problems(&output));
    let found = outcomes(&output);
    assert_eq!(found["requests"].0, "ok", "{found:?}");
    assert!(found["requests"].1.contains("delete"), "{found:?}");
    assert!(way(&["--plaintext"]).status.success(), "loopback takes plaintext");
    let output = way(&[]);
    assert!(!output.status.success() && problems(&output)[0].contains("--ca"), "{:?}", problems(&output));
    fs::write(&file, format!("{}x", &ada.token[..ada.token.len() - 1])).unwrap();
    let output = way(&trusted);
    assert!(problems(&output)[0].contains("memgate token show"), "{:?}", problems(&output));
    fs::write(&file, &ada.token).unwrap();

    // Stopped, and with a port that somebody else has.
    product.interrupt();
    let taken = std::net::TcpListener::bind(product.web()).unwrap();
    let output = product.run(&["doctor", "--json"]);
    let found = outcomes(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(found["proxy"].1.contains("not running") && found["proxy"].1.contains("memgate up"), "{found:?}");
    assert!(found["ports"].1.contains("in use by"), "{found:?}");
    drop(taken);
}

/// All files of an archive, in one text.
fn unpack(archive: &std::path::Path) -> String {
    let mut text = String::new();
    for entry in tar::Archive::new(File::open(archive).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        text.push_str(&format!("== {}\n", entry.path().unwrap().display()));
        entry.read_to_string(&mut text).unwrap();
    }
    text
}

//
#[test]
fn debug_file_has_no_secret_and_no_address() {
    if !is_root() {
        return;
    }
    let postgres = Postgres::start();
    let url = postgres.url().replace("postgres@", "postgres:SECRETdatabase@");
    let installation = Installation::with_postgres(url);
    installation.json(&["migrate", "--roles"]);
    // Where the web UI may read it.
    let folder = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let mail = folder.path().join("mail-password");
    fs::write(&mail, "SECRETmailfile\n").unwrap();
    assert!(Command::new("chown").arg("memgate-webui").arg(&mail).status().unwrap().success());
    fs::set_permissions(&mail, fs::Permissions::from_mode(0o600)).unwrap();
    let settings = installation.data().join("memgate.toml");
    fs::write(
        &settings,
        format!(
            "[webui]\ncontact = \"SECRETperson@example.org\"\nbase_url = \"http://secretbase.example.org\"\n[webui.mail]\n\
             server = \"smtp://SECRETuser@127.0.0.1:25\"\nfrom = \"SECRETfrom@example.org\"\npassword_file = \"{}\"\n",
            mail.display()
        ),
    )
    .unwrap();
    let product = Product::start_at(installation);
    let ada = product.add_user("SECRETada@example.org");
    let key = product.json(&["api-key", "create", &ada.email, "--name", "SECRETname"]);
    let key = key["key"].as_str().unwrap_or_default().to_owned();
    let read = |name: &str| fs::read_to_string(product.data().join(name)).unwrap().trim().to_owned();
    let roles = ["store-proxy.env", "store-provisioner.env", "store-webui.env"].map(|name| {
        let url = read(name);
        url.split(':').nth(2).unwrap().split('@').next().unwrap().to_owned()
    });
    let mut secrets = vec![
        "SECRET".to_owned(),
        "secretbase".to_owned(),
        ada.password.clone(),
        read("token.key"),
        read("lane.key"),
    ];
    secrets.extend(roles);
    secrets.extend(read("server.key").lines().nth(1).map(str::to_owned));
    secrets.extend(key.rsplit('_').next().filter(|secret| !secret.is_empty()).map(str::to_owned));

    // A log in which all of them are, as they should never be.
    let log = product.dir().join("careless.log");
    let mut file = File::create(&log).unwrap();
    writeln!(file, "ordinary line\ntoken {} key {key}", ada.token).unwrap();
    writeln!(file, "mail of SECRETmailfile to {}, database postgres://SECRETlogin:x@127.0.0.1/x", ada.email)
        .unwrap();
    for secret in &secrets[3..] {
        writeln!(file, "secret=\"{secret}\"").unwrap();
    }
    let bundle = product.dir().join("debug.tar");
    let arguments = ["debug", bundle.to_str().unwrap(), "--log", log.to_str().unwrap()];
    let written = product.json(&arguments);
    assert_eq!(bundle.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(written["entries"].as_array().unwrap().len() >= 13, "{written}");
    let text = unpack(&bundle);
    for secret in &secrets {
        assert!(!text.contains(secret.as_str()), "{secret}:\n{text}");
    }
    for part in [
        "== memgate-debug/versions.json",
        "\"store.url\": \"(set)\"",
        "\"webui.mail.from\": \"(set)\"",
        "\"users\": 1",
        "\"ready\": true",
        "memgate_proxy_",
        "\"storage_driver\"",
        "ordinary line",
        "\"outcome\": \"ok\"",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let again = product.run(&arguments);
    assert!(!again.status.success(), "it replaces nothing");
}
