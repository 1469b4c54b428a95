//! What the head of a program says: whether it is one for this machine, and which loader it needs. Pure: reads bytes that may
//! hold anything.

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
const SEGMENT_SIZE: usize = 32;

const MAGIC: &[u8] = b"\x7fELF";
const BITS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const EXECUTABLE: u16 = 2;
const SHARED: u16 = 3;
/// The segment that names the loader.
const INTERPRETER: u32 = 3;
/// Bytes of a loader's path.
const LOADER_MAX: usize = 4_096;
/// Rust's names of architectures, and ELF's numbers.
const MACHINES: [(&str, u16); 4] = [("x86_64", 62), ("aarch64", 183), ("riscv64", 243), ("powerpc64", 21)];

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    /// The path of its loader; `None` if it is linked statically.
    pub(super) loader: Option<String>,
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
    Ok(Elf { loader: loader(bytes).ok_or_else(foreign)? })
}

/// The loader that the program names, if any; `None` if the program is damaged.
fn loader(bytes: &[u8]) -> Option<Option<String>> {
    let at = usize::try_from(number64(bytes, HEADERS_AT)?).ok()?;
    let (size, count) = (number16(bytes, HEADER_SIZE)?, number16(bytes, HEADER_COUNT)?);
    for number in 0..usize::from(count) {
        let header = at.checked_add(number.checked_mul(usize::from(size))?)?;
        if number32(bytes, header)? != INTERPRETER {
            continue;
        }
        let begin = usize::try_from(number64(bytes, header.checked_add(SEGMENT_AT)?)?).ok()?;
        let length = usize::try_from(number64(bytes, header.checked_add(SEGMENT_SIZE)?)?).ok()?;
        let path = bytes.get(begin..begin.checked_add(length.min(LOADER_MAX))?)?;
        let path = std::str::from_utf8(path.split(|byte| *byte == 0).next()?).ok()?;
        let is_plain = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
        return is_plain.then(|| Some(path.to_owned()));
    }
    Some(None)
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
}
