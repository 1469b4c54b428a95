//! A user whose only cache was deleted, and who may create no other.

use store::NewCache;

use crate::harness::Site;

#[tokio::test]
async fn pages_without_a_cache_say_how_to_get_one() {
    let site = Site::start_with(|config| config.caches_per_user = 0).await;
    let (mut visitor, _) = site.sign_up_user("a@example.com").await;
    let user = site.store.user_by_email("a@example.com").await.unwrap().unwrap();
    let cache = site.store.first_cache_of(&user.id).await.unwrap().unwrap();
    visitor.get("/caches/{cache}/tokens").await;
    site.store.delete_cache(&cache.id).await.unwrap();
    let page = visitor.get("/caches").await;
    assert_eq!((page.status, page.text("no-cache")), (200, Some("You have no cache")));
    assert!(page.body.contains("Ask the operator of this service to create one."));
    // A browser doesn't reopen the stream, and its script leaves the page.
    for path in
        ["", "/connect", "/tokens", "/connections", "/denials", "/activity", "/settings", "/state", "/events"]
    {
        assert_eq!(visitor.get(&format!("/caches/{{cache}}{path}")).await.status, 404, "{path}");
    }
    assert_eq!(visitor.post("/caches/{cache}/tokens", &[("name", "web shop")]).await.status, 404);

    let name = "sessions".parse().unwrap();
    site.store.create_cache(&NewCache { user_id: &user.id, name: &name, plan: None }, 1).await.unwrap();
    let led = visitor.get("/caches").await;
    let page = visitor.get(&format!("{}/tokens", led.location())).await;
    assert_eq!((page.status, page.text("no-cache"), page.tokens().len()), (200, None, 0));
    assert_eq!(visitor.post("/caches/{cache}/tokens", &[("name", "web shop")]).await.status, 200);
}
