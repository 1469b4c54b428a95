//! The database's clock, and the rows of its tables.

use std::time::Duration;

use crate::test_db::TestDb;

async fn clock_is_this_machines(db: TestDb) {
    let store = db.open().await;
    let deviation = store.clock_deviation().await.unwrap();
    assert_eq!(deviation.is_some(), db.is_postgres());
    assert!(deviation.is_none_or(|it| it.at_least < Duration::from_secs(1)), "{deviation:?}");
}

async fn rows_of_all_tables_are_counted(db: TestDb) {
    let store = db.open().await;
    let counts = store.row_counts().await.unwrap();
    let count = |name: &str| counts.iter().find(|(table, _)| table == name).map(|(_, rows)| *rows);
    assert_eq!(
        (count("revision"), count("users"), count("plans")),
        (Some(1), Some(0), Some(1)),
        "{counts:?}"
    );
    assert!(!counts.iter().any(|(table, _)| table.starts_with("_sqlx")));
}

on_both! { clock_is_this_machines, rows_of_all_tables_are_counted }
