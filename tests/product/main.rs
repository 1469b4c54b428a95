//! Tests of the whole product: real roles, real Docker, real clients, a real browser. Each test runs its own
//! `memgate up` with its own data, ports and installation id, and removes everything afterwards.

mod address_reuse;
mod broken_role;
mod browser;
mod client_libraries;
mod client_operations;
mod client_suites;
mod commands;
mod commands_with_proxy;
mod containers;
mod crashes;
mod database;
mod documents;
mod first_use;
mod harness;
mod health;
mod life;
mod lifecycle;
mod many_users;
mod metering;
mod metrics;
mod operations;
mod private_files;
mod privileges;
mod reverse_proxies;
mod rust_client;
mod self_healing;
mod sign_ins;
mod snippets;
mod store_away;
mod supervision;
mod text_client;
mod upgrade;
mod user_states;
mod victim;
mod with_sudo;
