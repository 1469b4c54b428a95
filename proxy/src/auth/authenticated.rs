//! A connection that has logged in.

use std::net::IpAddr;
use std::sync::Arc;

use store::Grant;

use super::pending::Admission;
use crate::client_certificate::ClientCertificate;
use crate::login::Login;
use crate::transport::Stream;

/// A connection that has presented a valid token, or a certificate that was issued for one.
pub(crate) struct AuthenticatedConnection {
    pub(crate) stream: Stream,
    pub(crate) source: IpAddr,
    pub(crate) grant: Arc<Grant>,
    /// `None` if a certificate has logged it in: it may not have sent anything yet.
    pub(crate) login: Option<Login>,
    /// That certificate.
    pub(crate) certificate: Option<ClientCertificate>,
    /// Where the connection counts until its session is registered.
    pub(crate) admission: Admission,
}
