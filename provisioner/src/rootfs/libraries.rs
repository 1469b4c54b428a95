//! The libraries that a program links, found as the system's loader would find them, but without it: by their names,
//! in the system's folders and in those of unpacked packages. The files that were looked at are those that are packed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::elf::{self, Elf};

/// The folders of the system's libraries, whose sub-folders are one for each architecture.
const SYSTEM_FOLDERS: [&str; 4] = ["/lib", "/usr/lib", "/lib64", "/usr/lib64"];
/// Bytes of a library.
const LIBRARY_MAX: u64 = 64 << 20;
/// Libraries of one program, with those that they link, and their bytes: all are kept in memory until they are packed.
const LIBRARIES_MAX: usize = 256;
const TOTAL_MAX: usize = 256 << 20;

/// The libraries that a program links: those found, and names of those missing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Linked {
    pub(super) found: Vec<Library>,
    pub(super) missing: Vec<String>,
}

/// A library that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Library {
    /// Where it was found.
    pub(super) path: PathBuf,
    pub(super) contents: Vec<u8>,
    /// Whether the program names this path, and not only a file that the loader looks for.
    pub(super) is_named_by_path: bool,
}

/// Finds the libraries of a program, and theirs. Those below `root`, of unpacked packages, come before the host's.
pub(super) fn find(program: &Elf, root: &Path) -> io::Result<Linked> {
    find_within(TOTAL_MAX, program, root)
}

fn find_within(total_max: usize, program: &Elf, root: &Path) -> io::Result<Linked> {
    let Some(loader) = &program.loader else { return Ok(Linked::default()) };
    let folders = Folders::new(root, Path::new(loader));
    let mut linked = Linked::default();
    let loader_path = PathBuf::from(loader);
    match folders.read(&loader_path)? {
        Some(contents) => {
            // The program has chosen the file. Some in the system's folders are root's alone.
            let is_loader = elf::parse(&contents, std::env::consts::ARCH).is_ok();
            if !is_loader {
                return Err(io::Error::other(format!("its loader {loader} isn't one for this machine")));
            }
            linked.found.push(Library { path: loader_path.clone(), contents, is_named_by_path: true });
        }
        None => linked.missing.push(loader.clone()),
    }
    let loader_name = loader_path.file_name().map(|name| name.to_string_lossy().into_owned());
    // By name: several link the same.
    let mut seen = BTreeSet::new();
    let mut total = 0_usize;
    let mut next = program.libraries.clone();
    while let Some(name) = next.pop() {
        if Some(&name) == loader_name.as_ref() || !seen.insert(name.clone()) {
            continue;
        }
        if seen.len() > LIBRARIES_MAX {
            return Err(io::Error::other(format!("it links more than {LIBRARIES_MAX} libraries")));
        }
        match folders.find(&name)? {
            Some((path, contents, library)) => {
                total = total.saturating_add(contents.len());
                if total > total_max {
                    let limit = total_max >> 20;
                    return Err(io::Error::other(format!(
                        "its libraries are larger than {limit} MB together"
                    )));
                }
                next.extend(library.libraries);
                linked.found.push(Library { path, contents, is_named_by_path: false });
            }
            None => linked.missing.push(name),
        }
    }
    Ok(linked)
}

/// Where libraries are looked for.
struct Folders {
    root: PathBuf,
    folders: Vec<PathBuf>,
    /// The system's folders without links.
    system: Vec<PathBuf>,
}

