//! What a connection is once it has logged in.

use std::net::IpAddr;
use std::sync::Arc;

use store::{Grant, Millis};

use super::login::Replies;
use crate::protocol::Protocol;
use crate::transport::Stream;

/// A connection that has shown a good token, or a certificate that was issued for one.
pub(crate) struct AuthenticatedConnection {
    pub(crate) stream: Stream,
    pub(crate) source: IpAddr,
    pub(crate) grant: Arc<Grant>,
    /// `None` if a certificate has logged it in: it needn't have said anything yet.
    pub(crate) login: Option<Login>,
    /// When that certificate is over; never, without one.
    pub(crate) ends_at: Millis,
}

/// How somebody has logged in.
pub(crate) struct Login {
    pub(crate) protocol: Protocol,
    /// What it has sent behind its login.
    pub(crate) rest: Vec<u8>,
    /// To be said by its tenant: `welcome`, or `full`.
    pub(crate) replies: Replies,
}
