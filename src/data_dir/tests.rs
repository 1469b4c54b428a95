//! Tests of the data directory.

use std::os::unix::fs::MetadataExt as _;

use super::*;

async fn create(path: &Path) -> DataDir {
    let mut data_dir = DataDir::at(path);
    for _ in 0..2 {
        data_dir.prepare(&Settings::default(), None).unwrap();
        let (store, _) = data_dir.open_or_create(&Settings::default(), None).await.unwrap();
        data_dir.close_store(&Settings::default(), &store).await;
    }
    assert!(data_dir.is_initialized().unwrap());
    data_dir
}

#[tokio::test]
async fn purge_removes_only_our_files() {
    let parent = tempfile::tempdir().unwrap();
    let data_dir = create(&parent.path().join("data")).await;
    for name in ["notes.txt", "db/notes.txt"] {
        fs::write(data_dir.path().join(name), "mine").unwrap();
    }
    // As `memgate migrate --from` leaves it.
    fs::write(moved_database(&data_dir.path().join("db/memgate.db")), "old").unwrap();
    data_dir.purge(&Settings::default()).unwrap();
    let left = |path: &Path| -> Vec<_> {
        let mut names: Vec<_> = fs::read_dir(path).unwrap().flatten().map(|it| it.file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(left(data_dir.path()), ["db", "notes.txt"]);
    assert_eq!(left(&data_dir.path().join("db")), ["notes.txt"]);
}

#[test]
fn directory_with_other_files_is_rejected_unchanged() {
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("notes.txt"), "mine").unwrap();
    let before = fs::metadata(other.path()).unwrap().mode();
    assert!(DataDir::at(other.path()).prepare(&Settings::default(), None).is_err());
    assert_eq!(fs::metadata(other.path()).unwrap().mode(), before);
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
}

//
#[test]
fn directory_whose_name_others_decide_is_rejected_unchanged() {
    use std::os::unix::fs::PermissionsExt as _;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
    let open = |mode| fs::set_permissions(parent.path(), fs::Permissions::from_mode(mode)).unwrap();
    open(0o777);
    let error = DataDir::at(&path).prepare(&Settings::default(), None).unwrap_err().to_string();
    assert!(error.contains("can be changed by every user"), "{error}");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    open(0o1777);
    DataDir::at(&path).prepare(&Settings::default(), None).unwrap();
}

#[tokio::test]
async fn existing_directory_survives_a_purge() {
    let existing = tempfile::tempdir().unwrap();
    create(existing.path()).await.purge(&Settings::default()).unwrap();
    assert_eq!(fs::read_dir(existing.path()).unwrap().count(), 0);
}

//
#[tokio::test]
async fn store_of_another_installation_is_refused() {
    let (parent, settings) = (tempfile::tempdir().unwrap(), Settings::default());
    let mut data_dir = create(&parent.path().join("data")).await;
    let file = data_dir.path().join(installation::FILE);
    let own = fs::read_to_string(&file).unwrap();
    assert_eq!(own.trim(), data_dir.installation_id().unwrap());
    fs::write(&file, "xyz567\n").unwrap();
    for error in [
        data_dir.open_store(&settings).await.unwrap_err(),
        data_dir.open_or_create(&settings, None).await.unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains(own.trim()) && error.contains("xyz567"), "{error}");
    }
    // As on another machine that joins with its own data directory.
    fs::remove_file(&file).unwrap();
    let error = data_dir.open_or_create(&settings, None).await.unwrap_err().to_string();
    assert!(error.contains("is missing") && error.contains("copy it and both keys"), "{error}");
    assert!(data_dir.open_store(&settings).await.unwrap_err().to_string().contains("is missing"));
    fs::write(&file, &own).unwrap();
    data_dir.open_store(&settings).await.unwrap();
    fs::remove_file(data_dir.path().join(keys::TOKEN_KEY)).unwrap();
    assert!(data_dir.open_or_create(&settings, None).await.is_err(), "a key is never made again");
    // An empty database is never put in the place of a lost one.
    fs::remove_file(data_dir.path().join("db/memgate.db")).unwrap();
    for error in
        [data_dir.open_store(&settings).await.unwrap_err(), data_dir.prepare(&settings, None).unwrap_err()]
    {
        assert!(error.to_string().contains("memgate.db is missing"), "{error}");
    }
}

#[test]
fn database_of_the_older_layout_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("memgate.db"), "").unwrap();
    let error = DataDir::at(dir.path()).prepare(&Settings::default(), None).unwrap_err().to_string();
    assert!(error.contains("is not where") && error.contains("to the folder db"), "{error}");
}

