//! The memcached image that containers are created from: the configured one, or one built here.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, SystemTime};

use store::Timestamp;
use store::private_file::{self, Access};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::config::Config;
use crate::docker::{BuiltImage, Docker};
use crate::error::Error;
use crate::memcached_version;
use crate::rootfs::Rootfs;
use crate::spec::MEMCACHED;

/// How long a failure to get the image is kept before the next attempt.
const RETRY_BACKOFF: Duration = Duration::from_secs(10);
/// The image may have to be built or pulled.
const LOOKUP_TIMEOUT: Duration = Duration::from_mins(30);
/// Bytes that are read of the file with an image's id, which is shorter.
const ID_LENGTH_MAX: u64 = 200;

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

/// Which image new containers get. What decides is the operator's: settings, and a file that only root writes; never a row of
/// the store, nor a name in Docker alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct ImageChoice {
    /// The name of an image to pull.
    configured: Option<String>,
    /// The file with the id of one that was built here.
    file: Option<PathBuf>,
}

impl ImageChoice {
    pub(crate) fn of(config: &Config) -> Self {
        Self { configured: config.image.clone(), file: config.chosen_image.clone() }
    }

    pub(crate) fn configured(&self) -> Option<&str> {
        self.configured.as_deref()
    }

    /// The id of the image that was chosen last.
    fn chosen(&self) -> Result<Option<String>, Error> {
        let Some(file) = &self.file else { return Ok(None) };
        match private_file::read(file, ID_LENGTH_MAX, None) {
            Ok(content) => Ok(Some(String::from_utf8_lossy(&content.bytes).trim().to_owned())),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(Error::Image(error.to_string())),
        }
    }

    /// The same, without holding up others: the file may be on a slow disk.
    async fn read_chosen(&self) -> Result<Option<String>, Error> {
        let choice = self.clone();
        let read = tokio::task::spawn_blocking(move || choice.chosen()).await;
        read.unwrap_or_else(|error| Err(Error::Image(error.to_string())))
    }

    /// When an image was chosen last, which each build does, also one with the same contents.
    pub(crate) fn chosen_at(&self) -> Option<Timestamp> {
        let modified = std::fs::metadata(self.file.as_ref()?).and_then(|file| file.modified()).ok()?;
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(Timestamp::from_millis(i64::try_from(since.as_millis()).ok()?))
    }

    /// Chooses an image for all containers from now on.
    pub(crate) fn choose(&self, id: &str) -> Result<(), Error> {
        let Some(file) = &self.file else { return Ok(()) };
        let access = Access { mode: 0o644, ..Access::PRIVATE };
        let failed =
            |error| Error::Image(format!("{} can't be written ({error}): run this as root", file.display()));
        private_file::replace(file, access, format!("{id}\n").as_bytes()).map_err(failed)
    }
}

impl Image {
    /// Returns the configured image, pulled if missing; or else the chosen one of those built here, built if missing.
    pub(crate) async fn ensure(docker: &Docker, choice: &ImageChoice) -> Result<Self, Error> {
        if let Some(name) = choice.configured() {
            return Self::configured(docker, name).await;
        }
        let chosen = choice.read_chosen().await?;
        let found = Self::find_built(docker, chosen.as_deref()).await?;
        let built = match found {
            Some(found) => found,
            None => {
                if chosen.is_some() {
                    tracing::warn!(
                        "the memcached image that was built last is gone: building the package's instead"
                    );
                }
                build(docker).await?
            }
        };
        if chosen.as_ref() != Some(&built.id)
            && let Err(error) = choice.choose(&built.id)
        {
            tracing::debug!(%error, "the image can't be noted");
        }
        Ok(Self::built(built))
    }

    /// The image that was chosen, of those that were built here; the newest, where none was chosen yet.
    async fn find_built(docker: &Docker, chosen: Option<&str>) -> Result<Option<BuiltImage>, Error> {
        let mut own = docker.own_images().await?.into_iter();
        Ok(match chosen {
            Some(id) => own.find(|image| image.id == id),
            None => own.max_by_key(|image| image.created),
        })
    }

