//! The last lines of `memgate up` on stdout, which scripts wait for, and the next step on stderr.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::output::{self, CliError};
use crate::settings::{Settings, local_address};

/// Printed when everything is ready.
#[derive(Debug, Serialize)]
struct ReadyReport {
    web: String,
    endpoint: String,
    /// The CA certificate that TLS clients must trust, if the server certificate is the installation's own.
    ca: Option<PathBuf>,
    /// Where others than this machine's users get it.
    ca_url: Option<String>,
    ready: bool,
}

/// Prints the addresses. `data` is the data directory as the operator sees it.
///
/// # Errors
/// If stdout can't be written.
pub(super) fn print(
    settings: &Settings,
    data: &Path,
    ca: Option<PathBuf>,
    json: bool,
) -> Result<(), CliError> {
    let base_url = settings.webui.base_url.clone();
    let web = base_url.unwrap_or_else(|| format!("http://{}", local_address(settings.webui.listen)));
    let endpoint = settings.webui.endpoint.clone();
    let ca_url = ca.as_ref().map(|_| format!("{web}/ca.pem"));
    let ready = ReadyReport { web, endpoint, ca, ca_url, ready: true };
    output::print(json, &ready, || ready.text())?;
    if !json {
        let (web, data) = (&ready.web, data.display());
        eprintln!("next: sign up at {web}, or run `memgate --data {data} user add EMAIL` as root");
    }
    Ok(())
}

impl ReadyReport {
    fn text(&self) -> String {
        let trust = match (&self.ca, &self.ca_url) {
            (Some(ca), Some(url)) => format!("TLS: let clients trust {}, also at {url}\n", ca.display()),
            _ => String::new(),
        };
        format!("{trust}web UI: {}\nendpoint: {}\nmemgate is ready\n", self.web, self.endpoint)
    }
}
