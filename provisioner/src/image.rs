//! The memcached image that containers are created from: the configured one, or one built here.

use std::sync::{Arc, Mutex as StdMutex, PoisonError};
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

/// The image, looked up once, and again by each resync.
#[derive(Debug)]
pub(crate) struct ImageCache {
    docker: Arc<Docker>,
    configured: Option<String>,
    /// Held while the image is looked up, and built or pulled, which may take long.
    lookup: Mutex<()>,
    cached: StdMutex<CachedImage>,
}

#[derive(Debug, Clone)]
enum CachedImage {
    Unknown,
    Image(Image),
    /// The reason of a failure, and when it happened.
    Failed(String, Instant),
}

impl ImageCache {
    pub(crate) fn new(docker: Arc<Docker>, configured: Option<String>) -> Self {
        Self { docker, configured, lookup: Mutex::new(()), cached: StdMutex::new(CachedImage::Unknown) }
    }

    /// The image. The work on an instance calls this, which holds up others while it waits.
    ///
    /// # Errors
    /// `ImageNotReady` while somebody else looks it up.
    pub(crate) async fn get(&self) -> Result<Image, Error> {
        if let CachedImage::Image(image) = self.cached() {
            return Ok(image);
        }
        let _lookup = self.lookup.try_lock().map_err(|_| Error::ImageNotReady)?;
        match self.cached() {
            CachedImage::Image(image) => Ok(image),
            CachedImage::Failed(..) | CachedImage::Unknown => self.look_up().await,
        }
    }

    /// The id of the image, if it has been looked up. Waits for nothing.
    pub(crate) fn known_id(&self) -> Option<String> {
        match self.cached() {
            CachedImage::Image(image) => Some(image.id),
            CachedImage::Failed(..) | CachedImage::Unknown => None,
        }
    }

    /// Looks the image up again: it may have been removed, or a newer one built.
    pub(crate) async fn refresh(&self) -> Result<(), Error> {
        let _lookup = self.lookup.lock().await;
        self.look_up().await.map(drop)
    }

    /// The same, for the work on an instance.
    ///
    /// # Errors
    /// As [`ImageCache::get`].
    pub(crate) async fn refresh_unless_busy(&self) -> Result<(), Error> {
        let _lookup = self.lookup.try_lock().map_err(|_| Error::ImageNotReady)?;
        self.look_up().await.map(drop)
    }

    /// The caller holds the lock of look-ups.
    async fn look_up(&self) -> Result<Image, Error> {
        if let CachedImage::Failed(reason, at) = self.cached()
            && at.elapsed() < RETRY_BACKOFF
        {
            return Err(Error::Image(reason));
        }
        let found = Image::ensure(&self.docker, self.configured.as_deref()).await;
        let cached = match &found {
            Ok(image) => CachedImage::Image(image.clone()),
            Err(Error::Image(reason)) => CachedImage::Failed(reason.clone(), Instant::now()),
            Err(_) => CachedImage::Unknown,
        };
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = cached;
        found
    }

    fn cached(&self) -> CachedImage {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::names::Names;

    #[tokio::test]
    async fn nobody_waits_for_an_image_that_is_being_pulled() {
        let docker = Docker::new(Names::new("test").unwrap(), Path::new("/nonexistent.sock"));
        let images = ImageCache::new(Arc::new(docker), None);
        let pulling = images.lookup.lock().await;
        assert!(matches!(images.get().await, Err(Error::ImageNotReady)));
        assert!(matches!(images.refresh_unless_busy().await, Err(Error::ImageNotReady)));
        let known = Image { name: "memcached".into(), id: "sha256:1".into(), command: MEMCACHED };
        *images.cached.lock().unwrap() = CachedImage::Image(known.clone());
        assert_eq!(images.known_id(), Some(known.id.clone()));
        assert_eq!(images.get().await.unwrap(), known, "the one that was found last");
        drop(pulling);
    }
}