    /// The image that new containers get, if it is there.
    pub(crate) async fn find(docker: &Docker, choice: &ImageChoice) -> Result<Option<Self>, Error> {
        let Some(name) = choice.configured() else {
            let chosen = choice.read_chosen().await?;
            return Ok(Self::find_built(docker, chosen.as_deref()).await?.map(Self::built));
        };
        let facts = docker.image_facts(name).await?;
        Ok(facts.map(|facts| Self { name: name.to_owned(), id: facts.id, command: "memcached" }))
    }

    fn built(BuiltImage { name, id, .. }: BuiltImage) -> Self {
        Self { name, id, command: MEMCACHED }
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

/// Builds the image from the distribution's package.
pub(crate) async fn build(docker: &Docker) -> Result<BuiltImage, Error> {
    tracing::info!("building the memcached image from the distribution's package, once");
    import(docker, Rootfs::from_package().await?).await
}

/// Builds the image from a memcached that the operator has built. It is run once, in a container without network, to learn
/// its version.
pub(crate) async fn build_from(docker: &Docker, binary: &Path) -> Result<BuiltImage, Error> {
    let rootfs = Rootfs::from_binary(binary).await?;
    let trial = docker.import_for_trial(&rootfs).await?;
    let said = docker.try_image(&trial, "-h").await;
    docker.untag_image(&trial).await?;
    let version = memcached_version::read(&said?).map_err(|(problem, fix)| Error::Binary {
        path: binary.to_owned(),
        problem,
        fix: fix.into(),
    })?;
    import(docker, Rootfs { version: format!("{version}{}", memcached_version::OF_BINARY), ..rootfs }).await
}

async fn import(docker: &Docker, rootfs: Rootfs) -> Result<BuiltImage, Error> {
    let version = rootfs.version.clone();
    let name = docker.import(rootfs).await?;
    tracing::info!(image = name, memcached = version, "image built");
    let built = docker.own_images().await?.into_iter().find(|image| image.name == name);
    built.ok_or_else(|| Error::Image("the image was removed as soon as it was built: try again".into()))
}

/// The image, looked up once, and again by each resync.
#[derive(Debug)]
pub(crate) struct ImageCache {
    docker: Arc<Docker>,
    choice: ImageChoice,
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
    pub(crate) fn new(docker: Arc<Docker>, choice: ImageChoice) -> Self {
        Self { docker, choice, lookup: Mutex::new(()), cached: StdMutex::new(CachedImage::Unknown) }
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
        let refresh = async {
            let _lookup = self.lookup.lock().await;
            self.look_up().await.map(drop)
        };
        let late = || Error::Image(format!("it took longer than {} minutes", LOOKUP_TIMEOUT.as_secs() / 60));
        timeout(LOOKUP_TIMEOUT, refresh).await.unwrap_or_else(|_| Err(late()))
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
        let found = Image::ensure(&self.docker, &self.choice).await;
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

    //
    #[test]
    fn a_choice_is_a_file_that_only_root_writes() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image.id");
        let choice = ImageChoice { configured: None, file: Some(file.clone()) };
        assert_eq!(choice.chosen().unwrap(), None);
        for id in ["sha256:1", "sha256:2"] {
            choice.choose(id).unwrap();
            assert_eq!(choice.chosen().unwrap().as_deref(), Some(id));
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        let error = choice.chosen().unwrap_err().to_string();
        assert!(error.contains("can be changed by other users"), "{error}");
    }

    #[tokio::test]
    async fn nobody_waits_for_an_image_that_is_being_pulled() {
        let docker = Docker::new(Names::new("test").unwrap(), Path::new("/nonexistent.sock"));
        let images = ImageCache::new(Arc::new(docker), ImageChoice::default());
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
