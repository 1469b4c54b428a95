//! A store that fails in one place after another: no login is wrongly admitted, and logins work again as
//! soon as it recovers.

use std::process::Command;
use std::time::{Duration, Instant};

use super::connection::FAILURE;
use super::permissions::{PROPAGATION_TIMEOUT, is_closed};
use super::tls::wait_until;
use store::Token;
use testkit::{TestProxy, binary, is_long_run, text};

const AWAY: &str = "SERVER_ERROR authentication unavailable\r\n";
/// The tables that a login reads.
const TABLES: [&str; 6] = ["revision", "tokens", "users", "caches", "instances", "routes"];
/// Selects a token's user, up to its WHERE.
const USER_OF: &str = "SELECT c.user_id FROM tokens t JOIN caches c ON c.id = t.cache_id";

/// Runs SQL on the database without the store.
fn execute(proxy: &TestProxy, sql: &str) {
    let program = "import sqlite3, sys\n\
                   db = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)\n\
                   db.execute('PRAGMA ignore_check_constraints = 1')\n\
                   db.execute(sys.argv[2])\n";
    let done = Command::new("python3")
        .args(["-c", program])
        .arg(proxy.data_dir.path().join("memgate.db"))
        .arg(sql)
        .output()
        .unwrap();
    assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
}

// R-24, F-4, V-4.
#[test]
fn unreadable_table_denies_unknown_tokens() {
    let proxy = TestProxy::start_with(|config| config.scram = true);
    let known = proxy.sign_up("known@example.com");
    let session = |login: &str| proxy.exchange_text(&format!("{login}quit\r\n"));
    assert_eq!(session(&text::login(&known)), "STORED\r\n");
    for (number, table) in TABLES.iter().enumerate() {
        let token = proxy.sign_up(&format!("user{number}@example.com"));
        let (user, secret) = (token.id().username(), token.secret().reveal());
        let text = [text::login(&token), text::set("x", &token.reveal()), text::set(&user, secret)];
        let binary = [binary::request(0x21, "PLAIN", &format!("\0{user}\0{secret}")), scram(&user)];
        execute(&proxy, &format!("ALTER TABLE {table} RENAME TO gone"));
        for login in &text {
            assert_eq!(session(login), AWAY, "without {table}");
        }
        for (login, expected) in binary.iter().zip([&[0x86][..], &[0x21, 0x86]]) {
            assert_eq!(
                binary::statuses(&proxy.exchange(&[login, &binary::request(0, "a", "")[..]].concat())),
                expected,
                "{table}"
            );
        }
        // A token known before is still accepted, and a wrong secret for it is still refused.
        assert_eq!(session(&text::login(&known)), "STORED\r\n");
        let refused = session(&text::set("x", &format!("{} {secret}", known.id().username())));
        assert!([FAILURE, AWAY].contains(&refused.as_str()), "{refused}");
        execute(&proxy, &format!("ALTER TABLE gone RENAME TO {table}"));
        assert_eq!(session(&text[0]), "STORED\r\n", "with {table} again");
    }
}

/// A SCRAM exchange with a proof that is wrong.
fn scram(user: &str) -> Vec<u8> {
    let first = binary::request(0x21, "SCRAM-SHA-256", &format!("n,,n={user},r=abc"));
    let proof = format!("c=biws,r=x,p={}=", "A".repeat(43));
    [first, binary::request(0x22, "SCRAM-SHA-256", &proof)].concat()
}

// R-5, F-4.
#[test]
fn store_that_is_away_does_not_tell_which_ids_exist() {
    let first = TestProxy::start_with(|config| config.scram = true);
    let (right, wrong) = (first.sign_up("ann@example.com"), first.sign_up("bob@example.com"));
    let hash_of = |token: &Token| format!("(SELECT secret_hash FROM tokens WHERE id = '{}')", token.id());
    let (other_hash, id) = (hash_of(&right), wrong.id());
    execute(&first, &format!("UPDATE tokens SET secret_hash = {other_hash} WHERE id = '{id}'"));
    // It has read the tokens ahead.
    let proxy = first.start_second();
    let session = |token: &Token| proxy.exchange_text(&format!("{}quit\r\n", text::login(token)));
    let scram = |token: &Token| binary::statuses(&proxy.exchange(&scram(&token.id().username())));
    assert_eq!(session(&right), "STORED\r\n");
    execute(&first, "ALTER TABLE tokens RENAME TO gone");
    let tokens = [wrong, Token::generate()];
    for token in &tokens {
        assert_eq!((session(token).as_str(), scram(token)), (AWAY, vec![0x21, 0x86]), "{token:?}");
    }
    assert_eq!(session(&right), "STORED\r\n");
    execute(&first, "ALTER TABLE gone RENAME TO tokens");
    for token in &tokens {
        assert_eq!((session(token).as_str(), scram(token)), (FAILURE, vec![0x21, 0x20]), "{token:?}");
    }
}

