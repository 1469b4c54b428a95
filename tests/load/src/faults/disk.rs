//! A small file system of its own for the data directory, so that it can really be full.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::command::run;
use crate::error::LoadError;

const SIZE: u64 = 24 << 20;
const FILLER: &str = "filler";

/// A mounted ext4 image. Unmounted when dropped.
pub(super) struct Disk {
    mounted: PathBuf,
}

impl Disk {
    /// Makes the image `folder/disk.img` and mounts it at `folder/data`.
    pub(super) fn mount(folder: &Path) -> Result<Self, LoadError> {
        let (image, mounted) = (folder.join("disk.img"), folder.join("data"));
        File::create(&image)?.set_len(SIZE)?;
        fs::create_dir(&mounted)?;
        let (image, point) = (image.to_string_lossy().into_owned(), mounted.to_string_lossy().into_owned());
        // No blocks for root only: roles run as others.
        run("mkfs.ext4", &["-q", "-m", "0", "-E", "root_owner=0:0", &image])?;
        run("mount", &["-o", "loop", &image, &point])?;
        let disk = Self { mounted };
        fs::remove_dir(disk.mounted.join("lost+found"))?;
        Ok(disk)
    }

    /// Writes until nothing more fits.
    pub(super) fn fill(&self) -> Result<(), LoadError> {
        let mut file = File::create(self.mounted.join(FILLER))?;
        for size in [1 << 20, 4096, 1] {
            let block = vec![0; size];
            while file.write_all(&block).is_ok() {}
        }
        Ok(file.sync_all()?)
    }

    pub(super) fn free(&self) -> Result<(), LoadError> {
        Ok(fs::remove_file(self.mounted.join(FILLER))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.free();
        if let Err(error) = run("umount", &[&self.mounted.to_string_lossy()]) {
            eprintln!("{error}");
        }
    }
}