/// The names in a data directory.
fn names(data_dir: &DataDir) -> Vec<String> {
    let entries = fs::read_dir(data_dir.path()).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|it| it.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

// F-28: at each step at which the first start may end.
#[tokio::test]
async fn first_start_that_was_interrupted_is_finished_with_the_same_id_and_keys() {
    let settings = Settings::default();
    for is_recorded in [false, true] {
        let parent = tempfile::tempdir().unwrap();
        let mut data_dir = create(&parent.path().join("data")).await;
        let complete = names(&data_dir);
        let id = data_dir.installation_id().unwrap();
        let key = fs::read(data_dir.path().join(keys::TOKEN_KEY)).unwrap();
        let unrecorded = data_dir.path().join(installation::UNRECORDED_FILE);
        fs::rename(data_dir.path().join(installation::FILE), unrecorded).unwrap();
        if !is_recorded {
            fs::remove_dir_all(data_dir.path().join("db")).unwrap();
            fs::remove_file(data_dir.path().join(keys::LANE_KEY)).unwrap();
        }
        let error = data_dir.installation_id().unwrap_err().to_string();
        assert!(error.contains("the first start didn't finish"), "{error}");
        data_dir.prepare(&settings, None).unwrap();
        let (store, again) = data_dir.open_or_create(&settings, None).await.unwrap();
        assert_eq!(again, id);
        data_dir.token_key(&store).await.unwrap();
        data_dir.close_store(&settings, &store).await;
        assert_eq!(fs::read(data_dir.path().join(keys::TOKEN_KEY)).unwrap(), key);
        assert_eq!(names(&data_dir), complete);
    }
}

// F-28.
#[tokio::test]
async fn keys_without_an_id_begin_no_installation() {
    let parent = tempfile::tempdir().unwrap();
    let mut data_dir = DataDir::at(&parent.path().join("data"));
    let settings = Settings::default();
    data_dir.prepare(&settings, None).unwrap();
    LaneKey::load_or_create(&data_dir.path().join(keys::LANE_KEY)).unwrap();
    let error = data_dir.open_or_create(&settings, None).await.unwrap_err().to_string();
    assert!(error.contains("lane.key exists, but neither installation.id nor"), "{error}");
    assert!(!names(&data_dir).contains(&keys::TOKEN_KEY.to_owned()));
}

#[tokio::test]
async fn start_that_fails_removes_nothing_that_was_there_before() {
    let parent = tempfile::tempdir().unwrap();
    let first = create(&parent.path().join("first")).await;
    let database = first.path().join("db/memgate.db");
    let mut settings = Settings::default();
    settings.store.path = database.clone();
    let second = parent.path().join("second");
    let mut data_dir = DataDir::at(&second);
    data_dir.prepare(&settings, None).unwrap();
    data_dir.open_or_create(&settings, None).await.unwrap_err();
    data_dir.remove_new(&settings);
    assert!(database.exists() && !second.exists());
    first.open_store(&Settings::default()).await.unwrap();
}

// a mistyped `store.path`.
#[test]
fn start_that_failed_removes_nothing_of_others() {
    let parent = tempfile::tempdir().unwrap();
    let mut settings = Settings::default();
    settings.store.path = parent.path().join("letter");
    fs::write(&settings.store.path, "Dear Ada").unwrap();
    let path = parent.path().join("data");
    let error = DataDir::at(&path).prepare(&settings, None).unwrap_err().to_string();
    assert!(error.contains("something else than a database"), "{error}");
    assert!(!path.exists());
    assert_eq!(fs::read_to_string(&settings.store.path).unwrap(), "Dear Ada");
}

// F-28: the store names the keys from the moment that it has recorded the id.
#[tokio::test]
async fn start_that_failed_keeps_the_keys_of_a_store_elsewhere() {
    let (parent, mut settings) = (tempfile::tempdir().unwrap(), Settings::default());
    settings.store.path = parent.path().join("elsewhere.db");
    let mut data_dir = DataDir::at(&parent.path().join("data"));
    data_dir.prepare(&settings, None).unwrap();
    let (store, id) = data_dir.open_or_create(&settings, None).await.unwrap();
    data_dir.close_store(&settings, &store).await;
    data_dir.remove_new(&settings);
    data_dir.prepare(&settings, None).unwrap();
    let (_, again) = data_dir.open_or_create(&settings, None).await.unwrap();
    assert_eq!(again, id);
}

// with an empty store, the provisioner would remove all caches.
#[tokio::test]
async fn empty_store_of_an_existing_installation_is_refused() {
    let (parent, settings) = (tempfile::tempdir().unwrap(), Settings::default());
    let mut data_dir = create(&parent.path().join("data")).await;
    let database = data_dir.path().join("db/memgate.db");
    fs::write(&database, store::sqlite_file::empty_database()).unwrap();
    for error in [
        data_dir.open_or_create(&settings, None).await.map(drop).unwrap_err(),
        data_dir.open_store(&settings).await.map(drop).unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains("belongs to no installation") || error.contains("is empty"), "{error}");
    }
    fs::write(&database, "").unwrap();
    for error in [
        data_dir.open_or_create(&settings, None).await.map(drop).unwrap_err(),
        data_dir.open_store(&settings).await.map(drop).unwrap_err(),
        data_dir.prepare(&settings, None).unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains("belongs to no installation") || error.contains("is empty"), "{error}");
    }
}

// what `memgate down` asks.
#[tokio::test]
async fn store_that_cannot_be_read_is_a_problem_and_another_installations_an_error() {
    let (parent, settings) = (tempfile::tempdir().unwrap(), Settings::default());
    let data_dir = create(&parent.path().join("data")).await;
    assert!(data_dir.store_problem(&settings).await.unwrap().is_none());
    let id = data_dir.installation_id().unwrap();
    fs::write(data_dir.path().join(installation::FILE), "xyz567\n").unwrap();
    let error = data_dir.store_problem(&settings).await.unwrap_err().to_string();
    assert!(error.contains("xyz567") && error.contains(&id), "{error}");
    let database = data_dir.path().join("db/memgate.db");
    for content in [b"".as_slice(), b"something else", &store::sqlite_file::empty_database()] {
        fs::write(&database, content).unwrap();
        assert!(data_dir.store_problem(&settings).await.unwrap().is_some());
    }
    fs::remove_file(&database).unwrap();
    let problem = data_dir.store_problem(&settings).await.unwrap().unwrap().to_string();
    assert!(problem.contains("is missing"), "{problem}");
}
