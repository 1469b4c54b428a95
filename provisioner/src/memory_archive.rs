//! Rewrites the archive of a warm cache's memory, as Docker reads it from one volume, for another one and a memcached with more
//! memory. Pure: bytes in, bytes out, and never more than a chunk and one small file in memory.
//!
//! A hijacked memcached may have left anything on the volume. So only two regular files with the expected names and sizes pass,
//! and all else that is in a header is set here.

use bytes::Bytes;
use tar::{EntryType, Header};

use crate::spec::{GID, MEMORY_DIR, MEMORY_FILE, UID};

/// A tar archive consists of such blocks.
const BLOCK: usize = 512;
/// Bytes of the file in which memcached saves what it needs to take its contents back. It has about 350.
const META_MAX: u64 = 4 << 10;
/// Bytes of what an archive says of an entry beside its header.
const EXTENSION_MAX: u64 = 4 << 10;
/// Begins the line with the bytes of memcached's memory.
const MEMORY_KEY: &str = "Kmaxbytes ";

/// Why contents can't be taken, for the owner of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ArchiveError(&'static str);

const UNEXPECTED: ArchiveError = ArchiveError("its memory holds something else than memcached's files");
const INCOMPLETE: ArchiveError = ArchiveError("memcached didn't save all that it needs");
const NOT_SAVED: ArchiveError = ArchiveError("what memcached saved isn't as expected");

/// An archive that is being rewritten.
#[derive(Debug)]
pub(crate) struct MemoryArchive {
    /// Bytes of memcached's memory before and afterwards.
    before: u64,
    after: u64,
    part: Part,
    /// What was read of a part that is needed as a whole.
    gathered: Vec<u8>,
    /// The size of the next entry, if it is too large for a header.
    long_size: Option<u64>,
    has_items: bool,
    has_meta: bool,
}

/// What comes next in the archive, and its bytes that are still missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Header(usize),
    Extension(usize),
    Items(u64),
    Meta(usize),
    /// The rest of a block, behind a part.
    Padding(usize),
    /// Nothing that counts.
    End,
}

/// An entry that is allowed.
enum Entry {
    Folder,
    Extension(usize),
    Items(u64),
    Meta(usize),
}

impl MemoryArchive {
    /// Of a memcached that had `before` bytes, for one that has `after`.
    pub(crate) fn new(before: u64, after: u64) -> Self {
        let (part, gathered) = (Part::Header(BLOCK), Vec::new());
        Self { before, after, part, gathered, long_size: None, has_items: false, has_meta: false }
    }

    /// Takes a chunk of the archive, and appends what is to be written to `output`.
    ///
    /// # Errors
    /// If anything in it isn't as expected.
    pub(crate) fn push(&mut self, mut chunk: Bytes, output: &mut Vec<Bytes>) -> Result<(), ArchiveError> {
        while !chunk.is_empty() && self.part != Part::End {
            match self.part {
                Part::Items(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
                    output.push(chunk.split_to(taken));
                    let left = left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
                    self.part = if left == 0 { self.padding(self.before, output) } else { Part::Items(left) };
                }
                Part::Padding(left) => {
                    let taken = left.min(chunk.len());
                    chunk = chunk.split_off(taken);
                    self.part = if left == taken { Part::Header(BLOCK) } else { Part::Padding(left - taken) };
                }
                Part::Header(left) | Part::Extension(left) | Part::Meta(left) => {
                    let taken = left.min(chunk.len());
                    self.gathered.extend_from_slice(&chunk.split_to(taken));
                    self.part = if left == taken { self.end_part(output)? } else { self.rest(left - taken) };
                }
                Part::End => {}
            }
        }
        Ok(())
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// If it isn't complete.
    pub(crate) fn finish(self, output: &mut Vec<Bytes>) -> Result<(), ArchiveError> {
        let is_whole = self.part == Part::End || self.part == Part::Header(BLOCK);
        if !is_whole || !self.has_items || !self.has_meta {
            return Err(INCOMPLETE);
        }
        output.push(Bytes::from_static(&[0; 2 * BLOCK]));
        Ok(())
    }

    /// The same part, of which less is missing.
    fn rest(&self, left: usize) -> Part {
        match self.part {
            Part::Header(_) => Part::Header(left),
            Part::Extension(_) => Part::Extension(left),
            _ => Part::Meta(left),
        }
    }

    /// Handles a part that is gathered as a whole; returns what follows.
    fn end_part(&mut self, output: &mut Vec<Bytes>) -> Result<Part, ArchiveError> {
        let gathered = std::mem::take(&mut self.gathered);
        match self.part {
            Part::Header(_) => self.begin_entry(&gathered, output),
            Part::Extension(_) => {
                self.long_size = long_size(&gathered)?;
                Ok(padding_of(gathered.len()))
            }
            _ => {
                let changed = enlarged(&gathered, self.before, self.after)?;
                let size = u64::try_from(changed.len()).unwrap_or(u64::MAX);
                output.push(header(&format!("{MEMORY_FILE}.meta"), size)?);
                output.push(changed.into());
                self.padding(size, output);
                Ok(padding_of(gathered.len()))
            }
        }
    }

    fn begin_entry(&mut self, block: &[u8], output: &mut Vec<Bytes>) -> Result<Part, ArchiveError> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(Part::End);
        }
        match self.entry(Header::from_byte_slice(block))? {
            Entry::Folder => Ok(Part::Header(BLOCK)),
            Entry::Extension(size) => Ok(Part::Extension(size)),
            Entry::Items(size) => {
                output.push(header(MEMORY_FILE, size)?);
                Ok(Part::Items(size))
            }
            Entry::Meta(size) => Ok(Part::Meta(size)),
        }
    }

    fn entry(&mut self, header: &Header) -> Result<Entry, ArchiveError> {
        let in_header = header.entry_size().map_err(|_| UNEXPECTED)?;
        let kind = header.entry_type();
        if kind == EntryType::XHeader {
            let fits = (1..=EXTENSION_MAX).contains(&in_header) && self.long_size.is_none();
            return if fits { Ok(Entry::Extension(length(in_header)?)) } else { Err(UNEXPECTED) };
        }
        let size = self.long_size.take().unwrap_or(in_header);
        let folder = MEMORY_DIR.trim_start_matches('/');
        let path = header.path_bytes();
        let name = path.strip_prefix(folder.as_bytes()).ok_or(UNEXPECTED)?;
        let is_file = kind == EntryType::Regular;
        if kind == EntryType::Directory && matches!(name, b"" | b"/") && size == 0 {
            Ok(Entry::Folder)
        } else if is_file && name == format!("/{MEMORY_FILE}").as_bytes() && !self.has_items {
            self.has_items = true;
            if size == self.before { Ok(Entry::Items(size)) } else { Err(NOT_SAVED) }
        } else if is_file && name == format!("/{MEMORY_FILE}.meta").as_bytes() && !self.has_meta {
            self.has_meta = true;
            if (1..=META_MAX).contains(&size) { Ok(Entry::Meta(length(size)?)) } else { Err(NOT_SAVED) }
        } else {
            Err(UNEXPECTED)
        }
    }

    /// Fills the last block of a file of this size that was written, and returns what follows it in what is read.
    fn padding(&self, size: u64, output: &mut Vec<Bytes>) -> Part {
        let rest = usize::try_from(size % 512).unwrap_or(0);
        let part = padding_of(rest);
        if let Part::Padding(count) = part {
            output.push(vec![0; count].into());
        }
        part
    }
}

