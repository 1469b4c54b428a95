//! A store that is broken at one place after the other: nobody gets in who wouldn't otherwise, and as soon
//! as it is whole again everybody does.

use std::process::Command;
use std::time::{Duration, Instant};

use super::door::{Door, pair, sasl, set};
use super::permissions::{AT_ONCE, ends};
use super::tls::until;
use super::{FAILURE, statuses};

const AWAY: &str = "SERVER_ERROR authentication unavailable\r\n";
/// All that a login reads.
const TABLES: [&str; 5] = ["revision", "tokens", "users", "instances", "routes"];

/// Runs SQL behind the store's back.
fn execute(door: &Door, sql: &str) {
    let program = "import sqlite3, sys\n\
                   db = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)\n\
                   db.execute('PRAGMA ignore_check_constraints = 1')\n\
                   db.execute(sys.argv[2])\n";
    let done = Command::new("python3")
        .args(["-c", program])
        .arg(door.folder.path().join("memgate.db"))
        .arg(sql)
        .output()
        .unwrap();
    assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_table_that_cannot_be_read_lets_nobody_in() {
    let door = Door::open_with(|config| config.scram = true);
    let known = door.sign_up("known@example.com");
    let visit = |login: &str| door.text(&format!("{login}quit\r\n"));
    assert_eq!(visit(&set("x", &pair(&known))), "STORED\r\n");
    for (number, table) in TABLES.iter().enumerate() {
        let token = door.sign_up(&format!("user{number}@example.com"));
        let (user, secret) = (token.id().username(), token.secret().reveal());
        let text = [set("x", &pair(&token)), set("x", &token.reveal()), set(&user, secret)];
        let binary = [
            sasl(0x21, "PLAIN", &format!("\0{user}\0{secret}")),
            sasl(0x21, "SCRAM-SHA-256", &format!("n,,n={user},r=abc")),
        ];
        execute(&door, &format!("ALTER TABLE {table} RENAME TO gone"));
        for login in &text {
            assert_eq!(visit(login), AWAY, "without {table}");
        }
        for login in &binary {
            assert_eq!(statuses(&door.converse(&[login, &sasl(0, "a", "")[..]].concat())), [0x86], "{table}");
        }
        // Who was known before still is, and no other secret is better for it.
        assert_eq!(visit(&set("x", &pair(&known))), "STORED\r\n");
        assert_eq!(visit(&set("x", &format!("{} {secret}", known.id().username()))), FAILURE);
        execute(&door, &format!("ALTER TABLE gone RENAME TO {table}"));
        assert_eq!(visit(&text[0]), "STORED\r\n", "with {table} again");
    }
}

#[test]
fn rows_that_are_garbled_let_nobody_in() {
    let door = Door::open();
    let neighbour = door.sign_up("neighbour@example.com");
    for (number, (sql, said)) in [
        ("UPDATE tokens SET user_id = 'nobody' WHERE id = '{}'", FAILURE),
        ("UPDATE tokens SET secret_hash = '' WHERE id = '{}'", FAILURE),
        ("UPDATE tokens SET secret_hash = upper(secret_hash) || '0' WHERE id = '{}'", FAILURE),
        ("UPDATE tokens SET revoked_at = 0 WHERE id = '{}'", FAILURE),
        ("DELETE FROM tokens WHERE id = '{}'", FAILURE),
        ("UPDATE users SET state = '' WHERE id = (SELECT user_id FROM tokens WHERE id = '{}')", AWAY),
        ("UPDATE users SET state = 'ACTIVE' WHERE id = (SELECT user_id FROM tokens WHERE id = '{}')", AWAY),
        ("DELETE FROM instances WHERE user_id = (SELECT user_id FROM tokens WHERE id = '{}')", FAILURE),
    ]
    .into_iter()
    .enumerate()
    {
        let token = door.sign_up(&format!("user{number}@example.com"));
        execute(&door, &sql.replace("{}", token.id().as_str()));
        assert_eq!(door.text(&set("x", &pair(&token))), said, "{sql}");
        assert_eq!(door.text(&format!("{}quit\r\n", set("x", &pair(&neighbour)))), "STORED\r\n", "{sql}");
    }
}

/// Long: the store must be away for as long as known tokens are good without it.
#[test]
fn who_is_known_gets_in_for_half_a_minute_without_a_store() {
    if std::env::var_os("MEMGATE_TEST_LONG").is_none() {
        return;
    }
    let door = Door::open();
    let login = set("x", &pair(&door.sign_up("ann@example.com")));
    let visit = || door.text(&format!("{login}quit\r\n"));
    assert_eq!(visit(), "STORED\r\n");
    execute(&door, "ALTER TABLE revision RENAME TO gone");
    let begun = Instant::now();
    while visit() == "STORED\r\n" {
        assert!(begun.elapsed() < Duration::from_secs(40), "it is good for ever");
        std::thread::yield_now();
    }
    assert!(begun.elapsed() > Duration::from_secs(25), "{:?}", begun.elapsed());
    assert_eq!(visit(), AWAY);
    execute(&door, "ALTER TABLE gone RENAME TO revision");
    let back = Instant::now();
    while visit() != "STORED\r\n" {
        assert!(back.elapsed() < Duration::from_secs(10), "it isn't good again");
    }
}

#[test]
fn a_row_that_is_garbled_is_its_own_users_trouble() {
    let door = Door::open();
    let (ann, bob) = (door.sign_up("ann@example.com"), door.sign_up("bob@example.com"));
    let (mut hers, mut his) = (door.logged_in(&ann), door.logged_in(&bob));
    let user = door.runtime.block_on(door.store.token(&ann.id())).unwrap().unwrap().user_id;
    execute(&door, &format!("UPDATE instances SET connections = 'many' WHERE user_id = '{user}'"));
    // Both are read again, hers first.
    door.change(&ann.id(), |permissions| permissions.expires_at = None);
    door.runtime.block_on(door.store.revoke_token(&bob.id())).unwrap();
    let revoked_at = Instant::now();
    assert!(ends(&mut hers) && ends(&mut his));
    assert!(revoked_at.elapsed() < AT_ONCE, "{:?}", revoked_at.elapsed());
    assert_eq!(door.text(&set("x", &pair(&ann))), AWAY);
    assert_eq!(door.text(&set("x", &pair(&bob))), FAILURE);
}

#[test]
fn a_store_that_was_put_back_is_begun_anew() {
    let mut door = Door::open();
    let token = door.sign_up("ann@example.com");
    let mut live = door.logged_in(&token);
    execute(&door, "UPDATE revision SET value = 1");
    until("the proxy ends", || door.proxy.as_ref().unwrap().is_finished());
    let ended = door.proxy.take().unwrap().join().unwrap();
    assert!(
        ended.unwrap_err().to_string().contains("older than it was"),
        "whoever starts it again must know"
    );
    assert!(ends(&mut live));
}
