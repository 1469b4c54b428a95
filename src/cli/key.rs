//! `memgate key`: what further proxies need of an installation.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use store::DatabaseRole;

use super::context::{self, Context};
use crate::ca;
use crate::global_args::GlobalArgs;
use crate::key_file::KeyFile;
use crate::output::CliError;

/// Manage what further proxies need of this installation
#[derive(Debug, clap::Subcommand)]
pub(crate) enum KeyCommand {
    /// Write the key file with which further proxies run: they need no data directory
    #[command(after_help = "\
Example:
  sudo memgate key export proxy.keys
  sudo install -D --owner memgate-proxy --mode 0600 proxy.keys /etc/memgate/proxy.keys
  sudo -u memgate-proxy MEMGATE_PROXY__LISTEN=0.0.0.0:11212 MEMGATE_PROXY__HEALTH=127.0.0.1:9161 \\
      memgate proxy --keys /etc/memgate/proxy.keys

The file has the keys of token hashes and lanes, the address of the PostgreSQL database with the proxies' own user, the
instances' networks, and the certificate with its private key. It has nothing that only the web UI or the provisioner
needs. Keep it secret. Export it again, and copy it over the old one, when the certificate is renewed (each start of
`memgate up` and each month; 397 days at most): running proxies notice.")]
    Export {
        /// The file to write; an existing one is replaced
        file: PathBuf,
    },
}

#[derive(Debug, Serialize)]
struct Exported {
    file: PathBuf,
    installation: String,
    /// Whether it has a certificate.
    tls: bool,
}

impl KeyCommand {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        let Self::Export { file } = self;
        context::with_store(global, async |context: &Context| {
            let key_file = key_file(context).await?;
            key_file.write(&file)?;
            let exported =
                Exported { tls: key_file.has_tls(), installation: key_file.installation, file: file.clone() };
            context.print(&exported, || text(&exported))
        })
    }
}

async fn key_file(context: &Context) -> Result<KeyFile, CliError> {
    let Context { settings, data_dir, store, .. } = context;
    let Some(store_url) = data_dir.role_store_url(settings, DatabaseRole::Proxy)? else {
        return Err(CliError::new(
            "the store is a SQLite file, which only the roles of one data directory can use",
            "move to PostgreSQL: set store.url, and start again",
        ));
    };
    if !data_dir.has_role_users(settings)? {
        return Err(CliError::new(
            "proxies have no database user of their own: a file with this one's password could do everything",
            "run `memgate migrate --roles` first, and start memgate again",
        ));
    }
    let installation = data_dir.installation_id()?;
    let (token_key, lane_key) = (data_dir.token_key(store).await?, data_dir.lane_key(store).await?);
    let proxy = &settings.proxy;
    let tls = match (&proxy.tls_certificate, &proxy.tls_key) {
        (Some(certificate), Some(key)) => Some(pem(certificate, key)?),
        _ => {
            let [certificate, key] = [ca::SERVER, ca::SERVER_KEY].map(|name| data_dir.path().join(name));
            if certificate.exists() { Some(pem(&certificate, &key)?) } else { None }
        }
    };
    let subnets = settings.provisioner.subnets.clone();
    Ok(KeyFile::new(installation, (&token_key, &lane_key), subnets, store_url, tls))
}

/// Chain and private key in one text.
fn pem(certificate: &Path, key: &Path) -> Result<String, CliError> {
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|error| {
            let what = format!("can't read {} ({error})", path.display());
            CliError::new(what, "run this as root, and check proxy.tls_certificate and proxy.tls_key")
        })
    };
    Ok(format!("{}\n{}\n", read(certificate)?.trim_end(), read(key)?.trim_end()))
}

fn text(exported: &Exported) -> String {
    let file = exported.file.display();
    let tls = if exported.tls { "" } else { "\nIt has no certificate: its proxies speak no TLS." };
    format!("{file} is written. Each further proxy runs with a copy: memgate proxy --keys FILE{tls}")
}
