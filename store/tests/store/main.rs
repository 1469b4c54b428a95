//! The store against real databases: every test body runs on SQLite and on PostgreSQL.

/// Makes a test for SQLite and one for PostgreSQL of each `async fn name(scratch: Scratch)`.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::scratch::Scratch::sqlite()).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::scratch::Scratch::postgres().await).await;
            })+
        }
    };
}

mod accounts;
mod addresses;
mod audit;
mod caches;
mod certificates;
mod child;
mod connections;
mod denials;
mod errors;
mod feed;
mod files;
mod keys;
mod leader;
mod leaks;
mod migrations;
mod people;
mod permissions;
mod plans;
mod proxies;
mod routes;
mod scratch;
mod server;
mod sessions;
mod tokens;
mod usage;
