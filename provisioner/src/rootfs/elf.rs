//! What a program or a library says of itself: whether it is one for this machine, which loader it needs, and which libraries it
//! links. Pure: reads bytes that may hold anything.
//!
//! The system's loader isn't asked (`ldd`): it runs code of the program that it looks at, if that says so.

/// Where the fields of a 64-bit ELF file are (elf(5)).
const CLASS: usize = 4;
const BYTE_ORDER: usize = 5;
const TYPE: usize = 16;
const MACHINE: usize = 18;
const HEADERS_AT: usize = 32;
const HEADER_SIZE: usize = 54;
const HEADER_COUNT: usize = 56;
/// Within a program header.
const SEGMENT_AT: usize = 8;
const SEGMENT_ADDRESS: usize = 16;
const SEGMENT_SIZE: usize = 32;
/// An entry of the dynamic section: a tag and a value.
const ENTRY_SIZE: usize = 16;
/// Tags: a library that is linked, and where the names are.
const NEEDED: u64 = 1;
const NAMES: u64 = 5;
/// Tags that let the loader look elsewhere, or run something else: DT_RPATH, DT_RUNPATH, DT_CONFIG, DT_DEPAUDIT, DT_AUDIT,
/// DT_AUXILIARY, DT_FILTER.
const REDIRECTIONS: [u64; 7] = [15, 29, 0x6fff_fefa, 0x6fff_fefb, 0x6fff_fefc, 0x7fff_fffd, 0x7fff_ffff];

const MAGIC: &[u8] = b"\x7fELF";
const BITS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const EXECUTABLE: u16 = 2;
const SHARED: u16 = 3;
/// Segments: one that is loaded, the dynamic section, and the one that names the loader.
const LOADED: u32 = 1;
const DYNAMIC: u32 = 2;
const INTERPRETER: u32 = 3;
/// Bytes of a loader's path, and of a library's name.
const LOADER_MAX: usize = 4_096;
const NAME_MAX: usize = 255;
/// Entries of a dynamic section, and libraries that one file links.
const ENTRIES_MAX: usize = 4_096;
const LIBRARIES_MAX: usize = 256;
/// Rust's names of architectures, and ELF's numbers.
const MACHINES: [(&str, u16); 4] = [("x86_64", 62), ("aarch64", 183), ("riscv64", 243), ("powerpc64", 21)];

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    /// The path of its loader; `None` if it is linked statically.
    pub(super) loader: Option<String>,
    /// The names of the libraries that it links.
    pub(super) libraries: Vec<String>,
    /// Whether it tells the loader to look for them elsewhere, or to run something else.
    pub(super) redirects: bool,
}

/// Reads the head of a program for an architecture, by Rust's name.
///
/// # Errors
/// What is wrong with it, and how to fix that.
pub(super) fn parse(bytes: &[u8], architecture: &str) -> Result<Elf, (String, &'static str)> {
    let build = "name the program that `make` has built, usually `memcached` in its folder";
    let foreign = || ("it isn't an ELF program".to_owned(), build);
    let is_program = bytes.starts_with(MAGIC) && matches!(number16(bytes, TYPE), Some(EXECUTABLE | SHARED));
    if !is_program {
        return Err(foreign());
    }
    let known = MACHINES.iter().find(|(name, _)| *name == architecture).map(|(_, number)| *number);
    let machine = number16(bytes, MACHINE);
    let is_64 = bytes.get(CLASS) == Some(&BITS_64) && bytes.get(BYTE_ORDER) == Some(&LITTLE_ENDIAN);
    if !is_64 || known.is_some_and(|known| machine != Some(known)) {
        let name =
            MACHINES.iter().find(|(_, number)| machine == Some(*number) && is_64).map(|(name, _)| *name);
        let name = name.unwrap_or("another architecture");
        let fix = "build it on this machine, or for its architecture";
        return Err((format!("it was built for {name}, and this machine is {architecture}"), fix));
    }
    let loader = loader(bytes).ok_or_else(foreign)?;
    let (libraries, redirects) = linked(bytes).ok_or_else(foreign)?;
    Ok(Elf { loader, libraries, redirects })
}

/// A segment: its kind, where it is in the file, its address in memory, and its size in the file.
#[derive(Debug, Clone, Copy)]
struct Segment {
    kind: u32,
    at: usize,
    address: u64,
    size: usize,
}

/// The segments of a file; `None` if it is damaged.
fn segments(bytes: &[u8]) -> Option<Vec<Segment>> {
    let at = usize::try_from(number64(bytes, HEADERS_AT)?).ok()?;
    let (size, count) = (number16(bytes, HEADER_SIZE)?, number16(bytes, HEADER_COUNT)?);
    let segment = |number: usize| {
        let header = at.checked_add(number.checked_mul(usize::from(size))?)?;
        Some(Segment {
            kind: number32(bytes, header)?,
            at: usize::try_from(number64(bytes, header.checked_add(SEGMENT_AT)?)?).ok()?,
            address: number64(bytes, header.checked_add(SEGMENT_ADDRESS)?)?,
            size: usize::try_from(number64(bytes, header.checked_add(SEGMENT_SIZE)?)?).ok()?,
        })
    };
    (0..usize::from(count)).map(segment).collect()
}

