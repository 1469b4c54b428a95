//! `memgate image show`: the image that new containers get.

use provisioner::ImageStatus;
use serde::Serialize;
use store::ImageUpgrade;

use super::upgrade;
use crate::cli::context::Context;
use crate::output::CliError;
use crate::output::table;
use crate::output::time;

#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    image: ImageStatus,
    /// Whether it is older than provisioner.image_age_days.
    old: bool,
    /// The last upgrade.
    upgrade: Option<ImageUpgrade>,
}

pub(super) async fn show(context: &Context) -> Result<(), CliError> {
    let config = context.data_dir.provisioner_config(&context.settings);
    let image = provisioner::image_status(&config, &context.data_dir.installation_id()?).await?;
    let image = image.ok_or_else(|| {
        CliError::new("there is no memcached image yet", "build one with `memgate image build`")
    })?;
    let old = image.is_older_than(config.image_age_days);
    let shown = Shown { image, old, upgrade: context.store.image_upgrade().await? };
    context.print(&shown, || shown.text())
}

/// `memcached 1.6.18`, as far as it is known.
pub(crate) fn shown_version(image: &ImageStatus) -> String {
    let version = image.memcached.as_deref().map(|version| format!("memcached {version}"));
    version.unwrap_or_else(|| "see `memgate instance list` for memcached's version".to_owned())
}

/// When it was built or created, and what to do about an old one.
pub(crate) fn age_text(image: &ImageStatus, old: bool) -> String {
    let built = image.dated().map_or_else(|| "unknown".to_owned(), time::past);
    if !old {
        return built;
    }
    let fix = match image.source {
        "configured" => "set provisioner.image to a newer one, restart memgate",
        _ => "build a newer one with `memgate image build`",
    };
    format!("{built}, old: {fix}, then run `memgate image upgrade`")
}

impl Shown {
    fn text(&self) -> String {
        let ImageStatus { image, id, source, capabilities, containers, outdated, .. } = &self.image;
        let mut pairs = vec![
            ("image", image.clone()),
            ("id", id.clone()),
            ("source", (*source).to_owned()),
            ("version", shown_version(&self.image)),
            ("built", age_text(&self.image, self.old)),
            ("instances", format!("{containers} have it, {outdated} have another")),
        ];
        if !capabilities.is_empty() {
            pairs.push(("adds", capabilities.join(", ")));
        }
        pairs.extend(self.upgrade.as_ref().map(|it| ("last upgrade", upgrade::text(it))));
        table::pairs(&pairs)
    }
}
