//! The image's root file system, built from the distribution's memcached package or from a binary that the operator has
//! built: the binary, the libraries that it links, and nothing else. Packages are downloaded and unpacked, never installed;
//! the operator's binary is never run here.

mod elf;
mod libraries;
mod package;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::error::Error;
use crate::spec::{LANE_DIR, MEMCACHED, UID};
use elf::Elf;
use libraries::{Library, Linked};
use package::Packages;

/// How deep dependencies are followed: libraries of libraries may be missing, too.
const DEPENDENCY_DEPTH_MAX: usize = 4;
/// Bytes of an operator's binary; memcached has less than one million, with debug symbols a few.
const BINARY_MAX: u64 = 256 << 20;
/// The package whose libraries are taken where the host has none.
const PACKAGE: &str = "memcached";
/// The folders of the system's loaders, and the C library that every dynamic program links.
const LOADER_FOLDERS: [&str; 3] = ["/lib", "/lib64", "/usr/lib"];
const C_LIBRARY: &str = "libc.so.6";

/// A root file system as a tar archive.
#[derive(Debug)]
pub(crate) struct Rootfs {
    /// The version of the memcached package; empty for an operator's binary, which hasn't told it yet.
    pub(crate) version: String,
    pub(crate) tar: Vec<u8>,
}

impl Rootfs {
    /// Builds it from the distribution's memcached package.
    pub(crate) async fn from_package() -> Result<Self, Error> {
        let failed = |error: io::Error| Error::Image(format!("{error}: check the temporary folder's space"));
        let dir = tempfile::tempdir().map_err(failed)?;
        let packages = Packages::new(dir.path());
        let version = packages.unpack(PACKAGE).await?;
        let binary = packages.root().join(MEMCACHED.trim_start_matches('/'));
        let binary = read_program(&binary).map_err(failed)?;
        let elf = elf::parse(&binary, std::env::consts::ARCH)
            .map_err(|(problem, fix)| Error::Image(format!("the package's memcached: {problem}: {fix}")))?;
        let libraries = find_libraries(&packages, &elf).await?;
        let root = packages.root().to_owned();
        let libraries = libraries.into_iter().map(|it| (inside(&root, &it.path), it.contents));
        let files =
            [(inside(Path::new("/"), Path::new(MEMCACHED)), binary)].into_iter().chain(libraries).collect();
        Ok(Self { version, tar: pack_beside(files).await.map_err(failed)? })
    }

    /// Builds it from a memcached that the operator has built. The libraries come from this host, and those that it lacks
    /// from the distribution's memcached package and its dependencies.
    pub(crate) async fn from_binary(path: &Path) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::Image(format!("{error}: check the temporary folder's space"));
        let refused =
            |problem: String, fix: &str| Error::Binary { path: path.to_owned(), problem, fix: fix.into() };
        let unreadable = |error: io::Error| refused(error.to_string(), "name a file that this user can read");
        let bytes = read_program(path).map_err(unreadable)?;
        let elf =
            elf::parse(&bytes, std::env::consts::ARCH).map_err(|(problem, fix)| refused(problem, fix))?;
        if elf.redirects {
            let fix = "link it without -rpath, --audit and --filter, or `patchelf --remove-rpath` it";
            return Err(refused("it tells the loader to look for libraries elsewhere".into(), fix));
        }
        let dir = tempfile::tempdir().map_err(failed)?;
        let packages = Packages::new(dir.path());
        let libraries = match &elf.loader {
            None => Vec::new(),
            Some(loader) if is_of_system(loader) => find_foreign_libraries(&packages, &elf, path).await?,
            Some(loader) => {
                let fix = "build it on this distribution, or link it statically";
                return Err(refused(format!("its loader {loader} isn't this host's"), fix));
            }
        };
        let root = packages.root().to_owned();
        let folder = library_folder(&root, &libraries);
        let place = |library: Library| match (&folder, library.path.file_name()) {
            (Some(folder), Some(name)) if !library.is_named_by_path => (folder.join(name), library.contents),
            _ => (inside(&root, &library.path), library.contents),
        };
        let memcached = (inside(Path::new("/"), Path::new(MEMCACHED)), bytes);
        let files = std::iter::once(memcached).chain(libraries.into_iter().map(place)).collect();
        Ok(Self { version: String::new(), tar: pack_beside(files).await.map_err(failed)? })
    }
}

