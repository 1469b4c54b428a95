//! The proxy over real sockets, with a real store and, where a test needs one, a real memcached.

mod backoff;
mod buffers;
mod certificates;
mod connection;
mod denials;
mod descriptors;
mod expiry;
mod hostile_backend;
mod large_values;
mod live_connections;
mod login_sequences;
mod metrics;
mod permissions;
mod pipelining;
mod proxy_protocol;
mod rate_limit;
mod revocation;
mod scram;
mod shutdown;
mod store_outage;
mod tls;
mod token_limits;
mod transcripts;
mod unreachable_backend;
mod usage;
mod versions;
