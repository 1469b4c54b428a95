//! The web UI over real HTTP, on a real database.

mod account;
mod authority;
mod browser;
mod certificates;
mod change;
mod connections;
mod csrf;
mod denials;
mod harness;
mod headers;
mod leaks;
mod limits;
mod live;
mod permissions;
mod sessions;
mod sign_in;
mod sign_up;
mod text;
mod tokens;
mod trouble;
