//! An executable of memcached: Debian's, unpacked but not installed, or another one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Variable with the paths of memcacheds to test with in addition to Debian's, separated by colons.
const OTHERS: &str = "MEMGATE_TEST_MEMCACHED";
const PACKAGES: [&str; 3] = ["memcached", "libevent-2.1-7", "libsasl2-2"];
/// Enough that memcached never evicts an item: which one that would be differs from run to run.
const MEGABYTES: &str = "1024";

/// memcached's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u32; 3]);

impl Version {
    /// The version whose replies the proxy gives, whatever version runs behind it.
    const REFERENCE: Self = Self([1, 6, 45]);

    /// Whether this version's replies are those that the proxy gives.
    pub fn is_reference(self) -> bool {
        self >= Self::REFERENCE
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// An executable of memcached.
#[derive(Debug, Clone)]
pub struct MemcachedBinary {
    path: PathBuf,
    /// The folder of its libraries, if they aren't installed.
    libraries: Option<PathBuf>,
}

impl MemcachedBinary {
    /// Debian's memcached; downloaded by the first test that needs it.
    pub fn debian() -> Self {
        let root = unpack_packages();
        let libraries = root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
        Self { path: root.join("usr/bin/memcached"), libraries: Some(libraries) }
    }

    /// Debian's, and those of `MEMGATE_TEST_MEMCACHED`.
    pub fn all() -> Vec<Self> {
        let others = std::env::var_os(OTHERS).unwrap_or_default();
        let others = std::env::split_paths(&others).filter(|path| !path.as_os_str().is_empty());
        std::iter::once(Self::debian()).chain(others.map(Self::at)).collect()
    }

    fn at(path: PathBuf) -> Self {
        assert!(path.is_file(), "{OTHERS}: no such file: {}", path.display());
        Self { path, libraries: None }
    }

    /// Asks the executable for its version.
    pub fn version(&self) -> Version {
        let output = self.command(&[]).arg("-V").output().unwrap().stdout;
        let output = String::from_utf8(output).unwrap();
        let numbers = output.trim().strip_prefix("memcached ").unwrap_or_default().splitn(3, '.');
        let numbers: Vec<u32> = numbers.map(|number| number.parse().unwrap_or_default()).collect();
        Version(numbers.try_into().unwrap_or_else(|_| panic!("not a version of memcached: {output:?}")))
    }

    /// Returns a command that runs it, by way of the command line `wrapper` if there is one.
    pub fn command(&self, wrapper: &[&str]) -> Command {
        let mut command = match wrapper {
            [] => Command::new(&self.path),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.path);
                command
            }
        };
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command.args(["-u", "root", "-U", "0", "-t", "2", "-m", MEGABYTES]).stderr(Stdio::null());
        command
    }
}

/// Debian's `memcached-tool`, a script of Perl.
pub fn memcached_tool() -> PathBuf {
    unpack_packages().join("usr/share/memcached/scripts/memcached-tool")
}

/// Downloads and unpacks Debian's packages once, below Cargo's target folder; returns the folder.
fn unpack_packages() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let parent = target_tmpdir();
        let root = parent.join("memcached");
        if root.join("usr/bin/memcached").exists() {
            return root;
        }
        let fresh = tempfile::tempdir_in(parent).unwrap();
        let apt = ["-qq", "-o", "APT::Sandbox::User=root", "download"];
        let downloaded = Command::new("apt-get").args(apt).args(PACKAGES).current_dir(&fresh).status();
        assert!(downloaded.unwrap().success(), "can't download memcached: try apt-get update");
        for file in std::fs::read_dir(&fresh).unwrap().map(|file| file.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "deb") {
                let unpacked =
                    Command::new("dpkg").arg("-x").arg(file).arg(fresh.path().join("root")).status();
                assert!(unpacked.unwrap().success());
            }
        }
        // Another run may have been faster: then its files stay.
        let _ = std::fs::rename(fresh.path().join("root"), &root);
        root
    })
}

/// The folder `tmp` beside the profile's folder, as `CARGO_TARGET_TMPDIR` is: that variable exists only while
/// integration tests are compiled. Test executables are in `<target>/<profile>/deps`.
fn target_tmpdir() -> PathBuf {
    let executable = std::env::current_exe().unwrap();
    let folder = executable.ancestors().nth(3).unwrap().join("tmp");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
