//! The whole product: real roles, real Docker, real clients, a real browser. Each test runs its own
//! `memgate up` with its own data, ports and installation id, and leaves nothing behind.

mod accounts;
mod browser;
mod clients;
mod command;
mod denials;
mod faults;
mod lifecycle;
mod many;
mod privileges;
mod rust_client;
mod support;
mod text;
