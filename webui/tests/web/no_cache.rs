//! A user whose only cache was deleted.

use store::NewCache;

use crate::harness::Site;

#[tokio::test]
async fn pages_without_a_cache_say_how_to_get_one() {
    let site = Site::start().await;
    let (mut visitor, _) = site.sign_up_user("a@example.com").await;
    let user = site.store.user_by_email("a@example.com").await.unwrap().unwrap();
    let cache = site.store.first_cache_of(&user.id).await.unwrap().unwrap();
    visitor.get("/cache").await;
    site.store.delete_cache(&cache.id).await.unwrap();
    for path in ["/connections", "/cache"] {
        let page = visitor.get(path).await;
        assert_eq!((page.status, page.text("no-cache")), (200, Some("You have no cache")), "{path}");
        assert!(page.body.contains("Ask the operator of this service to create one."));
    }
    let page = visitor.post("/tokens", &[("name", "web shop")]).await;
    assert_eq!((page.status, page.text("no-cache")), (409, Some("You have no cache")));
    // A browser doesn't reopen the stream, and its script reloads the page.
    assert_eq!(visitor.get("/cache/events").await.status, 204);
    let state = visitor.get("/cache/state").await;
    assert_eq!((state.status, state.location()), (303, "/cache"));

    let name = "sessions".parse().unwrap();
    site.store.create_cache(&NewCache { user_id: &user.id, name: &name, plan: None }, 1).await.unwrap();
    let page = visitor.get("/cache").await;
    assert_eq!((page.status, page.text("no-cache"), page.tokens().len()), (200, None, 0));
    assert_eq!(visitor.post("/tokens", &[("name", "web shop")]).await.status, 200);
}
