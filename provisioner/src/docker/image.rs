//! Images: import the one built here, pull a configured one, find, remove.

use bollard::query_parameters::{
    CreateImageOptions, CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
};
use futures_util::TryStreamExt;

use super::{Docker, ignore_not_found, map_error};
use crate::error::Error;
use crate::names::{LABEL, LABEL_MEMCACHED};
use crate::rootfs::Rootfs;
use crate::spec::{GID, MEMCACHED, UID};

impl Docker {
    /// The tag of the newest image that was built here.
    pub(crate) async fn own_image(&self) -> Result<Option<String>, Error> {
        let mut images = self.own_images().await?;
        images.sort_by_key(|(_, created)| *created);
        Ok(images.pop().map(|(tag, _)| tag))
    }

    /// Tags (or ids of untagged ones) of all images with the installation's label, with their creation times.
    pub(crate) async fn own_images(&self) -> Result<Vec<(String, i64)>, Error> {
        let options = ListImagesOptionsBuilder::new().filters(&self.label_filter()).build();
        let list = self.client()?.list_images(Some(options)).await;
        let named = |tags: Vec<String>| tags.into_iter().find(|tag| !tag.starts_with("<none>"));
        Ok(list
            .map_err(|e| map_error("list images", e))?
            .into_iter()
            .map(|image| (named(image.repo_tags).unwrap_or(image.id), image.created))
            .collect())
    }

    pub(crate) async fn has_image(&self, name: &str) -> Result<bool, Error> {
        match self.client()?.inspect_image(name).await.map_err(|e| map_error("inspect an image", e)) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Pulls an image from its registry.
    pub(crate) async fn pull(&self, image: &str) -> Result<(), Error> {
        let options = CreateImageOptionsBuilder::new().from_image(image).build();
        self.create_image(options, None).await
    }

    /// Imports a root file system as the installation's image, and returns its tag.
    pub(crate) async fn import(&self, rootfs: Rootfs) -> Result<String, Error> {
        let repo = self.names.image();
        let tag = to_tag(&rootfs.version);
        let changes = vec![
            format!("USER {UID}:{GID}"),
            format!("ENTRYPOINT [\"{MEMCACHED}\"]"),
            format!("LABEL {LABEL}={} {LABEL_MEMCACHED}={}", self.names.id(), rootfs.version),
        ];
        let options =
            CreateImageOptionsBuilder::new().from_src("-").repo(&repo).tag(&tag).changes(changes).build();
        self.create_image(options, Some(rootfs.tar)).await?;
        Ok(format!("{repo}:{tag}"))
    }

    /// Removes an image. Returns whether it existed.
    pub(crate) async fn remove_image(&self, name: &str) -> Result<bool, Error> {
        let options = RemoveImageOptionsBuilder::new().force(true).build();
        let removed = self.client()?.remove_image(name, Some(options), None).await;
        ignore_not_found("remove an image", removed.map(drop))
    }

    async fn create_image(&self, options: CreateImageOptions, tar: Option<Vec<u8>>) -> Result<(), Error> {
        let body = tar.map(|tar| bollard::body_full(tar.into()));
        let steps = self.client()?.create_image(Some(options), body, None);
        steps.try_for_each(|_| async { Ok(()) }).await.map_err(|e| map_error("create an image", e))
    }
}

/// Replaces `+`, `~` and `:`, which Debian's versions have and tags must not.
fn to_tag(version: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '-' };
    version.chars().map(allowed).take(100).collect()
}
