//! Images: import ours, pull a configured one, find, remove.

use bollard::query_parameters::{
    CreateImageOptions, CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
};
use futures_util::TryStreamExt;

use super::{Engine, gone, refused};
use crate::Error;
use crate::image::{GID, MEMCACHED, Rootfs, UID};
use crate::names::{LABEL, LABEL_MEMCACHED};

impl Engine {
    /// The newest image that we have made, by its tag.
    pub(crate) async fn own_image(&self) -> Result<Option<String>, Error> {
        let mut images = self.own_images().await?;
        images.sort_by_key(|(_, created)| *created);
        Ok(images.pop().map(|(tag, _)| tag))
    }

    /// Tags (or ids, where there is none) of all images with our label, and when they were made.
    pub(crate) async fn own_images(&self) -> Result<Vec<(String, i64)>, Error> {
        let options = ListImagesOptionsBuilder::new().filters(&self.ours()).build();
        let list = self.docker()?.list_images(Some(options)).await;
        let named = |tags: Vec<String>| tags.into_iter().find(|tag| !tag.starts_with("<none>"));
        Ok(list
            .map_err(|e| refused("list images", e))?
            .into_iter()
            .map(|image| (named(image.repo_tags).unwrap_or(image.id), image.created))
            .collect())
    }

    pub(crate) async fn has_image(&self, name: &str) -> Result<bool, Error> {
        match self.docker()?.inspect_image(name).await.map_err(|e| refused("inspect an image", e)) {
            Ok(_) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gets an image from its registry.
    pub(crate) async fn pull(&self, image: &str) -> Result<(), Error> {
        let options = CreateImageOptionsBuilder::new().from_image(image).build();
        self.make_image(options, None).await
    }

    /// Imports a root file system as an image of ours; its tag.
    pub(crate) async fn import(&self, rootfs: Rootfs) -> Result<String, Error> {
        let repo = self.names.image();
        let tag = fit_for_tag(&rootfs.version);
        let changes = vec![
            format!("USER {UID}:{GID}"),
            format!("ENTRYPOINT [\"{MEMCACHED}\"]"),
            format!("LABEL {LABEL}={} {LABEL_MEMCACHED}={}", self.names.id(), rootfs.version),
        ];
        let options =
            CreateImageOptionsBuilder::new().from_src("-").repo(&repo).tag(&tag).changes(changes).build();
        self.make_image(options, Some(rootfs.tar)).await?;
        Ok(format!("{repo}:{tag}"))
    }

    /// Whether it was there.
    pub(crate) async fn remove_image(&self, name: &str) -> Result<bool, Error> {
        let options = RemoveImageOptionsBuilder::new().force(true).build();
        let removed = self.docker()?.remove_image(name, Some(options), None).await;
        gone("remove an image", removed.map(drop))
    }

    async fn make_image(&self, options: CreateImageOptions, tar: Option<Vec<u8>>) -> Result<(), Error> {
        let body = tar.map(|tar| bollard::body_full(tar.into()));
        let steps = self.docker()?.create_image(Some(options), body, None);
        steps.try_for_each(|_| async { Ok(()) }).await.map_err(|e| refused("make an image", e))
    }
}

/// Debian's versions hold `+`, `~` and `:`; tags don't.
fn fit_for_tag(version: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '-' };
    version.chars().map(fits).take(100).collect()
}
