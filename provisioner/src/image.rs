//! The memcached image that containers are created from: the configured one, or one built here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::docker::Docker;
use crate::error::Error;
use crate::rootfs::Rootfs;
use crate::spec::MEMCACHED;

/// How long a failure to get the image is kept before the next attempt.
const RETRY_BACKOFF: Duration = Duration::from_secs(10);

/// An image in Docker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// Its name in Docker, for people.
    pub(crate) name: String,
    /// Its id, `sha256:...`. Containers are created by it: a name may be moved to another image.
    pub(crate) id: String,
    /// The command that starts memcached: a path, or a name in the image's PATH.
    pub(crate) command: &'static str,
}

impl Image {
    /// Returns the configured image, pulled if missing; or else the image built here, built if missing.
    pub(crate) async fn ensure(docker: &Docker, configured: Option<&str>) -> Result<Self, Error> {
        match configured {
            Some(name) => Self::configured(docker, name).await,
            None => {
                let built = match docker.own_image().await? {
                    Some(built) => Some(built),
                    None => {
                        build(docker).await?;
                        docker.own_image().await?
                    }
                };
                let removed = || Error::Image("the image was removed as soon as it was built".into());
                let built = built.ok_or_else(removed)?;
                Ok(Self { name: built.name, id: built.id, command: MEMCACHED })
            }
        }
    }

    async fn configured(docker: &Docker, name: &str) -> Result<Self, Error> {
        let facts = match docker.image_facts(name).await? {
            Some(facts) => Some(facts),
            None => {
                tracing::info!(image = name, "pulling the image");
                docker.pull(name).await?;
                docker.image_facts(name).await?
            }
        };
        let facts = facts.ok_or_else(|| Error::Image(format!("{name} was removed after it was pulled")))?;
        // Docker would give each container a writable volume of unlimited size.
        if let Some(volume) = facts.volumes.first() {
            let why = format!("{name} declares the volume {volume}: use an image without volumes");
            return Err(Error::Image(why));
        }
        Ok(Self { name: name.to_owned(), id: facts.id, command: "memcached" })
    }
}

/// Builds the image from the distribution's package, and returns its tag.
pub(crate) async fn build(docker: &Docker) -> Result<String, Error> {
    tracing::info!("building the memcached image from the distribution's package, once");
    let rootfs = Rootfs::from_package().await?;
    let version = rootfs.version.clone();
    let tag = docker.import(rootfs).await?;
    tracing::info!(image = tag, memcached = version, "image built");
    Ok(tag)
}

/// The image, looked up once and kept until the next resync.
#[derive(Debug)]
pub(crate) struct ImageCache {
    docker: Arc<Docker>,
    configured: Option<String>,
    cached: Mutex<CachedImage>,
}

#[derive(Debug)]
enum CachedImage {
    Unknown,
    Image(Image),
    /// The reason of a failure, and when it happened.
    Failed(String, Instant),
}

impl ImageCache {
    pub(crate) fn new(docker: Arc<Docker>, configured: Option<String>) -> Self {
        Self { docker, configured, cached: Mutex::new(CachedImage::Unknown) }
    }

    pub(crate) async fn get(&self) -> Result<Image, Error> {
        let mut cached = self.cached.lock().await;
        match &*cached {
            CachedImage::Image(image) => return Ok(image.clone()),
            CachedImage::Failed(reason, at) if at.elapsed() < RETRY_BACKOFF => {
                return Err(Error::Image(reason.clone()));
            }
            CachedImage::Failed(..) | CachedImage::Unknown => {}
        }
        match Image::ensure(&self.docker, self.configured.as_deref()).await {
            Ok(image) => {
                *cached = CachedImage::Image(image.clone());
                Ok(image)
            }
            Err(Error::Image(reason)) => {
                *cached = CachedImage::Failed(reason.clone(), Instant::now());
                Err(Error::Image(reason))
            }
            Err(error) => Err(error),
        }
    }

    /// The id of the image, if it has been looked up.
    pub(crate) async fn known_id(&self) -> Option<String> {
        match &*self.cached.lock().await {
            CachedImage::Image(image) => Some(image.id.clone()),
            CachedImage::Failed(..) | CachedImage::Unknown => None,
        }
    }

    /// Looks the image up again: it may have been removed, or a newer one built.
    pub(crate) async fn refresh(&self) -> Result<(), Error> {
        let mut cached = self.cached.lock().await;
        if matches!(&*cached, CachedImage::Image(_)) {
            *cached = CachedImage::Unknown;
        }
        drop(cached);
        self.get().await.map(drop)
    }
}
