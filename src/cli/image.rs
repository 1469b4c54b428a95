//! `memgate image`: the memcached image of all instances.

use serde::Serialize;

use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::{self, CliError};
use crate::role::runtime;
use crate::settings::Settings;

/// Manage the memcached image
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ImageCommand {
    /// Build the image from the distribution's memcached package, or pull the configured image
    #[command(after_help = "\
Example:
  memgate image build --data /var/lib/memgate

The package is downloaded and unpacked but not installed: its service would occupy port 11211.
With `image = \"memcached:1.6@sha256:...\"` under [provisioner], that image is pulled instead.")]
    Build,
}

#[derive(Debug, Serialize)]
struct Built {
    image: String,
}

impl ImageCommand {
    pub(crate) fn run(&self, global: &GlobalArgs) -> Result<(), CliError> {
        let Self::Build = self;
        let settings = Settings::load(global)?;
        daemon::telemetry::init(&settings.log.filter, settings.log.format);
        let data_dir = DataDir::of(global);
        let image = runtime()?.block_on(async {
            // Only to compare, as `memgate down` does.
            let store = data_dir.open_store(&settings).await?;
            data_dir.close_store(&settings, &store).await;
            let id = data_dir.installation_id()?;
            Ok::<_, CliError>(provisioner::build_image(&settings.provisioner, &id).await?)
        })?;
        let built = Built { image };
        output::print(global.json, &built, || built.image.clone())
    }
}
