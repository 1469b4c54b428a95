//! The image's root file system, built from the distribution's memcached package: the binary, the libraries
//! that it links, and nothing else. Packages are downloaded and unpacked, never installed.

mod package;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::spec::{LANE_DIR, MEMCACHED, UID};
use package::Packages;

/// How deep dependencies are followed: libraries of libraries may be missing, too.
const DEPENDENCY_DEPTH_MAX: usize = 4;

/// A root file system as a tar archive.
#[derive(Debug)]
pub(crate) struct Rootfs {
    /// The version of the memcached package.
    pub(crate) version: String,
    pub(crate) tar: Vec<u8>,
}

impl Rootfs {
    /// Builds it from the distribution's memcached package.
    pub(crate) async fn from_package() -> Result<Self, Error> {
        let failed = |error: io::Error| Error::Image(format!("{error}: check the temporary folder's space"));
        let dir = tempfile::tempdir().map_err(failed)?;
        let packages = Packages::new(dir.path());
        let version = packages.unpack("memcached").await?;
        let binary = packages.root().join(MEMCACHED.trim_start_matches('/'));
        let libraries = find_libraries(&packages, &binary).await?;
        let root = packages.root().to_owned();
        let tar = tokio::task::spawn_blocking(move || pack(&root, &binary, &libraries)).await;
        let tar = tar.map_err(io::Error::from).and_then(|tar| tar).map_err(failed)?;
        Ok(Self { version, tar })
    }
}

/// Finds the libraries that a binary links. Those that this host lacks are unpacked from packages.
async fn find_libraries(packages: &Packages, binary: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut seen = BTreeSet::from(["memcached".to_owned()]);
    let mut new: Vec<String> = seen.iter().cloned().collect();
    for _ in 0..DEPENDENCY_DEPTH_MAX {
        let linked = packages.linked(binary).await?;
        if linked.missing.is_empty() {
            return Ok(linked.found);
        }
        let mut next = Vec::new();
        for package in new {
            for library in packages.libraries_of(&package).await? {
                if seen.insert(library.clone()) {
                    packages.unpack(&library).await?;
                    next.push(library);
                }
            }
        }
        new = next;
    }
    let missing = packages.linked(binary).await?.missing;
    if missing.is_empty() {
        return Ok(packages.linked(binary).await?.found);
    }
    Err(Error::Image(format!("no package provides {}: install the library on this host", missing.join(", "))))
}

fn pack(root: &Path, binary: &Path, libraries: &[PathBuf]) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let inside = |path: &Path| match path.strip_prefix(root) {
        Ok(unpacked) => unpacked.to_owned(),
        Err(_) => path.strip_prefix("/").unwrap_or(path).to_owned(),
    };
    let files: Vec<(PathBuf, &Path)> = std::iter::once(binary)
        .chain(libraries.iter().map(PathBuf::as_path))
        .map(|f| (inside(f), f))
        .collect();
    let folders: BTreeSet<&Path> = files
        .iter()
        .flat_map(|(name, _)| name.ancestors().skip(1))
        .filter(|f| !f.as_os_str().is_empty())
        .collect();
    for folder in folders {
        append(&mut tar, folder, tar::EntryType::Directory, (0o755, 0, &[]))?;
    }
    let mount_point = Path::new(LANE_DIR).strip_prefix("/").unwrap_or(Path::new(LANE_DIR));
    append(&mut tar, mount_point, tar::EntryType::Directory, (0o500, UID, &[]))?;
    for (name, file) in &files {
        // Links are followed: the name that memcached links holds the file itself.
        append(&mut tar, name, tar::EntryType::Regular, (0o755, 0, &std::fs::read(file)?))?;
    }
    tar.into_inner()
}

/// Appends one entry, `(mode, owner, contents)`. Times are zero: the same packages give the same image.
fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    name: &Path,
    kind: tar::EntryType,
    (mode, owner, contents): (u32, u32, &[u8]),
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.into());
    header.set_gid(owner.into());
    header.set_mtime(0);
    header.set_size(u64::try_from(contents.len()).unwrap_or(u64::MAX));
    tar.append_data(&mut header, name, contents)
}
