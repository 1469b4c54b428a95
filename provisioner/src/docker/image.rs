//! Images: import the one built here, pull a configured one, find, untag.
//!
//! An image was built here if its tag in the installation's repository names its contents, and its
//! configuration is the one that the import wrote. So neither a foreign image with our tag, nor one committed
//! or built from ours, is ever mistaken for it.

use std::collections::HashMap;

use bollard::models::{ImageConfig, ImageInspect};
use bollard::query_parameters::{
    CreateImageOptions, CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptions,
    TagImageOptionsBuilder,
};
use futures_util::TryStreamExt;

use super::{Docker, IMAGE_TIMEOUT};
use crate::error::Error;
use crate::names::{LABEL_IMAGE, LABEL_MEMCACHED, Names};
use crate::rootfs::Rootfs;
use crate::spec::{GID, MEMCACHED, UID};

/// Characters of the contents' digest in a tag.
const DIGEST_LENGTH: usize = 16;
/// Characters of the version in a tag; Docker allows 128 in all.
const VERSION_MAX: usize = 100;

/// An image that was built here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BuiltImage {
    /// Its name, `REPOSITORY:TAG`.
    pub(crate) name: String,
    /// `sha256:...`.
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: i64,
    /// The version of its memcached, as it was built.
    pub(crate) memcached: String,
}

/// What matters of an image in Docker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageFacts {
    /// `sha256:...`.
    pub(crate) id: String,
    /// The folders for which a container gets a writable volume.
    pub(crate) volumes: Vec<String>,
    /// The version of memcached, if it was built by memgate.
    pub(crate) memcached: Option<String>,
}

/// What became of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Untagged {
    /// The name is gone, and the image if nothing else needs it.
    Removed,
    Missing,
    /// A container that isn't ours uses it.
    InUse,
}