impl Folders {
    fn new(root: &Path, loader: &Path) -> Self {
        let unpacked = [root.join("usr/lib"), root.join("lib")];
        let within = |folder: &PathBuf| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
        };
        let mut folders: Vec<PathBuf> = unpacked.iter().flat_map(within).collect();
        folders.extend(unpacked);
        // The loader's own folder is that of its architecture.
        folders.extend(fs::canonicalize(loader).ok().and_then(|path| Some(path.parent()?.to_owned())));
        folders.extend(SYSTEM_FOLDERS.map(PathBuf::from));
        let system = SYSTEM_FOLDERS.iter().filter_map(|folder| fs::canonicalize(folder).ok()).collect();
        Self { root: root.to_owned(), folders, system }
    }

    /// The first library of this name that is one for this machine.
    fn find(&self, name: &str) -> io::Result<Option<(PathBuf, Vec<u8>, Elf)>> {
        for folder in &self.folders {
            let path = folder.join(name);
            let Some(contents) = self.read(&path)? else { continue };
            if let Ok(library) = elf::parse(&contents, std::env::consts::ARCH) {
                return Ok(Some((path, contents, library)));
            }
        }
        Ok(None)
    }

    /// Reads a library; `None` if there is none. Links are followed within the system's folders and those of packages.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let real = match fs::canonicalize(path) {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let root = fs::canonicalize(&self.root).ok();
        if !self.system.iter().chain(&root).any(|folder| real.starts_with(folder)) {
            return Err(refused(path, "leads out of the system's folders of libraries"));
        }
        let file = rustix::fs::open(
            &real,
            rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK,
            rustix::fs::Mode::empty(),
        )?;
        let file = fs::File::from(file);
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > LIBRARY_MAX {
            return Err(refused(path, "isn't a file, or larger than 64 MB"));
        }
        let is_trusted = metadata.uid() == 0 || metadata.uid() == rustix::process::geteuid().as_raw();
        if !is_trusted || metadata.permissions().mode() & 0o022 != 0 {
            return Err(refused(path, "may be written by others than root"));
        }
        let mut contents = Vec::new();
        file.take(LIBRARY_MAX).read_to_end(&mut contents)?;
        Ok(Some(contents))
    }
}

fn refused(path: &Path, why: &str) -> io::Error {
    io::Error::other(format!("the library {} {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn own_program() -> Elf {
        let bytes = fs::read(std::env::current_exe().unwrap()).unwrap();
        elf::parse(&bytes, std::env::consts::ARCH).unwrap()
    }

    #[test]
    fn libraries_are_found_with_those_that_they_link() {
        let folder = tempfile::tempdir().unwrap();
        let program = own_program();
        assert!(program.libraries.iter().any(|name| name == "libc.so.6"), "{program:?}");
        let linked = find(&program, folder.path()).unwrap();
        assert_eq!(linked.missing, Vec::<String>::new());
        let has = |name: &str| linked.found.iter().any(|it| it.path.file_name().is_some_and(|it| it == name));
        assert!(has("libc.so.6"));
        assert!(linked.found[0].is_named_by_path, "the loader");
        let unknown = Elf { libraries: vec!["libnothing.so.9".into()], ..program };
        assert_eq!(find(&unknown, folder.path()).unwrap().missing, ["libnothing.so.9"]);
    }

    //
    #[test]
    fn what_is_packed_is_a_loader_and_libraries_of_bounded_size() {
        let folder = tempfile::tempdir().unwrap();
        let packages = folder.path().join("root");
        let libraries = packages.join("usr/lib");
        fs::create_dir_all(&libraries).unwrap();
        // In a folder where a loader may be.
        fs::write(libraries.join("ld-key.so"), "a key").unwrap();
        let loader = libraries.join("ld-key.so").display().to_string();
        let program = Elf { loader: Some(loader), ..own_program() };
        let error = find(&program, &packages).unwrap_err().to_string();
        assert!(error.contains("ld-key.so isn't one for this machine"), "{error}");
        let error = find_within(1 << 20, &own_program(), &packages).unwrap_err().to_string();
        assert_eq!(error, "its libraries are larger than 1 MB together");
    }

    //
    #[test]
    fn no_other_file_of_roots_is_taken_for_a_library() {
        let folder = tempfile::tempdir().unwrap();
        let packages = folder.path().join("root");
        let libraries = packages.join("usr/lib");
        fs::create_dir_all(&libraries).unwrap();
        fs::write(folder.path().join("secret"), "a secret").unwrap();
        symlink(folder.path().join("secret"), libraries.join("libsecret.so")).unwrap();
        fs::write(libraries.join("libopen.so"), "").unwrap();
        fs::set_permissions(libraries.join("libopen.so"), fs::Permissions::from_mode(0o666)).unwrap();
        symlink("/dev/zero", libraries.join("libzero.so")).unwrap();
        for (name, why) in [
            ("libsecret.so", "leads out"),
            ("libopen.so", "may be written by others"),
            ("libzero.so", "leads out"),
        ] {
            let program = Elf { libraries: vec![name.to_owned()], ..own_program() };
            let error = find(&program, &packages).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(why), "{error}");
        }
        // What isn't a library at all isn't one.
        fs::write(libraries.join("libtext.so"), "text").unwrap();
        let program = Elf { libraries: vec!["libtext.so".into()], ..own_program() };
        assert_eq!(find(&program, &packages).unwrap().missing, ["libtext.so"]);
    }
}
