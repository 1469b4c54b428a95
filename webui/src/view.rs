//! Store rows as pages show them. No request and no template in here.

pub(crate) mod activity;
pub(crate) mod cache_state;
pub(crate) mod chart;
pub(crate) mod contact;
pub(crate) mod date;
pub(crate) mod denials;
pub(crate) mod endpoint;
pub(crate) mod notification;
pub(crate) mod number;
pub(crate) mod operation;
pub(crate) mod revealed_token;
pub(crate) mod session;
pub(crate) mod sleep;
pub(crate) mod snippets;
pub(crate) mod token;
