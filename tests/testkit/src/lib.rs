//! What the workspace's tests share: a proxy and real memcacheds to run against, request builders, random
//! numbers and ports. Only tests may depend on this crate. Everything here panics when it fails, as a test
//! does.

pub mod binary;
mod chunks;
mod exclusive;
mod executable;
mod limits;
mod memcached;
mod metrics;
mod namespace;
mod network;
mod postgres;
mod rng;
mod set_on_drop;
mod standalone;
mod test_proxy;
pub mod text;

pub use chunks::chunks;
pub use exclusive::{Exclusive, exclusive};
pub use executable::{MemcachedBinary, Version, memcached_tool};
pub use limits::{is_long_run, raise_file_limit};
pub use memcached::{Memcached, lane_credential, record_route};
pub use metrics::check_metrics;
pub use namespace::Namespace;
pub use network::{connect_from, free_port};
pub use postgres::Postgres;
pub use rng::Rng;
pub use set_on_drop::SetOnDrop;
pub use standalone::{AdminConnection, StandaloneMemcached};
pub use test_proxy::{TestProxy, lane_key, token_key};
