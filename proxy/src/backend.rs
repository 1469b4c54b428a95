//! A tenant's side towards its memcached.

pub(crate) mod dedicated_pool;
