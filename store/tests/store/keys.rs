//! Key files: created once, atomically, for their owner only; refused when others could have read them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use store::{KeyError, LaneCredential, LaneKey, TokenKey};

#[test]
fn key_file_is_created_once_and_for_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lane.key");
    let created = LaneKey::load_or_create(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for key in [LaneKey::load(&path).unwrap(), LaneKey::load_or_create(&path).unwrap()] {
        assert_eq!(key.credential("i", 1), created.credential("i", 1));
    }
    let credential = created.credential("i", 1);
    assert_eq!(credential.login_value().len(), "lane ".len() + 64);
    assert!(credential != created.credential("i", 2) && credential != created.credential("j", 1));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.len() == 64 && !format!("{created:?}").contains(&text));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn concurrent_callers_get_the_same_key() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lane.key");
        let start = std::sync::Barrier::new(8);
        let credentials: Vec<LaneCredential> = std::thread::scope(|scope| {
            let ask = || {
                start.wait();
                LaneKey::load_or_create(&path).unwrap().credential("i", 1)
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(credentials.iter().all(|credential| *credential == credentials[0]));
    }
}

// W-14.
#[test]
fn world_readable_key_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token.key");
    TokenKey::load_or_create(&path).unwrap();
    for (mode, is_accepted) in [(0o644, false), (0o604, false), (0o602, false), (0o640, true), (0o400, true)]
    {
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        for result in [TokenKey::load(&path), TokenKey::load_or_create(&path)] {
            match result {
                Ok(_) => assert!(is_accepted, "{mode:o}"),
                Err(KeyError::WorldReadable(which)) => assert!(!is_accepted && which == path, "{mode:o}"),
                Err(error) => panic!("{mode:o}: {error:?}"),
            }
        }
    }
}

#[test]
fn malformed_key_file_is_refused_and_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token.key");
    let digits = "0123456789abcdefABCDEF".repeat(3);
    let plus = format!("+f{}", &digits[..62]);
    let cases: [&[u8]; 8] = [
        b"",
        b"0123",
        &digits.as_bytes()[..63],
        &digits.as_bytes()[..65],
        &[b'g'; 64],
        plus.as_bytes(),
        &[0xff; 64],
        &[b'0'; 5000],
    ];
    for text in cases {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for result in [TokenKey::load(&path), TokenKey::load_or_create(&path)] {
            assert!(matches!(&result, Err(KeyError::Malformed(which)) if *which == path), "{result:?}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), text);
    }
    std::fs::write(&path, format!("{}\n", &digits[..64])).unwrap();
    TokenKey::load(&path).unwrap();
}

#[test]
fn key_error_names_the_missing_file() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere/token.key");
    let cases = [
        TokenKey::load(&folder.path().join("token.key")),
        TokenKey::load(&nowhere),
        TokenKey::load_or_create(&nowhere),
    ];
    for result in cases {
        let error = result.unwrap_err();
        assert!(matches!(&error, KeyError::File { .. }), "{error:?}");
        assert!(error.to_string().contains("token.key"), "{error}");
        assert!(error.to_string().contains("folder"), "{error}");
    }
}
