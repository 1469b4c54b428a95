//! The list of a user's caches, and creating another.

use store::{CREATED_MAX, HostCapacity, InstanceState, NewCache, Token, UserState, now};

use crate::harness::{Response, Site, Visitor};

const EMAIL: &str = "a@example.com";

async fn create(visitor: &mut Visitor, name: &str) -> Response {
    visitor.get("/caches?all").await;
    visitor.post("/caches", &[("name", name)]).await
}

async fn names(site: &Site) -> Vec<String> {
    let user = site.store.user_by_email(EMAIL).await.unwrap().unwrap();
    site.store.caches_of(&user.id).await.unwrap().into_iter().map(|cache| cache.name).collect()
}

#[tokio::test]
async fn a_user_creates_caches_up_to_the_limit() {
    let site = Site::start().await;
    let (mut visitor, _) = site.sign_up_user(EMAIL).await;
    let only = visitor.get("/caches").await;
    assert_eq!(only.location(), visitor.path("/caches/{cache}"), "the only cache");
    let page = visitor.get("/caches/{cache}/tokens").await;
    assert!(page.body.contains("href=\"/caches?all\">All caches</a>"), "{}", page.body);
    let list = visitor.get("/caches?all").await;
    assert_eq!(list.text("caches-count"), Some("1 of 3 caches"), "{}", list.body);

    let first = visitor.cache.clone();
    let created = create(&mut visitor, " staging ").await;
    assert_eq!(created.status, 200, "{}", created.body);
    assert_eq!(
        (created.text("token-cache"), &names(&site).await[..]),
        (Some("staging"), &["default".to_owned(), "staging".into()][..])
    );
    assert_ne!(visitor.cache, first, "the page is the new cache's");
    let token = Token::parse(created.text("token").unwrap()).unwrap();
    let row = site.store.token(&token.id()).await.unwrap().unwrap();
    assert_eq!(row.cache_id, visitor.cache);
    let log = site.store.audit_after(0, 100).await.unwrap();
    let noted = log.iter().find(|entry| entry.action == "cache.create").unwrap();
    assert_eq!(noted.actor, format!("user {}", row.user_id));
    // A reload opens the page of its tokens, which doesn't show the secret again.
    let tokens = visitor.path("data-page-path=\"/caches/{cache}/tokens\"");
    assert!(created.body.contains(&tokens), "{}", created.body);
    assert!(!visitor.get("/caches/{cache}/tokens").await.body.contains(token.secret().reveal()));

    let list = visitor.get("/caches").await;
    assert_eq!((list.status, list.text("caches-count")), (200, Some("2 of 3 caches")));
    assert_eq!(create(&mut visitor, "third").await.status, 200);
    let list = visitor.get("/caches").await;
    assert!(
        list.text("limit-reached").is_some() && !list.body.contains("id=\"cache-form\""),
        "{}",
        list.body
    );
    let refused = create(&mut visitor, "fourth").await;
    assert_eq!(refused.status, 409);
    let error =
        "You have reached the limit of your plan (3). Delete a cache, or ask the operator for a larger plan.";
    assert_eq!(
        (refused.text("cache-error"), refused.field("name").as_deref()),
        (Some(error), Some("fourth"))
    );
    // The plan's number takes precedence over the setting.
    site.store.update_plan("default", |plan| plan.caches_per_user = Some(4)).await.unwrap();
    assert_eq!(visitor.get("/caches").await.text("caches-count"), Some("3 of 4 caches"));
    assert_eq!(create(&mut visitor, "fourth").await.status, 200);
}

#[tokio::test]
async fn names_of_caches_are_validated_and_kept_in_the_form() {
    let site = Site::start().await;
    let (mut visitor, _) = site.sign_up_user(EMAIL).await;
    for (name, status, error) in [
        ("", 422, "This isn’t a name for a cache."),
        ("Big", 422, "This isn’t a name for a cache."),
        ("a b", 422, "This isn’t a name for a cache."),
        ("&lt;b&gt;", 422, "This isn’t a name for a cache."),
        (&*"x".repeat(41), 422, "This isn’t a name for a cache."),
        ("default", 409, "You already have a cache default. Choose another name."),
    ] {
        let refused = create(&mut visitor, name).await;
        assert_eq!(refused.status, status, "{name}");
        assert!(refused.text("cache-error").unwrap().starts_with(error), "{}", refused.body);
        let (_, field) = refused.body.split_once("id=\"cache-name\"").unwrap();
        assert!(field.split('>').next().unwrap().contains("autofocus"), "the field is in view");
    }
    assert_eq!(create(&mut visitor, "Big").await.field("name").as_deref(), Some("Big"));
    assert_eq!(names(&site).await, ["default"]);
}

//
#[tokio::test]
async fn a_cache_that_the_machine_has_no_memory_for_is_not_created() {
    let site = Site::start().await;
    let (mut visitor, _) = site.sign_up_user(EMAIL).await;
    let capacity =
        HostCapacity { budget_bytes: 1, reserved_bytes: 1, growth_mb: 0, waiting: 0, changed_at: now() };
    site.store.set_host_capacity(&capacity).await.unwrap();
    let refused = create(&mut visitor, "second").await;
    assert_eq!(refused.status, 503);
    let error = "This service has no memory for another cache now. Try again later, or ask its operator.";
    assert_eq!(refused.text("cache-error"), Some(error), "{}", refused.body);
    assert_eq!(names(&site).await, ["default"]);
}

