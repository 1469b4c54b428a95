//! What is wanted and what is so: the meeting point of all roles, and the only crate that names sqlx.
//!
//! One SQL text serves SQLite and PostgreSQL. Each statement is one function; each column has one
//! writer (see `migrations/`). This crate never dials a cache, never sees Docker and never logs a
//! secret.

mod account;
mod address;
mod audit;
mod certificate;
mod db;
mod error;
mod feed;
mod files;
mod grant;
mod installation;
mod instance;
mod keys;
mod lead;
mod leak;
mod live;
mod plan;
mod proxy;
mod refusal;
mod route;
mod session;
mod time;
mod token;
mod usage;
mod user;

pub use account::NewPassword;
pub use address::{Lease, Network};
pub use audit::{AuditChain, AuditEntry, AuditError};
pub use certificate::{BadFingerprint, CertificateRow, Fingerprint};
pub use db::{Database, Store};
pub use error::StoreError;
pub use feed::{Changes, Feed};
pub use grant::Grant;
pub use instance::{Instance, InstanceState, Wanted};
pub use keys::{KeyError, LaneKey, TokenKey};
pub use lead::Lead;
pub use leak::{Found, Leak};
pub use live::{ConnectionId, ConnectionWish, LiveConnection, LiveConnections, NoConnectionId};
pub use plan::Plan;
pub use proxy::{Acknowledged, Proxy};
pub use refusal::{Cause, Refusal};
pub use route::{Observed, Route};
pub use session::{NewSession, Session};
pub use time::{BadSpan, Millis, now, span};
pub use token::{
    BadPrefix, Cidr, CidrError, KeyPrefix, NewToken, NoSuchScope, Powers, Scopes, ScramKeys, Token,
    TokenFormatError, TokenId, TokenRow, TokenSecret, TooManyNetworks, Verifier,
};
pub use usage::{Usage, UsageReport};
pub use user::{NewUser, User, UserState};
