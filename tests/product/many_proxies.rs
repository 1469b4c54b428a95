//! Several proxies on one PostgreSQL, each started with a key file and nothing else.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testkit::Postgres;

use crate::harness::{Credentials, Installation, MEMGATE, Product, deadline_in, is_root, wait_until};
use crate::lone_proxy::{LoneProxy, Place, export_keys};
use crate::text_client::TextClient;

/// Proxies beside that of `memgate up`.
const OTHERS: usize = 2;
/// How long a token may take to be usable, or dead, at every proxy: more than the second that is promised, for a busy machine.
const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(10);

fn start(product: &Installation, keys: &Path, number: usize) -> LoneProxy {
    LoneProxy::with_keys(product, Path::new(MEMGATE), keys, Place::new(number), |_| {})
}

/// Waits until each endpoint accepts or refuses a token; returns the time that the last one took.
fn propagation(endpoints: &[SocketAddr], token: &Credentials, usable: bool) -> Duration {
    let started = Instant::now();
    for endpoint in endpoints {
        wait_until(
            started + PROPAGATION_TIMEOUT,
            &format!("{endpoint}: the token's state is {usable}"),
            || TextClient::try_log_in(*endpoint, token).is_some() == usable,
        );
    }
    started.elapsed()
}

// with several proxies.
#[test]
fn three_proxies_on_one_postgresql_agree_on_tokens() {
    if !is_root() {
        return;
    }
    let mut postgres = Postgres::start();
    let installation = Installation::with_postgres(postgres.url());
    installation.json(&["migrate", "--roles"]);
    let product = Product::start_at(installation);
    let ada = product.add_user("ada@example.org");
    let keys = export_keys(&product);
    let mut others: Vec<LoneProxy> = (0..OTHERS).map(|n| start(&product, &keys, n)).collect();
    others.iter().for_each(LoneProxy::wait_until_it_listens);
    let mut endpoints: Vec<SocketAddr> = others.iter().map(|it| it.endpoint).collect();
    endpoints.push(product.endpoint());
    wait_until(deadline_in(30), "all proxies are registered", || {
        product.json(&["token", "show", &ada.username])["propagation"]["by"].as_array().unwrap().len() == 3
    });

    // What one proxy stores, another reads; and TLS has the installation's certificate at each.
    let mut writer = TextClient::log_in(endpoints[0], &ada);
    assert_eq!(writer.set("shared", b"value"), "STORED");
    for endpoint in &endpoints {
        assert_eq!(TextClient::log_in(*endpoint, &ada).get("shared"), Ok(Some(b"value".to_vec())));
        assert_tls(&product, *endpoint);
    }
    let mut worst = [Duration::ZERO; 2];
    let mut round = |name: &str| {
        let token = product.credentials(&["token", "create", &ada.email, "--name", name]);
        worst[0] = worst[0].max(propagation(&endpoints, &token, true));
        let mut open: Vec<TextClient> =
            endpoints.iter().map(|endpoint| TextClient::log_in(*endpoint, &token)).collect();
        product.json(&["token", "revoke", &token.username]);
        worst[1] = worst[1].max(propagation(&endpoints, &token, false));
        for client in &mut open {
            wait_until(deadline_in(10), "a live connection of a revoked token ends", || client.is_closed());
        }
    };
    for number in 0..5 {
        round(&format!("token {number}"));
    }

    // A proxy that starts while the store is away serves as soon as it is back.
    postgres.kill();
    let late = start(&product, &keys, OTHERS);
    wait_until(deadline_in(30), "the proxy waits for its store", || late.read_log().contains("store"));
    postgres.start_again();
    late.wait_until_it_listens();
    wait_until(deadline_in(30), "the late proxy serves", || {
        TextClient::try_log_in(late.endpoint, &ada).is_some()
    });
    wait_until(deadline_in(60), "everything is ready", || product.run(&["status"]).status.success());
    others.push(late);
    let endpoints: Vec<SocketAddr> =
        others.iter().map(|it| it.endpoint).chain([product.endpoint()]).collect();
    let token = product.credentials(&["token", "create", &ada.email, "--name", "after"]);
    let usable = propagation(&endpoints, &token, true);
    product.json(&["token", "revoke", &token.username]);
    let dead = propagation(&endpoints, &token, false);
    println!(
        "usable everywhere after {:?}, dead after {:?}; after the store's return {usable:?}, {dead:?}",
        worst[0], worst[1]
    );
    drop(others);
    drop(product);
}

fn assert_tls(product: &Product, endpoint: SocketAddr) {
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-verify_return_error", "-verify_ip", "127.0.0.1", "-CAfile"]);
    openssl.arg(product.data().join("ca.pem")).args(["-connect", &endpoint.to_string()]);
    let output = openssl.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{endpoint}: {}", String::from_utf8_lossy(&output.stderr));
}

// What a key file may hold, and who is refused one.
#[test]
fn key_file_has_no_rights_beyond_a_proxys() {
    let sqlite = Installation::with_sqlite();
    assert!(sqlite.run(&["migrate"]).status.success());
    let refused = sqlite.run(&["key", "export", "/dev/null"]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && error.contains("SQLite") && error.contains("store.url"), "{error}");
    if !is_root() {
        return;
    }
    let postgres = Postgres::start();
    let installation = Installation::with_postgres(postgres.url());
    assert!(installation.run(&["migrate"]).status.success());
    let file = installation.dir().join("proxy.keys");
    let export = |installation: &Installation| installation.run(&["key", "export", file.to_str().unwrap()]);
    // Without users of their own, the file would have the owner's password.
    let error = String::from_utf8(export(&installation).stderr).unwrap();
    assert!(error.contains("migrate --roles") && !file.exists(), "{error}");
    installation.json(&["migrate", "--roles"]);
    assert!(export(&installation).status.success());
    let text = fs::read_to_string(&file).unwrap();
    let block = text.split("-----").nth(2).unwrap().split_whitespace().collect::<String>();
    let mut decode = Command::new("base64");
    let encoded = installation.dir().join("block");
    fs::write(&encoded, block).unwrap();
    let json = decode.arg("-d").arg(&encoded).output().unwrap().stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let fields: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["installation", "lane_key", "store_url", "subnets", "token_key"]);
    assert!(json["store_url"].as_str().unwrap().contains("_proxy:"), "{}", json["store_url"]);
    // The other roles don't take it.
    let refused = installation.memgate(&["webui", "--keys"]).arg(&file).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}
