//! The section `[webui.webhooks]`: whether users may have notifications sent to addresses of theirs, and to which.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use store::Cidr;

/// The section `[webui.webhooks]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    /// Whether users may have webhooks.
    pub enabled: bool,
    /// Private networks whose receivers may be sent to, also without TLS: `["10.1.0.0/16"]`. Without any, webhooks go to public
    /// addresses only. Networks of caches are refused all the same, and addresses of the machine itself, unless such an address is
    /// named alone.
    pub allow_networks: Vec<Cidr>,
    /// Networks that are refused although they look public: those that only your own machines reach, such as the prefix of a NAT64.
    pub refuse_networks: Vec<Cidr>,
    /// CA certificates (PEM) that receivers' certificates may be signed by, beside those that browsers trust.
    pub ca_certificate: Option<PathBuf>,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self { enabled: true, allow_networks: Vec::new(), refuse_networks: Vec::new(), ca_certificate: None }
    }
}
