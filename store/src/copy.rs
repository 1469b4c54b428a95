//! Copies a SQLite store to an empty PostgreSQL one, row by row, so that an installation moves without losing a token.

use futures_util::TryStreamExt as _;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Postgres, QueryBuilder, Row as _, Sqlite, Transaction};

use crate::db::postgres::{quoted, run};
use crate::db::{Db, lift_cpu_limit};
use crate::{Store, StoreError};

/// Rows of one INSERT.
const BATCH_MAX: usize = 500;
/// Parameters of one statement of PostgreSQL, with some left.
const PARAMETERS_MAX: usize = 60_000;

/// Tables in the order of their creation: each refers to earlier ones only.
const TABLES: &str = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' \
     AND name NOT LIKE '_sqlx_%' ORDER BY rowid LIMIT 1000";
const COLUMNS: &str = "SELECT name, type FROM pragma_table_info($1) ORDER BY cid LIMIT 1000";
/// What a store has that somebody used: its rows would be lost.
const IS_USED: &str = "SELECT EXISTS (SELECT 1 FROM installation) OR EXISTS (SELECT 1 FROM users)";

/// A value of a row: the only two types of columns.
enum Value {
    Text(Option<String>),
    Number(Option<i64>),
}

struct Column {
    name: String,
    is_text: bool,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy)]
pub struct CopyProgress<'a> {
    /// The table that is copied.
    pub table: &'a str,
    /// Its rows that are copied.
    pub rows: u64,
}

impl Store {
    /// Copies everything of this SQLite store to the PostgreSQL store `target`, which has tables of this version and nothing
    /// else. While it runs, nobody can write this one. Returns the number of rows.
    ///
    /// Either all is copied or nothing.
    ///
    /// # Errors
    /// `InUse("database")` if the target has an installation or users; `Unreadable` with the table's name if a value isn't of its
    /// column's type, or is text that PostgreSQL can't hold; `Unsupported` with other databases.
    pub async fn copy_to(
        &self,
        target: &Self,
        mut progress: impl FnMut(CopyProgress<'_>),
    ) -> Result<u64, StoreError> {
        let (Db::Sqlite { write, .. }, Db::Postgres(pool)) = (&self.db, &target.db) else {
            return Err(StoreError::Unsupported("only SQLite is copied, and only to PostgreSQL"));
        };
        let mut from = self.begin_sqlite(write).await?;
        lift_cpu_limit(&mut from).await?;
        let mut to = pool.get().begin().await?;
        // Copying takes as long as it takes, and nobody else uses the target yet.
        sqlx::raw_sql("SET LOCAL idle_in_transaction_session_timeout = 0").execute(&mut *to).await?;
        sqlx::raw_sql("LOCK TABLE installation, users, revision IN ACCESS EXCLUSIVE MODE")
            .execute(&mut *to)
            .await?;
        if sqlx::query_scalar(IS_USED).fetch_one(&mut *to).await? {
            return Err(StoreError::InUse("database"));
        }
        let tables: Vec<String> = sqlx::query_scalar(TABLES).fetch_all(&mut *from).await?;
        // What migrations have put there, in the order in which nothing refers to it.
        for table in tables.iter().rev() {
            run(&mut to, format!("DELETE FROM {}", quoted(table))).await?;
        }
        let mut copied = 0;
        for table in &tables {
            copied += copy_table(&mut from, &mut to, table, &mut progress).await?;
        }
        to.commit().await?;
        from.rollback().await?;
        Ok(copied)
    }
}

async fn copy_table(
    from: &mut Transaction<'static, Sqlite>,
    to: &mut Transaction<'static, Postgres>,
    table: &str,
    progress: &mut impl FnMut(CopyProgress<'_>),
) -> Result<u64, StoreError> {
    let columns: Vec<(String, String)> = sqlx::query_as(COLUMNS).bind(table).fetch_all(&mut **from).await?;
    let columns: Vec<Column> =
        columns.into_iter().map(|(name, of_type)| Column { name, is_text: of_type == "TEXT" }).collect();
    let names: Vec<String> = columns.iter().map(|column| quoted(&column.name)).collect();
    let names = names.join(", ");
    let batch_max = BATCH_MAX.min(PARAMETERS_MAX / columns.len().max(1));
    let select = AssertSqlSafe(format!("SELECT {names} FROM {}", quoted(table)));
    let mut rows = sqlx::query(select).fetch(&mut **from);
    let (mut batch, mut copied) = (Vec::with_capacity(batch_max), 0);
    loop {
        let row = rows.try_next().await?;
        let is_last = row.is_none();
        if let Some(row) = row {
            batch.push(values(&row, &columns).ok_or_else(|| invalid(table))?);
        }
        if batch.len() == batch_max || (is_last && !batch.is_empty()) {
            copied += insert(to, table, &names, &mut batch).await?;
            progress(CopyProgress { table, rows: copied });
        }
        if is_last {
            return Ok(copied);
        }
    }
}

/// The values of a row; `None` if one isn't of its column's type.
fn values(row: &SqliteRow, columns: &[Column]) -> Option<Vec<Value>> {
    let value = |(at, column): (usize, &Column)| {
        if column.is_text {
            let text: Option<String> = row.try_get(at).ok()?;
            // PostgreSQL has no text with this character.
            (!text.as_deref().is_some_and(|text| text.contains('\0'))).then_some(Value::Text(text))
        } else {
            row.try_get(at).ok().map(Value::Number)
        }
    };
    columns.iter().enumerate().map(value).collect()
}

async fn insert(
    to: &mut Transaction<'static, Postgres>,
    table: &str,
    names: &str,
    batch: &mut Vec<Vec<Value>>,
) -> Result<u64, StoreError> {
    let mut query = QueryBuilder::<Postgres>::new(format!("INSERT INTO {} ({names}) ", quoted(table)));
    query.push_values(batch.drain(..), |mut row, values| {
        for value in values {
            match value {
                Value::Text(text) => row.push_bind(text),
                Value::Number(number) => row.push_bind(number),
            };
        }
    });
    Ok(query.build().execute(&mut **to).await?.rows_affected())
}

fn invalid(table: &str) -> StoreError {
    StoreError::Unreadable(table.to_owned())
}
