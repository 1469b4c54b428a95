//! Prepares the memory of a warm cache for its next container. A volume keeps its size, so for more memory the contents are
//! copied to a second volume, through Docker's archives: the provisioner opens no file of it.
//!
//! Each step goes on after a crash. Contents are only copied to a larger volume, so of two that are kept the smaller one has
//! them, and the other one's copy may have a part of them only.

use std::io;
use std::time::Duration;

use bollard::query_parameters::{DownloadFromContainerOptionsBuilder, UploadToContainerOptionsBuilder};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::memory::{NewHolder, memory_label};
use super::{Docker, map_error};
use crate::error::{Error, chain};
use crate::memory_archive::{ArchiveError, MemoryArchive};
use crate::names::{LABEL_SPEC, MemorySlot};
use crate::spec::{MEMORY_DIR, memory_bytes_of_volume};

/// How long a copy may take, and how much longer for each GB: several times as long as Docker needs on a busy machine.
const COPY_TIMEOUT: Duration = Duration::from_secs(60);
const COPY_TIMEOUT_PER_GB: Duration = Duration::from_secs(20);
/// Chunks of an archive that have been read and not written.
const CHUNKS_MAX: usize = 4;

/// The memory of a container that is about to be created.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PreparedMemory {
    pub(crate) slot: MemorySlot,
    /// Why it has nothing of what there was, if that is known.
    pub(crate) lost: Option<String>,
}

/// A volume with memory, as it is found.
struct Found {
    slot: MemorySlot,
    /// Its label of its size.
    size: String,
    /// Whether a holder keeps what is in it.
    is_held: bool,
}

enum CopyError {
    /// The contents can't be taken: trying again is no use.
    Contents(ArchiveError),
    /// The image or a container isn't there.
    NotFound(Error),
    /// Another error of Docker, or a lack of time, which says nothing of the contents.
    Docker(String),
}

impl From<Error> for CopyError {
    fn from(error: Error) -> Self {
        if error.is_not_found() { Self::NotFound(error) } else { Self::Docker(chain(&error)) }
    }
}

impl Docker {
    /// Prepares the memory of a warm instance: what was kept of it goes to a volume of the right size, and there is no other
    /// volume afterwards. `new` is the instance's holder, if another is needed, and `may_copy` says whether it is the
    /// instance's turn to have its contents copied.
    ///
    /// # Errors
    /// If Docker fails; then what was kept is there still. [`Error::NotCopied`] if that was while the contents were copied, and
    /// [`Error::CopyWaits`] if they aren't because of `may_copy`. That contents can't be kept is no error.
    pub(crate) async fn prepare_memory(
        &self,
        new: &NewHolder<'_>,
        may_copy: bool,
    ) -> Result<PreparedMemory, Error> {
        let mut found = Vec::new();
        for slot in MemorySlot::ALL {
            found.extend(self.memory_in(new.instance, slot).await?);
        }
        let wanted = memory_label(new.spec);
        let after = memory_bytes_of_volume(&wanted).unwrap_or_default();
        let bytes = |it: &Found| memory_bytes_of_volume(&it.size);
        let kept = found.iter().filter(|it| it.is_held).filter_map(|it| Some((it.slot, bytes(it)?)));
        let Some((kept, before)) = kept.min_by_key(|(_, bytes)| *bytes) else {
            let fits = found.iter().find(|it| it.size == wanted);
            let slot = fits.map_or(MemorySlot::First, |it| it.slot);
            let is_smaller = found.iter().filter_map(bytes).any(|before| before > after);
            self.clear(new.instance, slot.other()).await?;
            if fits.is_none() {
                self.clear(new.instance, slot).await?;
            }
            return Ok(PreparedMemory { slot, lost: is_smaller.then(smaller) });
        };
        let lost = match before.cmp(&after) {
            std::cmp::Ordering::Equal => {
                self.clear(new.instance, kept.other()).await?;
                return Ok(PreparedMemory { slot: kept, lost: None });
            }
            std::cmp::Ordering::Less if !may_copy => return Err(Error::CopyWaits),
            std::cmp::Ordering::Less => match self.grow(new, kept, (before, after)).await? {
                None => return Ok(PreparedMemory { slot: kept.other(), lost: None }),
                Some(why) => why,
            },
            std::cmp::Ordering::Greater => smaller(),
        };
        for slot in MemorySlot::ALL {
            self.clear(new.instance, slot).await?;
        }
        Ok(PreparedMemory { slot: MemorySlot::First, lost: Some(lost) })
    }

    /// Moves kept memory to a new volume in the other slot, with a holder of its own. Returns why its contents can't be taken,
    /// if they can't.
    async fn grow(
        &self,
        new: &NewHolder<'_>,
        kept: MemorySlot,
        sizes: (u64, u64),
    ) -> Result<Option<String>, Error> {
        let why = match self.copy_to(new, kept.other(), sizes).await {
            Ok(()) => match self.clear(new.instance, kept).await {
                Ok(()) => return Ok(None),
                // The other one stays: it alone may have the contents by now.
                Err(error) => chain(&error),
            },
            Err(CopyError::Contents(error)) => return Ok(Some(error.to_string())),
            Err(CopyError::NotFound(error)) => return Err(error),
            Err(CopyError::Docker(why)) => {
                // So that a part is never all that is left.
                let cleared = self.clear(new.instance, kept.other()).await;
                cleared.err().map_or(why.clone(), |error| format!("{why}; {}", chain(&error)))
            }
        };
        // One that doesn't answer has its own reason.
        self.ping().await?;
        Err(Error::NotCopied(why))
    }