// R-24, F-15.
#[test]
fn corrupt_rows_deny_login() {
    let proxy = TestProxy::start();
    let neighbour = proxy.sign_up("neighbour@example.com");
    for (number, (sql, reply)) in [
        ("UPDATE tokens SET cache_id = 'none' WHERE id = '{}'", FAILURE),
        ("UPDATE tokens SET secret_hash = '' WHERE id = '{}'", FAILURE),
        ("UPDATE tokens SET secret_hash = upper(secret_hash) || '0' WHERE id = '{}'", FAILURE),
        ("UPDATE tokens SET revoked_at = 0 WHERE id = '{}'", FAILURE),
        ("DELETE FROM tokens WHERE id = '{}'", FAILURE),
        ("UPDATE users SET state = '' WHERE id = ({USER_OF} WHERE t.id = '{}')", AWAY),
        ("UPDATE users SET state = 'ACTIVE' WHERE id = ({USER_OF} WHERE t.id = '{}')", AWAY),
        ("DELETE FROM instances WHERE cache_id = (SELECT cache_id FROM tokens WHERE id = '{}')", FAILURE),
    ]
    .into_iter()
    .enumerate()
    {
        let token = proxy.sign_up(&format!("user{number}@example.com"));
        let sql = sql.replace("{USER_OF}", USER_OF).replace("{}", token.id().as_str());
        execute(&proxy, &sql);
        assert_eq!(proxy.exchange_text(&text::login(&token)), reply, "{sql}");
        assert_eq!(
            proxy.exchange_text(&format!("{}quit\r\n", text::login(&neighbour))),
            "STORED\r\n",
            "{sql}"
        );
    }
}

// F-26: a load balancer would take the only proxies away from clients whose logins work.
#[test]
fn proxy_stays_ready_while_known_tokens_log_in_without_a_store() {
    let proxy = TestProxy::start();
    let login = text::set("x", &text::credential(&proxy.sign_up("ann@example.com")));
    let session = || proxy.exchange_text(&format!("{login}quit\r\n"));
    assert_eq!(session(), "STORED\r\n");
    let code = |path: &str| proxy.http_get(path)[9..12].to_owned();
    let codes = || ["/healthz", "/readyz", "/storez"].map(code);
    assert_eq!(codes(), ["200", "200", "200"]);
    execute(&proxy, "ALTER TABLE revision RENAME TO gone");
    wait_until("the outage is reported", || code("/storez") == "503");
    assert_eq!(codes(), ["200", "200", "503"]);
    let ready = proxy.http_get("/readyz");
    assert!(ready.contains("\r\n\r\nready: the store is unavailable ("), "{ready}");
    assert_eq!(session(), "STORED\r\n");
    execute(&proxy, "ALTER TABLE gone RENAME TO revision");
    wait_until("the store is back", || proxy.http_get("/readyz").ends_with("\r\n\r\nready\n"));
    assert_eq!(codes(), ["200", "200", "200"]);
}

// R-15, F-4, F-26, P-3.
/// Only in a long run: the store must be unavailable for the lifetime of cached grants.
#[test]
fn known_token_works_30_seconds_without_a_store() {
    if !is_long_run() {
        return;
    }
    let proxy = TestProxy::start();
    let login = text::set("x", &text::credential(&proxy.sign_up("ann@example.com")));
    let session = || proxy.exchange_text(&format!("{login}quit\r\n"));
    assert_eq!(session(), "STORED\r\n");
    execute(&proxy, "ALTER TABLE revision RENAME TO gone");
    let started = Instant::now();
    while session() == "STORED\r\n" {
        assert!(started.elapsed() < Duration::from_secs(40), "the cached grant never expires");
        std::thread::yield_now();
    }
    assert!(started.elapsed() > Duration::from_secs(25), "{:?}", started.elapsed());
    assert_eq!(session(), AWAY);
    wait_until("it can't serve", || proxy.http_get("/readyz").starts_with("HTTP/1.1 503"));
    assert!(proxy.http_get("/healthz").starts_with("HTTP/1.1 200"), "restarting it would not help");
    execute(&proxy, "ALTER TABLE gone RENAME TO revision");
    let back = Instant::now();
    while session() != "STORED\r\n" {
        assert!(back.elapsed() < Duration::from_secs(10), "logins do not recover");
    }
}

// F-15.
#[test]
fn corrupt_row_affects_only_its_own_user() {
    let proxy = TestProxy::start();
    let (ann, bob) = (proxy.sign_up("ann@example.com"), proxy.sign_up("bob@example.com"));
    let (mut hers, mut his) = (proxy.log_in(&ann), proxy.log_in(&bob));
    let cache = proxy.runtime.block_on(proxy.store.token(&ann.id())).unwrap().unwrap().cache_id;
    execute(&proxy, &format!("UPDATE instances SET connections = 'many' WHERE cache_id = '{cache}'"));
    // Both rows are read again, Ann's first.
    proxy.update_permissions(&ann.id(), |permissions| permissions.expires_at = None);
    proxy.runtime.block_on(proxy.store.revoke_token(&bob.id())).unwrap();
    let revoked_at = Instant::now();
    assert!(is_closed(&mut hers) && is_closed(&mut his));
    assert!(revoked_at.elapsed() < PROPAGATION_TIMEOUT, "{:?}", revoked_at.elapsed());
    assert_eq!(proxy.exchange_text(&text::login(&ann)), AWAY);
    assert_eq!(proxy.exchange_text(&text::login(&bob)), FAILURE);
}

#[test]
fn proxy_exits_when_the_stores_revision_goes_backwards() {
    let mut proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let mut live = proxy.log_in(&token);
    execute(&proxy, "UPDATE revision SET value = 1");
    wait_until("the proxy ends", || proxy.thread.as_ref().unwrap().is_finished());
    let ended = proxy.thread.take().unwrap().join().unwrap();
    assert!(
        ended.unwrap_err().to_string().contains("went back to an earlier revision"),
        "the error must name the cause"
    );
    assert!(is_closed(&mut live));
}
