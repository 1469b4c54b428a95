//! `memgate image`: the memcached image of all instances.

mod show;
mod upgrade;

use std::path::PathBuf;

use serde::Serialize;

use self::upgrade::Upgrade;
use super::context::{self, Context};
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::{self, CliError};
use crate::role::runtime;
use crate::settings::Settings;

pub(super) use show::{age_text, shown_version};

/// Manage the memcached image
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ImageCommand {
    /// Build the image from the distribution's memcached package or from a memcached that you have built, or pull the
    /// configured image
    #[command(after_help = "\
Examples:
  memgate image build --data /var/lib/memgate
  memgate image build --binary ~/memcached-1.6.45/memcached

New containers get the image that was built last; `memgate image upgrade` gives it to those that run.
The package is downloaded and unpacked but not installed: its service would occupy port 11211.
With --binary, libraries that this host lacks come from the package's. The program is never run on this host: it tells its
version in a container without network. It must be memcached 1.6.18 or newer, for this machine's architecture.
With `image = \"memcached:1.6@sha256:...\"` under [provisioner], that image is pulled instead.")]
    Build {
        /// The memcached program that you have built
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
    },
    /// Show the image that new containers get, its memcached's version and age, and the last upgrade
    #[command(after_help = "\
Example:
  memgate image show

An image that is older than provisioner.image_age_days is called old: build a newer one, then run `memgate image upgrade`.")]
    Show,
    /// Restart all instances with another image than new ones get, a few at a time
    #[command(after_help = "\
Examples:
  memgate image upgrade
  memgate image upgrade --parallel 4 --no-wait
  memgate image upgrade --pause
  memgate image upgrade --resume
  memgate image upgrade --abort

Proxies hold requests while an instance restarts. The first instance is restarted alone. The upgrade goes on by itself, also
after a crash or a restart of memgate, and stops when two restarts in a row, or of the first five, fail: caches keep the
image that they have then. Build another image and --resume.
Exit status 1: it has stopped, or was paused or aborted meanwhile; 3: it isn't done yet, and goes on.")]
    Upgrade(Upgrade),
}

#[derive(Debug, Serialize)]
struct Built {
    image: String,
}

impl ImageCommand {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        match self {
            Self::Build { binary } => build(global, binary),
            Self::Show => context::with_store(global, async |context: &Context| show::show(context).await),
            Self::Upgrade(upgrade) => {
                context::with_store(global, async |context: &Context| upgrade.run(context).await)
            }
        }
    }
}

fn build(global: &GlobalArgs, binary: Option<PathBuf>) -> Result<(), CliError> {
    let settings = Settings::load(global)?;
    daemon::telemetry::init(&settings.log.filter, settings.log.format);
    let data_dir = DataDir::of(global);
    let image = runtime()?.block_on(async {
        // Only to compare, as `memgate down` does.
        let store = data_dir.open_store(&settings).await?;
        data_dir.close_store(&settings, &store).await;
        let id = data_dir.installation_id()?;
        let config = data_dir.provisioner_config(&settings);
        Ok::<_, CliError>(match &binary {
            None => provisioner::build_image(&config, &id).await?,
            Some(binary) => provisioner::build_image_from(&config, &id, binary).await?,
        })
    })?;
    let built = Built { image };
    output::print(global.json, &built, || built.image.clone())
}