    /// Makes a volume in a slot, and copies what the other slot has to it.
    async fn copy_to(
        &self,
        new: &NewHolder<'_>,
        target: MemorySlot,
        sizes: (u64, u64),
    ) -> Result<(), CopyError> {
        self.clear(new.instance, target).await?;
        // Docker writes no file to a volume that a container has read-only.
        self.start_holder_in(new, target, false).await?;
        let holders = [target.other(), target].map(|slot| self.names.holder(new.instance, slot));
        let (begun, limit) = (Instant::now(), copy_timeout(sizes.0));
        let late = |_| CopyError::Docker(format!("it took longer than {} s", limit.as_secs()));
        timeout(limit, self.copy_memory(&holders, sizes)).await.map_err(late)??;
        let seconds = begun.elapsed().as_secs_f64();
        tracing::info!(instance = new.instance, bytes = sizes.0, seconds, "copied a warm cache's memory");
        Ok(())
    }

    /// Copies what memcached saved from one holder's volume to the other's.
    async fn copy_memory(
        &self,
        [source, target]: &[String; 2],
        (before, after): (u64, u64),
    ) -> Result<(), CopyError> {
        let client = self.client()?;
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(CHUNKS_MAX);
        let options = DownloadFromContainerOptionsBuilder::new().path(MEMORY_DIR).build();
        let mut download = client.download_from_container(source, Some(options));
        let read = async move {
            let mut archive = MemoryArchive::new(before, after);
            let mut output = Vec::new();
            let result = async {
                while let Some(chunk) = download.next().await {
                    let chunk = chunk.map_err(|e| map_error("read a volume", e))?;
                    archive.push(chunk, &mut output).map_err(CopyError::Contents)?;
                    if !send(&sender, &mut output).await {
                        return Ok(());
                    }
                }
                archive.finish(&mut output).map_err(CopyError::Contents)?;
                send(&sender, &mut output).await;
                Ok(())
            };
            let result: Result<(), CopyError> = result.await;
            if result.is_err() {
                // What was written so far must not look complete.
                let _ = sender.send(Err(io::Error::other("the archive isn't complete"))).await;
            }
            result
        };
        let chunks = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|chunk| (chunk, receiver))
        });
        let options = UploadToContainerOptionsBuilder::new().path(MEMORY_DIR).build();
        let written = client.upload_to_container(target, Some(options), bollard::body_try_stream(chunks));
        let (read, written) = tokio::join!(read, written);
        read?;
        Ok(written.map_err(|e| map_error("write to a volume", e))?)
    }

    async fn memory_in(&self, instance: &str, slot: MemorySlot) -> Result<Option<Found>, Error> {
        let name = self.names.memory(instance, slot);
        let labels = self.labels_of_volume(&name, |labels| self.names.owns_memory(&name, labels)).await?;
        let Some(mut labels) = labels else { return Ok(None) };
        let is_held = self.holder_in(instance, slot).await?.is_some_and(|holder| holder.runs);
        Ok(Some(Found { slot, size: labels.remove(LABEL_SPEC).unwrap_or_default(), is_held }))
    }

    /// Removes the memory of one slot, with what it holds.
    async fn clear(&self, instance: &str, slot: MemorySlot) -> Result<(), Error> {
        if let Some(holder) = self.holder_in(instance, slot).await? {
            self.remove_container(&holder.id).await?;
        }
        let name = self.names.memory(instance, slot);
        match self.labels_of_volume(&name, |labels| self.names.owns_memory(&name, labels)).await? {
            Some(_) => self.remove_volume(&name).await.map(drop),
            None => Ok(()),
        }
    }
}

/// Sends chunks on. Returns whether somebody takes them: otherwise the upload has ended, and its error counts.
async fn send(sender: &mpsc::Sender<io::Result<Bytes>>, output: &mut Vec<Bytes>) -> bool {
    for chunk in output.drain(..) {
        if sender.send(Ok(chunk)).await.is_err() {
            return false;
        }
    }
    true
}

/// How long a copy of so many bytes may take.
pub(crate) fn copy_timeout(bytes: u64) -> Duration {
    let gigabytes = u32::try_from(bytes >> 30).unwrap_or(u32::MAX);
    COPY_TIMEOUT.saturating_add(COPY_TIMEOUT_PER_GB.saturating_mul(gigabytes))
}

fn smaller() -> String {
    "a warm cache that gets less memory starts empty".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_a_copy_follows_its_size() {
        for (megabytes, seconds) in [(64, 60), (1 << 10, 80), (16 << 10, 380)] {
            assert_eq!(copy_timeout(megabytes << 20), Duration::from_secs(seconds), "{megabytes} MB");
        }
    }

    #[tokio::test]
    async fn reading_ends_when_nobody_takes_what_was_read() {
        let (sender, mut receiver) = mpsc::channel(CHUNKS_MAX);
        assert!(send(&sender, &mut vec![Bytes::from_static(b"1")]).await);
        assert_eq!(receiver.recv().await.unwrap().unwrap(), Bytes::from_static(b"1"));
        drop(receiver);
        assert!(!send(&sender, &mut vec![Bytes::from_static(b"2")]).await);
    }
}