/// What follows a part of this size.
fn padding_of(size: usize) -> Part {
    match size % BLOCK {
        0 => Part::Header(BLOCK),
        rest => Part::Padding(BLOCK - rest),
    }
}

fn length(size: u64) -> Result<usize, ArchiveError> {
    usize::try_from(size).map_err(|_| UNEXPECTED)
}

/// A header of a regular file of memcached's user.
fn header(name: &str, size: u64) -> Result<Bytes, ArchiveError> {
    let mut header = Header::new_gnu();
    header.set_path(name).map_err(|_| UNEXPECTED)?;
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o600);
    header.set_uid(UID.into());
    header.set_gid(GID.into());
    header.set_mtime(0);
    header.set_cksum();
    Ok(Bytes::copy_from_slice(header.as_bytes()))
}

/// The size in an extension of a header, whose lines are like `21 size=10737418240`. What changes nothing that counts is
/// passed over.
fn long_size(extension: &[u8]) -> Result<Option<u64>, ArchiveError> {
    let text = std::str::from_utf8(extension).map_err(|_| UNEXPECTED)?;
    let mut size = None;
    for line in text.lines() {
        let (_, record) = line.split_once(' ').ok_or(UNEXPECTED)?;
        let (key, value) = record.split_once('=').ok_or(UNEXPECTED)?;
        match key {
            "size" if size.is_none() => size = Some(value.parse().map_err(|_| UNEXPECTED)?),
            "mtime" | "atime" | "ctime" | "uid" | "gid" | "uname" | "gname" => {}
            _ => return Err(UNEXPECTED),
        }
    }
    Ok(size)
}

/// What memcached saved, with another size of its memory.
fn enlarged(meta: &[u8], before: u64, after: u64) -> Result<Vec<u8>, ArchiveError> {
    let text = std::str::from_utf8(meta).map_err(|_| NOT_SAVED)?;
    let lines = text.strip_suffix('\n').ok_or(NOT_SAVED)?;
    let mut changed = String::with_capacity(text.len());
    let mut count = 0;
    for line in lines.split('\n') {
        let is_plain = line.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if !is_plain || !line.starts_with(['K', 'T']) {
            return Err(NOT_SAVED);
        }
        match line.strip_prefix(MEMORY_KEY) {
            Some(value) if value == before.to_string() => {
                count += 1;
                changed.push_str(&format!("{MEMORY_KEY}{after}\n"));
            }
            Some(_) => return Err(NOT_SAVED),
            None => {
                changed.push_str(line);
                changed.push('\n');
            }
        }
    }
    if count == 1 { Ok(changed.into_bytes()) } else { Err(NOT_SAVED) }
}

#[cfg(test)]
mod tests;