//
#[tokio::test]
async fn caches_of_a_day_are_limited() {
    let site = Site::start().await;
    let (mut visitor, _) = site.sign_up_user(EMAIL).await;
    let user = site.store.user_by_email(EMAIL).await.unwrap().unwrap();
    let store = site.store.acting_as(&format!("user {}", user.id));
    let name = "second".parse().unwrap();
    for _ in 1..CREATED_MAX {
        let cache =
            store.create_cache(&NewCache { user_id: &user.id, name: &name, plan: None }, 2).await.unwrap();
        store.delete_cache(&cache.id).await.unwrap();
    }
    let refused = create(&mut visitor, "second").await;
    let error = "You created 20 caches within a day, which is the most. Try again later.";
    assert_eq!((refused.status, refused.text("cache-error")), (429, Some(error)), "{}", refused.body);
    assert_eq!(refused.field("name").as_deref(), Some("second"));
}

// W-11.
#[tokio::test]
async fn ids_that_no_cache_has_are_not_found() {
    let site = Site::start().await;
    let (mut visitor, _) = site.sign_up_user(EMAIL).await;
    for id in [
        "x",
        "%00",
        "%00aaaaaaaaaaaaaaaaaaaaaaa",
        "AAAAAAAAAAAAAAAAAAAAAAAA",
        &"a".repeat(24),
        &"a".repeat(2_000),
    ] {
        assert_eq!(visitor.get(&format!("/caches/{id}")).await.status, 404, "{id}");
    }
    // Nothing is said of a cache that exists.
    assert!(visitor.get("/caches?all&deleted=gone").await.body.contains("gone"));
    let list = visitor.get("/caches?all&deleted=default").await;
    assert!(list.text("cache-deleted").is_none(), "{}", list.body);
}

#[tokio::test]
async fn suspended_users_create_no_cache() {
    let site = Site::start().await;
    let (mut visitor, _) = site.sign_up_user(EMAIL).await;
    let user = site.store.user_by_email(EMAIL).await.unwrap().unwrap();
    site.store.set_user_state(&user.id, UserState::Suspended).await.unwrap();
    let list = visitor.get("/caches?all").await;
    assert!(
        list.body.contains("Not while your account is suspended.")
            && !list.body.contains("id=\"cache-form\"")
    );
    let refused = create(&mut visitor, "second").await;
    let error = "Your account is suspended. Ask the operator of this service.";
    assert_eq!((refused.status, refused.text("cache-error")), (403, Some(error)));
    assert_eq!(names(&site).await, ["default"]);
}

// W-6, W-11.
#[tokio::test]
async fn caches_are_created_by_their_user_on_our_pages_only() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let (mut bob, _) = site.sign_up_user("bob@example.com").await;
    let name = [("name", "second")];
    let signed_out = site.visitor().post("/caches", &name).await;
    assert_eq!((signed_out.status, signed_out.location()), (303, "/sign-in?next=/caches"));
    ann.get("/caches?all").await;
    assert_eq!(ann.post_without_token("/caches", &name).await.status, 403);
    let own = ann.csrf_token.clone();
    bob.get("/caches?all").await;
    ann.csrf_token.clone_from(&bob.csrf_token);
    assert_eq!(ann.post("/caches", &name).await.status, 403);
    ann.csrf_token = own;
    ann.headers = vec![("Sec-Fetch-Site".into(), "cross-site".into())];
    assert_eq!(ann.post("/caches", &name).await.status, 403);
    assert_eq!(names(&site).await, ["default"]);
    assert!(!bob.get("/caches?all").await.body.contains(&ann.cache), "others' caches aren't listed");
}

#[tokio::test]
async fn without_a_cache_the_list_offers_to_create_one() {
    let site = Site::start().await;
    let (mut visitor, _) = site.sign_up_user(EMAIL).await;
    let user = site.store.user_by_email(EMAIL).await.unwrap().unwrap();
    let cache = site.store.first_cache_of(&user.id).await.unwrap().unwrap();
    site.store.delete_cache(&cache.id).await.unwrap();
    let list = visitor.get("/caches").await;
    assert_eq!((list.status, list.text("caches-title")), (200, Some("You have no cache")));
    assert_eq!(visitor.post("/caches", &[("name", "default")]).await.status, 200);
}

#[tokio::test]
async fn the_list_shows_what_is_being_done() {
    let site = Site::start().await;
    let (mut visitor, _) = site.sign_up_user(EMAIL).await;
    site.set_state(EMAIL, InstanceState::Running).await;
    let user = site.store.user_by_email(EMAIL).await.unwrap().unwrap();
    let name = "second".parse().unwrap();
    site.store.create_cache(&NewCache { user_id: &user.id, name: &name, plan: None }, 2).await.unwrap();
    visitor.get("/caches").await;
    visitor.get("/caches/{cache}/settings").await;
    visitor.post("/caches/{cache}/restart", &[("confirmed", "1")]).await;
    let list = visitor.get("/caches").await.body;
    assert!(list.contains("Restarting") && list.contains("Pending"), "{list}");
}
