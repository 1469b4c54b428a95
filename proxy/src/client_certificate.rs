//! The client certificate that has authenticated a connection.

use store::{Fingerprint, Timestamp};

/// What a connection remembers of its certificate, to end with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientCertificate {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) not_after: Timestamp,
}
