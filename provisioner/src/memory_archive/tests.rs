//! Archives as Docker makes them, and what a hijacked memcached may have put into them.

use super::*;

const BEFORE: u64 = 1 << 20;
const AFTER: u64 = 2 << 20;
const META: &str =
    "Tmain\nKslab_config 1.5\nKmaxbytes 1048576\nKchunk_size 48\nKmmap_oldbase 0x7fbc4f400000\n";

fn items() -> Vec<u8> {
    let all = usize::try_from(BEFORE).unwrap();
    (0..all).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// Appends an entry; a header may claim another size than its data has.
fn append(archive: &mut Vec<u8>, kind: EntryType, name: &str, (size, data): (u64, &[u8])) {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    // Not with the crate's function, which makes names plain.
    header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(size);
    header.set_mode(0o4777);
    header.set_uid(0);
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}

fn file(archive: &mut Vec<u8>, name: &str, data: &[u8]) {
    append(archive, EntryType::Regular, name, (data.len().try_into().unwrap(), data));
}

fn folder(archive: &mut Vec<u8>, name: &str) {
    append(archive, EntryType::Directory, name, (0, b""));
}

fn end(mut archive: Vec<u8>) -> Vec<u8> {
    archive.extend_from_slice(&[0; 2 * BLOCK]);
    archive
}

fn whole(meta: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    folder(&mut archive, "memory/");
    file(&mut archive, "memory/items", &items());
    file(&mut archive, "memory/items.meta", meta.as_bytes());
    end(archive)
}

fn rewritten(archive: &[u8], chunk: usize) -> Result<Vec<u8>, ArchiveError> {
    let mut rewriter = MemoryArchive::new(BEFORE, AFTER);
    let mut output = Vec::new();
    for chunk in archive.chunks(chunk) {
        rewriter.push(Bytes::copy_from_slice(chunk), &mut output)?;
    }
    rewriter.finish(&mut output)?;
    Ok(output.concat())
}

/// What is in an archive: names, modes, owners and contents.
fn read(archive: &[u8]) -> Vec<(String, u32, u64, Vec<u8>)> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
        let header = entry.header();
        assert!(header.entry_type().is_file());
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        (name, header.mode().unwrap(), header.uid().unwrap(), data)
    });
    entries.collect()
}

fn refused(change: impl Fn(&mut Vec<u8>)) -> ArchiveError {
    let mut archive = Vec::new();
    change(&mut archive);
    rewritten(&end(archive), 10_000).unwrap_err()
}

#[test]
fn items_pass_unchanged_and_the_size_of_memory_is_replaced() {
    let items = items();
    for chunk in [1 << 20, 4_096, 777] {
        let read = read(&rewritten(&whole(META), chunk).unwrap());
        let meta = META.replace("1048576", "2097152");
        let names: Vec<_> = read.iter().map(|it| (it.0.as_str(), it.1, it.2)).collect();
        assert_eq!(names, [("items", 0o600, 11211), ("items.meta", 0o600, 11211)]);
        assert!(read[0].3 == items, "{chunk}");
        assert_eq!(String::from_utf8(read[1].3.clone()).unwrap(), meta);
    }
    let mut other_order = Vec::new();
    file(&mut other_order, "memory/items.meta", META.as_bytes());
    file(&mut other_order, "memory/items", &items);
    assert_eq!(read(&rewritten(&end(other_order), 100_000).unwrap()).len(), 2);
}

//
#[test]
fn nothing_but_the_two_files_of_memcached_passes() {
    let items = items();
    let meta = META.as_bytes();
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Directory,
        EntryType::GNUSparse,
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XGlobalHeader,
        EntryType::Continuous,
    ] {
        for name in ["memory/items", "memory/items.meta"] {
            assert_eq!(refused(|it| append(it, kind, name, (0, b""))), UNEXPECTED, "{kind:?} {name}");
        }
    }
    for name in [
        "items",
        "memory",
        "memory/items/items",
        "memory/items2",
        "memory/./items",
        "memory/../items",
        "../memory/items",
        "/memory/items",
        "memory//items",
        "memory/more",
        "etc/passwd",
        "memory/ITEMS",
    ] {
        assert_eq!(refused(|it| file(it, name, meta)), UNEXPECTED, "{name}");
    }
    for name in ["etc/", "memory/more/", "memory2/"] {
        assert_eq!(refused(|it| folder(it, name)), UNEXPECTED, "{name}");
    }
    let twice = |name: &'static str, data: &[u8]| {
        refused(|it| {
            file(it, name, data);
            file(it, name, data);
        })
    };
    assert_eq!([twice("memory/items", &items), twice("memory/items.meta", meta)], [UNEXPECTED; 2]);
}

