//! Tests of the web UI over HTTP, with a SQLite store.

mod account;
mod browser;
mod ca_certificate;
mod cache_events;
mod certificates;
mod connect;
mod connections;
mod csrf;
mod denials;
mod edit_permissions;
mod escaping;
mod floods;
mod harness;
mod headers;
mod host_header;
mod leak_reports;
mod no_cache;
mod outage;
mod password_limits;
mod permissions;
mod rate_limits;
mod repairs;
mod sessions;
mod sign_in;
mod sign_up;
mod tokens;
