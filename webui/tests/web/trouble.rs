//! A store that is away, a disk that is full, a stop.

use std::process::Command;

use crate::harness::{PASSWORD, Site, eventually};

// F-4.
#[tokio::test]
async fn without_the_store_pages_say_that_nothing_is_lost() {
    let site = Site::start().await;
    let (mut user, page) = site.newcomer("a@example.com").await;
    let token = page.tokens().remove(0);
    let mut stranger = site.visitor();
    stranger.get("/sign-up").await;
    eventually("ready", || async { site.readiness.get().is_ok() }).await;

    site.store.close().await;
    eventually("not ready", || async { site.readiness.get().is_err() }).await;
    let away = |status: u16, body: &str| {
        assert_eq!(status, 503);
        assert!(
            body.contains("can&#39;t be reached right now") && body.contains("Nothing is lost"),
            "{body}"
        );
        assert!(!body.contains("pool"), "causes are for the log");
    };
    for path in [
        "/",
        "/cache",
        "/account",
        "/cache/state",
        "/cache/live",
        "/sign-up",
        &format!("/tokens/{token}/revoke"),
    ] {
        let answer = user.get(path).await;
        away(answer.status, &answer.body);
        assert_eq!(answer.header("retry-after"), Some("5"));
    }
    let answer = user.post("/tokens", &[("name", "x")]).await;
    away(answer.status, &answer.body);
    assert!(!answer.body.contains("mg_"), "no token without a commit");
    let fields = [("email", "b@example.com"), ("password", PASSWORD)];
    for path in ["/sign-up", "/sign-in"] {
        let answer = stranger.post(path, &fields).await;
        away(answer.status, &answer.body);
    }
    assert_eq!(stranger.get("/").await.status, 200, "the first page needs no store");
    assert_eq!(stranger.get("/assets/style.css").await.status, 200);
    assert!(site.stop().await, "stops in time without the store");
}

// F-6.
/// Runs [`on_a_full_disk`] on a small disk of its own, in a mount namespace that ends with it.
#[test]
fn with_a_full_disk_pages_say_that_nothing_can_be_saved() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().display();
    let this = std::env::current_exe().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=2m memgate-test '{disk}' && MEMGATE_TEST_DISK='{disk}' '{}' --ignored --exact trouble::on_a_full_disk",
        this.display()
    );
    let run = Command::new("unshare").args(["--map-root-user", "--mount", "sh", "-c", &script]).output();
    let run = run.expect("unshare (util-linux) runs");
    let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "needs a small disk: with_a_full_disk_pages_say_that_nothing_can_be_saved brings one"]
async fn on_a_full_disk() {
    let disk = std::path::PathBuf::from(std::env::var_os("MEMGATE_TEST_DISK").unwrap());
    let folder = tempfile::tempdir_in(&disk).unwrap();
    let site = Site::start_in(folder, |_| {}).await;
    let (mut user, _) = site.newcomer("a@example.com").await;
    let mut stranger = site.visitor();
    stranger.get("/sign-up").await;

    let filler = disk.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    for size in [4096, 512, 1] {
        while std::io::Write::write_all(&mut file, &vec![0; size]).is_ok() {}
    }
    // The log has some room left from before; it runs out after a few.
    let mut last = user.post("/tokens", &[("name", "x")]).await;
    for _ in 0..15 {
        if last.status != 200 {
            break;
        }
        last = user.post("/tokens", &[("name", "x")]).await;
    }
    let full = |status: u16, body: &str| {
        assert_eq!(status, 503, "{body}");
        assert!(body.contains("We can&#39;t save now"), "{body}");
    };
    full(last.status, &last.body);
    assert!(!last.body.contains("mg_"), "a token is shown only after its commit");
    let fields = [("email", "b@example.com"), ("password", PASSWORD)];
    let answer = stranger.post("/sign-up", &fields).await;
    full(answer.status, &answer.body);
    assert_eq!(user.get("/cache").await.status, 200, "reading works");

    drop(file);
    std::fs::remove_file(filler).unwrap();
    assert_eq!(user.post("/tokens", &[("name", "after")]).await.status, 200, "the next write works");
    assert_eq!(stranger.post("/sign-up", &fields).await.status, 200);
}

#[tokio::test]
async fn a_stop_ends_open_streams_in_time() {
    let site = Site::start().await;
    let (user, _) = site.newcomer("a@example.com").await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(crate::live::Events::open(&user).await);
    }
    assert!(site.stop().await, "within five seconds");
}