//
#[test]
fn sizes_are_exactly_those_of_the_memory() {
    let claims = |name: &'static str, size| {
        let kind = EntryType::Regular;
        refused(|it| append(it, kind, name, (size, b"")))
    };
    for size in [0, 1, BEFORE - 1, BEFORE + 1, AFTER, 1 << 40, u64::MAX] {
        assert_eq!(claims("memory/items", size), NOT_SAVED, "{size}");
    }
    for size in [0, META_MAX + 1, u64::MAX] {
        assert_eq!(claims("memory/items.meta", size), NOT_SAVED, "{size}");
    }
    let mut broken = Vec::new();
    file(&mut broken, "memory/items", b"");
    broken[124..136].copy_from_slice(b"not a number");
    assert_eq!(rewritten(&broken, 512), Err(UNEXPECTED));
    let archive = whole(META);
    for length in [0, 1, 511, 512, 600, 1_024, 50_000, archive.len() - 3 * BLOCK, archive.len() - 1_600] {
        assert_eq!(rewritten(&archive[..length], 10_000), Err(INCOMPLETE), "{length}");
    }
    assert!(rewritten(&archive[..archive.len() - 2 * BLOCK], 10_000).is_ok(), "without the end's zeros");
    assert_eq!(refused(|it| file(it, "memory/items.meta", META.as_bytes())), INCOMPLETE);
    assert_eq!(refused(|it| file(it, "memory/items", &items())), INCOMPLETE);
}

//
#[test]
fn what_an_archive_says_beside_headers_is_limited() {
    let record = |text: &str| {
        let text = text.to_owned();
        move |it: &mut Vec<u8>| {
            let size = text.len().try_into().unwrap();
            append(it, EntryType::XHeader, "PaxHeaders.0/items", (size, text.as_bytes()));
        }
    };
    for text in [
        "",
        "x",
        "19 path=etc/passwd\n",
        "19 linkpath=/lane/x\n",
        "30 GNU.sparse.size=1\n",
        "30 SCHILY.xattr.x=1\n",
        "9 size=x\n",
        "9 size=1\n9 size=1\n",
        "30 size=99999999999999999999999\n",
    ] {
        assert_eq!(refused(record(text)), UNEXPECTED, "{text}");
    }
    assert_eq!(refused(record(&"x".repeat(5_000))), UNEXPECTED);
    assert_eq!(
        refused(|it| {
            record("16 size=1048576\n")(it);
            record("16 size=1048576\n")(it);
        }),
        UNEXPECTED
    );
    assert_eq!(
        refused(|it| append(it, EntryType::XHeader, "x", (8, b"8 a=\xff\xfe\n"))),
        UNEXPECTED,
        "no text"
    );
    // As Docker writes a file of more than 8 GB.
    let mut long = Vec::new();
    record("17 mtime=1.000001\n16 size=1048576\n")(&mut long);
    append(&mut long, EntryType::Regular, "memory/items", (0, &items()));
    file(&mut long, "memory/items.meta", META.as_bytes());
    assert_eq!(read(&rewritten(&end(long), 10_000).unwrap()).len(), 2);
    let mut large = MemoryArchive::new(10 << 30, 20 << 30);
    let (mut archive, mut output) = (Vec::new(), Vec::new());
    record("20 size=10737418240\n")(&mut archive);
    append(&mut archive, EntryType::Regular, "memory/items", (0, b""));
    large.push(archive.into(), &mut output).unwrap();
    let written = Header::from_byte_slice(&output[0]);
    assert_eq!((large.part, written.entry_size().unwrap()), (Part::Items(10 << 30), 10 << 30));
}

//
#[test]
fn what_memcached_saved_is_read_strictly() {
    let change = |from: &str, to: &str| {
        assert!(META.contains(from));
        enlarged(META.replace(from, to).as_bytes(), BEFORE, AFTER)
    };
    assert!(change("1.5", "1.25").is_ok(), "memcached itself checks the rest");
    for (from, to) in [
        ("Kmaxbytes 1048576\n", ""),
        ("Kchunk_size 48", "Kmaxbytes 1048576"),
        ("1048576", "1048575"),
        ("1048576", "+1048576"),
        ("1048576", "01048576"),
        ("1048576", " 1048576"),
        ("1048576", "1048576 "),
        ("1048576", ""),
        ("1048576", "99999999999999999999999999"),
        ("1048576\n", "1048576\r\n"),
        ("Kmaxbytes", "kmaxbytes"),
        ("Kmaxbytes ", "Kmaxbytes\t"),
        ("48", "48\0"),
        ("48", "ä"),
        ("Tmain\n", "\n"),
        ("0x7fbc4f400000\n", "0x7fbc4f400000"),
    ] {
        assert_eq!(change(from, to), Err(NOT_SAVED), "{from:?} {to:?}");
    }
    assert_eq!(enlarged(b"Kmaxbytes 1048576\nK\xff\n", BEFORE, AFTER), Err(NOT_SAVED));
    assert_eq!(enlarged(b"", BEFORE, AFTER), Err(NOT_SAVED));
}
