//! What is known of the memcached image, for operators.

use store::{Timestamp, now};

use crate::docker::Docker;
use crate::error::Error;
use crate::image::{Image, ImageChoice};
use crate::memcached_version;

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// The image that new containers get.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ImageStatus {
    /// Its name in Docker.
    pub image: String,
    /// `sha256:...`.
    pub id: String,
    /// `package`, `binary` or `configured`.
    pub source: &'static str,
    /// The version of its memcached, if memgate has built it; what instances run is in their routes.
    pub memcached: Option<String>,
    /// What that version can do that older ones can't.
    pub capabilities: Vec<&'static str>,
    /// When it was created. One that is built again with the same contents stays the same.
    pub created_at: Option<Timestamp>,
    /// When it was built here last; `None` for a configured one.
    pub built_at: Option<Timestamp>,
    /// Containers of the installation that were created from it.
    pub containers: usize,
    /// Those that were created from another.
    pub outdated: usize,
}

impl ImageStatus {
    /// When it was last known to have the newest package: when it was built, or else created.
    #[must_use]
    pub fn dated(&self) -> Option<Timestamp> {
        self.built_at.max(self.created_at)
    }

    /// Whether its date is longer ago than that.
    #[must_use]
    pub fn is_older_than(&self, days: u64) -> bool {
        let age = self.dated().map(|date| now().since(date));
        age.is_some_and(|age| age.as_secs() > days.saturating_mul(SECONDS_PER_DAY))
    }
}

pub(crate) async fn read(docker: &Docker, choice: &ImageChoice) -> Result<Option<ImageStatus>, Error> {
    let Some(image) = Image::find(docker, choice).await? else { return Ok(None) };
    let label = docker.image_facts(&image.id).await?.and_then(|facts| facts.memcached);
    let created = docker.image_created(&image.id).await?;
    let mut containers = docker.containers().await?;
    containers.retain(|container| !container.is_holder);
    let total = containers.len();
    let current = containers.into_iter().filter(|container| container.image == image.id).count();
    let from_binary = label.as_ref().and_then(|label| label.strip_suffix(memcached_version::OF_BINARY));
    let source = match (choice.configured(), &from_binary) {
        (Some(_), _) => "configured",
        (None, Some(_)) => "binary",
        (None, None) => "package",
    };
    let memcached = from_binary.map(str::to_owned).or_else(|| label.clone());
    let capabilities = memcached.as_deref().map(memcached_version::capabilities).unwrap_or_default();
    Ok(Some(ImageStatus {
        image: image.name,
        id: image.id,
        source,
        memcached,
        capabilities,
        built_at: if source == "configured" { None } else { choice.chosen_at() },
        created_at: created.map(|seconds| Timestamp::from_millis(seconds.saturating_mul(1_000))),
        containers: current,
        outdated: total.saturating_sub(current),
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    //
    #[test]
    fn an_image_is_old_by_its_last_build() {
        let created = |days: u64| ImageStatus {
            image: "one".into(),
            id: "sha256:1".into(),
            source: "package",
            memcached: None,
            capabilities: Vec::new(),
            created_at: Some(now().saturating_sub(Duration::from_hours(24 * days))),
            built_at: None,
            containers: 0,
            outdated: 0,
        };
        let again = ImageStatus { built_at: Some(now()), ..created(181) };
        assert!(!again.is_older_than(180), "it has what the newest package has");
        assert!(created(181).is_older_than(180) && !created(179).is_older_than(180));
        assert!(!created(181).is_older_than(u64::MAX));
        assert!(!ImageStatus { created_at: None, ..created(1) }.is_older_than(0), "nobody knows");
    }
}