/// The names of the libraries that a file links, and whether it has one of [`REDIRECTIONS`]; `None` if it is damaged.
fn linked(bytes: &[u8]) -> Option<(Vec<String>, bool)> {
    let segments = segments(bytes)?;
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == DYNAMIC) else {
        return Some((vec![], false));
    };
    let section = bytes.get(dynamic.at..dynamic.at.checked_add(dynamic.size)?)?;
    let entries = section.chunks_exact(ENTRY_SIZE).take(ENTRIES_MAX);
    let entries: Vec<(u64, u64)> = entries
        .map_while(|entry| Some((number64(entry, 0)?, number64(entry, 8)?)))
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let redirects = entries.iter().any(|(tag, _)| REDIRECTIONS.contains(tag));
    let needed: Vec<u64> =
        entries.iter().filter(|(tag, _)| *tag == NEEDED).map(|(_, value)| *value).collect();
    if needed.is_empty() {
        return Some((vec![], redirects));
    }
    let names = entries.iter().find(|(tag, _)| *tag == NAMES)?.1;
    let holds_names = |segment: &&Segment| {
        let length = names.checked_sub(segment.address).and_then(|from| usize::try_from(from).ok());
        segment.kind == LOADED && length.is_some_and(|length| length < segment.size)
    };
    let segment = segments.iter().find(holds_names)?;
    let names = segment.at.checked_add(usize::try_from(names - segment.address).ok()?)?;
    let name = |offset: u64| {
        let begin = names.checked_add(usize::try_from(offset).ok()?)?;
        let name = bytes.get(begin..)?.iter().take(NAME_MAX + 1).take_while(|byte| **byte != 0).copied();
        let name = String::from_utf8(name.collect()).ok()?;
        let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
        let is_name = !name.is_empty() && name.len() <= NAME_MAX && !name.starts_with('.');
        (is_name && name.bytes().all(is_plain)).then_some(name)
    };
    let libraries = needed.into_iter().take(LIBRARIES_MAX).map(name).collect::<Option<Vec<String>>>()?;
    Some((libraries, redirects))
}

/// The loader that the program names, if any; `None` if the program is damaged.
fn loader(bytes: &[u8]) -> Option<Option<String>> {
    let segments = segments(bytes)?;
    let Some(segment) = segments.iter().find(|segment| segment.kind == INTERPRETER) else {
        return Some(None);
    };
    let path = bytes.get(segment.at..segment.at.checked_add(segment.size.min(LOADER_MAX))?)?;
    let path = std::str::from_utf8(path.split(|byte| *byte == 0).next()?).ok()?;
    let is_plain = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    is_plain.then(|| Some(path.to_owned()))
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn number64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with one segment that names a loader.
    fn program(loader: &str) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[TYPE] = 3;
        bytes[MACHINE] = 62;
        bytes[HEADERS_AT] = 64;
        bytes[HEADER_SIZE] = 56;
        bytes[HEADER_COUNT] = 1;
        let mut header = vec![0; 56];
        header[0] = 3;
        header[SEGMENT_AT] = 120;
        header[SEGMENT_SIZE] = u8::try_from(loader.len() + 1).unwrap();
        bytes.extend(header);
        bytes.extend(loader.as_bytes());
        bytes.push(0);
        bytes
    }

    //
    #[test]
    fn a_program_names_its_loader() {
        let found = |bytes: &[u8]| parse(bytes, "x86_64").map(|elf| elf.loader);
        assert_eq!(found(&program("/lib64/ld.so")), Ok(Some("/lib64/ld.so".into())));
        let mut linked_statically = program("/lib64/ld.so");
        linked_statically[HEADER_COUNT] = 0;
        assert_eq!(found(&linked_statically), Ok(None));
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let loader = parse(&own, std::env::consts::ARCH).unwrap().loader;
        assert!(loader.is_none_or(|loader| std::path::Path::new(&loader).exists()));
    }

    //
    #[test]
    fn what_is_no_program_for_this_machine_is_refused() {
        let problem = |bytes: &[u8]| parse(bytes, "x86_64").unwrap_err().0;
        let good = program("/lib64/ld.so");
        for length in 0..good.len() - 15 {
            assert!(parse(&good[..length], "x86_64").is_err(), "{length}");
        }
        for text in [b"#!/bin/sh\n".as_slice(), b"", &[0; 500]] {
            assert!(problem(text).contains("isn't an ELF program"));
        }
        for loader in ["ld.so", "/a b", "/\u{1b}"] {
            assert!(problem(&program(loader)).contains("isn't an ELF program"), "{loader}");
        }
        let changed = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            problem(&bytes)
        };
        assert_eq!(changed(MACHINE, 183), "it was built for aarch64, and this machine is x86_64");
        assert_eq!(changed(CLASS, 1), "it was built for another architecture, and this machine is x86_64");
        for (at, value) in [(HEADERS_AT + 7, 255), (64 + SEGMENT_AT + 7, 255)] {
            assert!(changed(at, value).contains("isn't an ELF program"), "{at}");
        }
    }

    // the loader would run what such a tag names.
    #[test]
    fn tags_that_redirect_the_loader_are_found() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let good = parse(&own, std::env::consts::ARCH).unwrap();
        assert!(!good.redirects && good.libraries.contains(&"libc.so.6".to_owned()), "{good:?}");
        let dynamic = segments(&own).unwrap().into_iter().find(|it| it.kind == DYNAMIC).unwrap();
        for tag in REDIRECTIONS {
            let mut bytes = own.clone();
            bytes[dynamic.at..dynamic.at + 8].copy_from_slice(&tag.to_le_bytes());
            assert!(parse(&bytes, std::env::consts::ARCH).unwrap().redirects, "{tag:#x}");
        }
    }

    //
    #[test]
    fn names_of_libraries_are_no_paths() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let at = own.windows(10).position(|window| window == b"libc.so.6\0").unwrap();
        for name in [b"../c.so.6", b"lib/.so.6", b"libc\nso.6", b"\xffibc.so.6"] {
            let mut bytes = own.clone();
            bytes[at..at + 9].copy_from_slice(name);
            assert!(parse(&bytes, std::env::consts::ARCH).is_err(), "{name:?}");
        }
    }
}
