//! Tests of the store with real databases: each runs on SQLite and on PostgreSQL.

/// Defines a test with SQLite and one with PostgreSQL for each `async fn name(db: TestDb)`.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::test_db::TestDb::sqlite()).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::test_db::TestDb::postgres().await).await;
            })+
        }
    };
}

mod accounts;
mod addresses;
mod administration;
mod api_keys;
mod api_requests;
mod audit;
mod broken_file;
mod broken_rows;
mod caches;
mod certificates;
mod concurrent_process;
mod connections;
mod copy;
mod database_roles;
mod denials;
mod errors;
mod feed;
mod files;
mod image_upgrades;
mod inspection;
mod instance_events;
mod isolation_checks;
mod key_fingerprints;
mod keys;
mod leader;
mod leaks;
mod life;
mod locks;
mod mail;
mod metering;
mod migrations;
mod notification_limits;
mod notifications;
mod opening;
mod operations;
mod page_reads;
mod permissions;
mod plans;
mod postgres_server;
mod proxies;
mod read_only;
mod ready_instances;
mod restored;
mod routes;
mod second_factors;
mod sessions;
mod statistics;
mod test_db;
mod token_uses;
mod tokens;
mod usage;
mod users;
mod webhook_locks;
mod webhooks;