impl Docker {
    /// All images that were built here.
    pub(crate) async fn own_images(&self) -> Result<Vec<BuiltImage>, Error> {
        let filters = HashMap::from([("reference", vec![self.names.image()])]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let list = self.read("list images", self.client()?.list_images(Some(options))).await?;
        let mut own = Vec::new();
        for image in list {
            for name in image.repo_tags {
                if let Some(built) = self.find_built(&name).await?.filter(|built| built.id == image.id) {
                    let (id, memcached) = (built.id, built.memcached.unwrap_or_default());
                    own.push(BuiltImage { name, id, created: image.created, memcached });
                }
            }
        }
        Ok(own)
    }

    /// The image with this name, if it was built here.
    async fn find_built(&self, name: &str) -> Result<Option<ImageFacts>, Error> {
        let image = self.inspect_image(name).await?;
        Ok(image.filter(|image| is_built_here(&self.names, name, image)).map(ImageFacts::from))
    }

    pub(crate) async fn image_facts(&self, name: &str) -> Result<Option<ImageFacts>, Error> {
        Ok(self.inspect_image(name).await?.map(ImageFacts::from))
    }

    /// When an image was created, in seconds since 1970.
    pub(crate) async fn image_created(&self, id: &str) -> Result<Option<i64>, Error> {
        let options = ListImagesOptionsBuilder::new().all(true).build();
        let list = self.read("list images", self.client()?.list_images(Some(options))).await?;
        Ok(list.into_iter().find(|image| image.id == id).map(|image| image.created))
    }

    /// Imports a root file system without a name, to try it. Returns the image's id.
    pub(crate) async fn import_for_trial(&self, rootfs: &Rootfs) -> Result<String, Error> {
        let changes = vec![format!("USER {UID}:{GID}"), format!("ENTRYPOINT [\"{MEMCACHED}\"]")];
        let options = CreateImageOptionsBuilder::new().from_src("-").changes(changes).build();
        let id = self.create_image(options, Some(rootfs.tar.clone())).await?;
        id.ok_or_else(|| Error::Image("Docker doesn't show the imported image: try again".into()))
    }

    async fn inspect_image(&self, name: &str) -> Result<Option<ImageInspect>, Error> {
        match self.read("inspect an image", self.client()?.inspect_image(name)).await {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Pulls an image from its registry.
    pub(crate) async fn pull(&self, image: &str) -> Result<(), Error> {
        let options = CreateImageOptionsBuilder::new().from_image(image).build();
        self.create_image(options, None).await.map(drop)
    }

    /// Imports a root file system as the installation's image, and returns its name. The same contents keep
    /// the image that they have.
    pub(crate) async fn import(&self, rootfs: Rootfs) -> Result<String, Error> {
        let changes = vec![
            format!("USER {UID}:{GID}"),
            format!("ENTRYPOINT [\"{MEMCACHED}\"]"),
            format!("LABEL {LABEL_IMAGE}={} {LABEL_MEMCACHED}={}", self.names.id(), rootfs.version),
        ];
        let options = CreateImageOptionsBuilder::new().from_src("-").changes(changes).build();
        let id = self.create_image(options, Some(rootfs.tar)).await?;
        let imported = match &id {
            Some(id) => self.inspect_image(id).await?,
            None => None,
        };
        let (Some(id), Some(digest)) = (id, imported.as_ref().and_then(contents_digest)) else {
            return Err(Error::Image("Docker doesn't show the imported image: try again".into()));
        };
        let (repository, tag) = (self.names.image(), format!("{}-{digest}", to_tag(&rootfs.version)));
        let name = format!("{repository}:{tag}");
        match self.inspect_image(&name).await? {
            None => {
                let options = TagImageOptionsBuilder::new().repo(&repository).tag(&tag).build();
                let request = self.client()?.tag_image(&id, Some(options));
                self.change("tag an image", request).await?;
                Ok(name)
            }
            Some(existing) => {
                self.untag_image(&id).await?;
                if is_built_here(&self.names, &name, &existing) {
                    return Ok(name);
                }
                Err(Error::Image(format!("{name} is an image that memgate didn't build: remove that tag")))
            }
        }
    }

    /// Removes a name of an image, or an image by its id, without force.
    pub(crate) async fn untag_image(&self, name: &str) -> Result<Untagged, Error> {
        let request = self.client()?.remove_image(name, None::<RemoveImageOptions>, None);
        match self.change("remove an image", request).await {
            Ok(_) => Ok(Untagged::Removed),
            Err(Error::Docker { status: Some(404), .. }) => Ok(Untagged::Missing),
            Err(Error::Docker { status: Some(409), .. }) => Ok(Untagged::InUse),
            Err(error) => Err(error),
        }
    }

    /// Returns the id of the new image, if Docker tells it.
    async fn create_image(
        &self,
        options: CreateImageOptions,
        tar: Option<Vec<u8>>,
    ) -> Result<Option<String>, Error> {
        let body = tar.map(|tar| bollard::body_full(tar.into()));
        let steps = self.client()?.create_image(Some(options), body, None);
        let last_id = steps.try_fold(None, |id, step| async {
            Ok(step.status.filter(|status| status.starts_with("sha256:")).or(id))
        });
        self.within(IMAGE_TIMEOUT, "create an image", last_id).await
    }
}

impl From<ImageInspect> for ImageFacts {
    fn from(image: ImageInspect) -> Self {
        let config = image.config.unwrap_or_default();
        let memcached = config.labels.and_then(|labels| labels.get(LABEL_MEMCACHED).cloned());
        Self { id: image.id.unwrap_or_default(), volumes: config.volumes.unwrap_or_default(), memcached }
    }
}

/// Whether the contents are those that the tag names, and the configuration adds nothing to the import's.
fn is_built_here(names: &Names, name: &str, image: &ImageInspect) -> bool {
    let tag = name.strip_prefix(&names.image()).and_then(|rest| rest.strip_prefix(':'));
    let digest = contents_digest(image);
    let names_contents =
        tag.and_then(|tag| tag.rsplit_once('-')).is_some_and(|(_, named)| digest.as_deref() == Some(named));
    names_contents && image.config.as_ref().is_some_and(|config| is_as_imported(names, config))
}

fn is_as_imported(names: &Names, config: &ImageConfig) -> bool {
    let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    let only_path = config.env.iter().flatten().all(|variable| variable.starts_with("PATH="));
    let labels = config.labels.as_ref();
    let own_labels = labels.is_some_and(|labels| {
        labels.get(LABEL_IMAGE).is_some_and(|id| id == names.id())
            && labels.keys().all(|key| key == LABEL_IMAGE || key == LABEL_MEMCACHED)
    });
    config.user.as_deref() == Some(format!("{UID}:{GID}").as_str())
        && config.entrypoint.as_deref() == Some(&[MEMCACHED.to_owned()])
        && [&config.cmd, &config.volumes, &config.on_build, &config.exposed_ports].into_iter().all(empty)
        && config.healthcheck.is_none()
        && only_path
        && own_labels
}

/// The beginning of the digest of an image's only layer; `None` if it has more.
fn contents_digest(image: &ImageInspect) -> Option<String> {
    match image.root_fs.as_ref()?.layers.as_deref()? {
        [layer] => Some(layer.strip_prefix("sha256:")?.get(..DIGEST_LENGTH)?.to_owned()),
        _ => None,
    }
}

/// Replaces `+`, `~` and `:`, which Debian's versions have and tags must not.
fn to_tag(version: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '-' };
    version.chars().map(allowed).take(VERSION_MAX).collect()
}

#[cfg(test)]
mod tests {
    use bollard::models::ImageInspectRootFs;

    use super::*;

    fn built() -> ImageInspect {
        let labels = [(LABEL_IMAGE, "abc234"), (LABEL_MEMCACHED, "1.6.18")];
        ImageInspect {
            root_fs: Some(ImageInspectRootFs {
                typ: "layers".into(),
                layers: Some(vec!["sha256:0123456789abcdef0123".into()]),
            }),
            config: Some(ImageConfig {
                user: Some("11211:11211".into()),
                entrypoint: Some(vec![MEMCACHED.into()]),
                env: Some(vec!["PATH=/usr/bin".into()]),
                labels: Some(labels.map(|(key, value)| (key.into(), value.into())).into()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn changed(change: impl Fn(&mut ImageConfig)) -> ImageInspect {
        let mut image = built();
        change(image.config.as_mut().unwrap());
        image
    }

    const NAME: &str = "memgate-abc234-memcached:1.6.18-1-0123456789abcdef";

    //
    #[test]
    fn a_tag_names_the_contents() {
        let names = Names::new("abc234").unwrap();
        assert!(is_built_here(&names, NAME, &built()));
        for name in [
            "memgate-abc234-memcached:1.6.18-1-0123456789abcdee",
            "memgate-abc234-memcached:1.6.18",
            "memgate-abc234-memcached2:1.6.18-1-0123456789abcdef",
            "memgate-abc235-memcached:1.6.18-1-0123456789abcdef",
            "red:1-0123456789abcdef",
        ] {
            assert!(!is_built_here(&names, name, &built()), "{name}");
        }
    }

    //
    #[test]
    fn committed_and_derived_images_are_not_ours() {
        let names = Names::new("abc234").unwrap();
        let mut layered = built();
        layered.root_fs.as_mut().unwrap().layers.as_mut().unwrap().push("sha256:00".into());
        let labelled = |key: &'static str, value: &'static str| {
            changed(move |c| drop(c.labels.as_mut().unwrap().insert(key.into(), value.into())))
        };
        for (what, image) in [
            ("another layer", layered),
            ("a command", changed(|c| c.cmd = Some(vec!["-m".into()]))),
            ("a variable", changed(|c| c.env.as_mut().unwrap().push("LD_PRELOAD=/x".into()))),
            ("a volume", changed(|c| c.volumes = Some(vec!["/data".into()]))),
            ("another user", changed(|c| c.user = Some("0".into()))),
            ("another entry point", changed(|c| c.entrypoint = Some(vec!["/bin/sh".into()]))),
            ("a container's labels", labelled("memgate", "abc234")),
            ("another installation's label", labelled(LABEL_IMAGE, "abc235")),
            ("no configuration", ImageInspect { config: None, ..built() }),
        ] {
            assert!(!is_built_here(&names, NAME, &image), "{what}");
        }
    }
}
