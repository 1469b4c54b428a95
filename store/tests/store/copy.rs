//! A SQLite store is copied to an empty PostgreSQL one.

use store::{NewToken, Store, StoreError};

use crate::test_db::{TestDb, first_cache, sign_up, token_key};

/// Every table with the number of its rows.
async fn counts(db: &TestDb, tables: &[(String, i64)]) -> Vec<(String, i64)> {
    let mut counts = Vec::new();
    for (table, _) in tables {
        counts.push((table.clone(), db.number(&format!("SELECT COUNT(*) FROM \"{table}\"")).await));
    }
    counts
}

/// All tables, in the order of their creation.
async fn tables(db: &TestDb) -> Vec<(String, i64)> {
    db.pairs(
        "SELECT name, 0 FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' \
         AND name NOT LIKE '_sqlx%' ORDER BY rowid",
    )
    .await
}

/// Adds a row to each table that has none: references lead to an earlier table's row, and a text is the first one that the
/// table allows.
async fn fill_empty_tables(db: &TestDb) {
    for (table, rows) in counts(db, &tables(db).await).await {
        if rows > 0 {
            continue;
        }
        let (definition, _) =
            db.pairs(&format!("SELECT sql, 0 FROM sqlite_master WHERE name = '{table}'")).await.remove(0);
        let definition = definition.split_whitespace().collect::<Vec<_>>().join(" ");
        let references = format!(
            "SELECT \"from\" || ' ' || \"to\" || ' FROM ' || \"table\", 0 FROM pragma_foreign_key_list('{table}')"
        );
        let references = db.pairs(&references).await;
        let columns =
            db.pairs(&format!("SELECT name, type = 'TEXT' FROM pragma_table_info('{table}')")).await;
        let value = |(column, is_text): &(String, i64)| {
            let reference = references.iter().find_map(|(it, _)| it.strip_prefix(&format!("{column} ")));
            let allowed = definition.split_once(&format!("CHECK ({column} IN ("));
            match (reference, allowed) {
                (Some(reference), _) => format!("(SELECT {reference} LIMIT 1)"),
                (_, Some((_, values))) => values.split([',', ')']).next().unwrap().to_owned(),
                // Hours are whole.
                _ if column == "hour" => "3600000".to_owned(),
                _ if *is_text == 1 => "'x'".to_owned(),
                _ => "1".to_owned(),
            }
        };
        let names: Vec<String> = columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let values: Vec<String> = columns.iter().map(value).collect();
        let insert = format!("INSERT INTO \"{table}\" ({}) VALUES ({})", names.join(", "), values.join(", "));
        db.execute(&insert).await.unwrap_or_else(|error| panic!("{insert}: {error}"));
    }
}

async fn filled(db: &TestDb) -> Store {
    let store = db.open().await;
    store.record_installation_id("abc123").await.unwrap();
    for number in 0..3 {
        let (user, _) = sign_up(&store, &format!("user{number}@example.org")).await;
        let cache = first_cache(&store, &user).await;
        for name in ["laptop \"><script> \u{202e}", "", "Übung", "'; DROP TABLE tokens; --"] {
            store.create_token(&cache, &NewToken::generate(&token_key(), name)).await.unwrap();
        }
    }
    // More than one statement takes.
    let many = "INSERT INTO proxies (id, name, version, started_at, seen_at, applied) \
                WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1234) \
                SELECT 'proxy' || i, 'host', '1', i, i, 9223372036854775807 FROM n";
    db.execute(many).await.unwrap();
    fill_empty_tables(db).await;
    store
}

#[tokio::test]
async fn every_row_is_copied_as_it_is() {
    let (from, to) = (TestDb::sqlite(), TestDb::postgres().await);
    let (old, new) = (filled(&from).await, to.open().await);
    let mut last = (String::new(), 0);
    let mut copied = 0;
    let rows = old
        .copy_to(&new, |progress| {
            copied += usize::from(last.0 != progress.table);
            last = (progress.table.to_owned(), progress.rows);
        })
        .await
        .unwrap();
    let names = tables(&from).await;
    let before = counts(&from, &names).await;
    assert_eq!(counts(&to, &names).await, before);
    assert_eq!(before.iter().find(|(_, count)| *count == 0), None, "a table without a row");
    assert!(copied == before.len() && rows > 1234, "{copied} {rows}");
    assert_eq!(u64::try_from(before.iter().map(|(_, count)| count).sum::<i64>()).unwrap(), rows);
    for sql in [
        "SELECT id || name || secret_hash || scram_server_key || COALESCE(key_prefix, '-'), created_at FROM tokens ORDER BY id",
        "SELECT id || email || state || COALESCE(password_hash, '-'), revision FROM users ORDER BY id",
        "SELECT hash || detail || actor, seq FROM audit ORDER BY seq",
        "SELECT id, applied FROM proxies ORDER BY started_at",
        "SELECT 'revision', value FROM revision",
    ] {
        assert_eq!(to.pairs(sql).await, from.pairs(sql).await, "{sql}");
    }
    assert_eq!(new.installation_id().await.unwrap().as_deref(), Some("abc123"));
    // The audit log goes on where it was.
    sign_up(&new, "next@example.org").await;
    assert!(to.number("SELECT MAX(seq) FROM audit").await > from.number("SELECT MAX(seq) FROM audit").await);
}

#[tokio::test]
async fn a_store_that_is_used_is_not_replaced() {
    let (from, to) = (TestDb::sqlite(), TestDb::postgres().await);
    let (old, new) = (filled(&from).await, to.open().await);
    sign_up(&new, "other@example.org").await;
    let error = old.copy_to(&new, |_| {}).await.unwrap_err();
    assert!(matches!(error, StoreError::InUse("database")), "{error}");
    assert_eq!(to.number("SELECT COUNT(*) FROM users").await, 1);
}

#[tokio::test]
async fn a_value_that_postgresql_cannot_hold_stops_the_copy_and_names_its_table() {
    for sql in [
        "UPDATE tokens SET name = 'a' || char(0) || 'b'",
        "UPDATE tokens SET name = X'ff'",
        "UPDATE tokens SET created_at = 'yesterday'",
    ] {
        let (from, to) = (TestDb::sqlite(), TestDb::postgres().await);
        let (old, new) = (filled(&from).await, to.open().await);
        from.execute(sql).await.unwrap();
        let error = old.copy_to(&new, |_| {}).await.unwrap_err();
        assert!(matches!(&error, StoreError::Unreadable(table) if table == "tokens"), "{sql}: {error}");
        assert_eq!(to.number("SELECT COUNT(*) FROM users").await, 0, "nothing is copied");
        assert_eq!(to.number("SELECT COUNT(*) FROM plans").await, 1);
    }
}