/// Reads a file that is no larger than a program.
fn read_program(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe would be waited for, also one that somebody puts there just now.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(BINARY_MAX + 1).read_to_end(&mut bytes)?;
    let fits = u64::try_from(bytes.len()).is_ok_and(|length| length <= BINARY_MAX);
    if fits { Ok(bytes) } else { Err(io::Error::other("it is larger than 256 MB")) }
}

fn is_of_system(loader: &str) -> bool {
    let folder = fs::canonicalize(loader).ok().and_then(|path| Some(path.parent()?.to_owned()));
    let system = LOADER_FOLDERS.iter().filter_map(|folder| fs::canonicalize(folder).ok());
    folder.is_some_and(|folder| system.into_iter().any(|system| folder.starts_with(system)))
}

/// The libraries of an operator's binary. Names those that nothing here has.
async fn find_foreign_libraries(packages: &Packages, elf: &Elf, path: &Path) -> Result<Vec<Library>, Error> {
    let refused = |problem, fix: &str| Error::Binary { path: path.to_owned(), problem, fix: fix.into() };
    let fix = "build it on this distribution, or link it statically";
    let linked = linked_by(elf, packages).map_err(|error| refused(error.to_string(), fix))?;
    if linked.missing.is_empty() {
        return Ok(linked.found);
    }
    let from_package = async {
        packages.unpack(PACKAGE).await?;
        find_libraries(packages, elf).await
    };
    if let Ok(found) = from_package.await {
        return Ok(found);
    }
    let missing = linked_by(elf, packages).map_or(linked.missing, |linked| linked.missing);
    let missing = missing.join(", ");
    Err(refused(
        format!("it links {missing}, which neither this host nor the distribution's memcached package has"),
        "install the library where everybody may read it (`apt-cache search` finds its package), or link memcached statically",
    ))
}

/// Where the loader looks for libraries without a configuration: the folder of the C library.
fn library_folder(root: &Path, libraries: &[Library]) -> Option<PathBuf> {
    let c_library = libraries.iter().find(|it| it.path.file_name().is_some_and(|name| name == C_LIBRARY))?;
    inside(root, &c_library.path).parent().map(Path::to_owned)
}

/// The name in the image of a file that was unpacked below `root`, or of one of this host.
fn inside(root: &Path, path: &Path) -> PathBuf {
    match path.strip_prefix(root) {
        Ok(unpacked) => unpacked.to_owned(),
        Err(_) => path.strip_prefix("/").unwrap_or(path).to_owned(),
    }
}

/// Finds the libraries that a binary links. Those that this host lacks are unpacked from packages.
async fn find_libraries(packages: &Packages, elf: &Elf) -> Result<Vec<Library>, Error> {
    let failed = |error: io::Error| Error::Image(error.to_string());
    let mut seen = BTreeSet::from([PACKAGE.to_owned()]);
    let mut new: Vec<String> = seen.iter().cloned().collect();
    for _ in 0..DEPENDENCY_DEPTH_MAX {
        let linked = linked_by(elf, packages).map_err(failed)?;
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
    let linked = linked_by(elf, packages).map_err(failed)?;
    if linked.missing.is_empty() {
        return Ok(linked.found);
    }
    let missing = linked.missing.join(", ");
    Err(Error::Image(format!("no package provides {missing}: install the library on this host")))
}

fn linked_by(elf: &Elf, packages: &Packages) -> io::Result<Linked> {
    libraries::find(elf, packages.root())
}

async fn pack_beside(files: Vec<(PathBuf, Vec<u8>)>) -> io::Result<Vec<u8>> {
    tokio::task::spawn_blocking(move || pack(&files)).await.map_err(io::Error::from).flatten()
}

/// Packs files, each with its name in the image.
fn pack(files: &[(PathBuf, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
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
    for (name, contents) in files {
        append(&mut tar, name, tar::EntryType::Regular, (0o755, 0, contents))?;
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
