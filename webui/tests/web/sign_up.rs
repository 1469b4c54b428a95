//! Sign-up: what is refused, what it says, and what it makes.

use store::{InstanceState, Token};

use crate::harness::{PASSWORD, Site};

#[tokio::test]
async fn bad_fields_get_the_form_again_with_what_was_typed_and_what_to_change() {
    let site = Site::start().await;
    site.newcomer("taken@example.com").await;
    let (short, long) = ("123456789".to_owned(), "ü".repeat(257));
    let cases = [
        ("", PASSWORD, 422, "Write your e-mail address."),
        ("not-an-address", PASSWORD, 422, "This is not an e-mail address."),
        ("a@localhost", PASSWORD, 422, "This is not an e-mail address."),
        ("new@example.com", "", 422, "Choose a password of at least 10 characters."),
        ("new@example.com", &short, 422, "This password is too short."),
        ("new@example.com", &long, 422, "This password is too long."),
        ("taken@example.com", PASSWORD, 409, "This address has an account already."),
        (" TAKEN@Example.com", PASSWORD, 409, "This address has an account already."),
    ];
    for (email, password, status, says) in cases {
        let mut visitor = site.visitor();
        visitor.get("/sign-up").await;
        let answer = visitor.post("/sign-up", &[("email", email), ("password", password)]).await;
        assert_eq!(answer.status, status, "{email} {password}");
        assert!(answer.body.contains(says), "{email} {password}: {}", answer.body);
        assert_eq!(answer.field("email").as_deref(), Some(email));
        assert_eq!(answer.field("password"), None, "a password is never sent back");
        assert!(password.is_empty() || !answer.body.contains(password));
        assert!(!visitor.cookies.contains_key("memgate"));
    }
    assert_eq!(site.store.users().await.unwrap().len(), 1);
    assert_eq!(site.store.instances().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_sign_up_makes_user_instance_and_token_and_shows_the_token_once() {
    let site = Site::start().await;
    let (mut visitor, answer) = site.newcomer("Ada@Example.com").await;
    let token = Token::parse(answer.text("token").unwrap()).unwrap();
    assert_eq!(answer.text("token-username"), Some(token.id().username().as_str()));
    assert_eq!(answer.text("token-password"), Some(token.secret().reveal()));
    assert_eq!(answer.text("state"), Some("Pending"));
    assert_eq!(answer.text("endpoint"), Some("cache.example.com:11999"));
    assert_eq!(answer.text("memory"), Some("64 MB"));
    for language in ["shell", "python", "php", "ruby", "go"] {
        let snippet = answer.text(&format!("snippet-{language}")).unwrap();
        for wanted in ["cache.example.com", "11999", &token.id().username(), token.secret().reveal()] {
            assert!(snippet.contains(wanted), "{language} has no {wanted}: {snippet}");
        }
    }

    site.record("ada@example.com", InstanceState::Running).await;
    let again = visitor.get("/cache").await;
    assert_eq!(again.status, 200);
    assert_eq!(again.text("state"), Some("Running"));
    assert_eq!(again.text("version"), Some("1.6.18"));
    assert!(!again.body.contains(token.secret().reveal()), "shown once");
    assert!(again.text("snippet-python").unwrap().contains("YOUR_PASSWORD"));
    for hidden in ["10.213.7.99", "c0ffee"] {
        assert!(!again.body.contains(hidden), "{hidden} is not for users' eyes");
    }
    let user = site.store.user_by_email("ada@example.com").await.unwrap().unwrap();
    assert_eq!(site.store.tokens_of(&user.id).await.unwrap()[0].id, token.id().as_str());
    assert!(site.store.password_hash(&user.id).await.unwrap().unwrap().starts_with("$argon2id$"));
}

#[tokio::test]
async fn passwords_may_be_of_any_characters() {
    let site = Site::start().await;
    for (i, password) in
        ["🦀".repeat(256), "пароль с пробелом ".into(), "\"><script>&=+%00".into()].iter().enumerate()
    {
        let email = format!("user{i}@example.com");
        let mut visitor = site.visitor();
        visitor.get("/sign-up").await;
        assert_eq!(visitor.post("/sign-up", &[("email", &email), ("password", password)]).await.status, 200);
        assert_eq!(site.visitor().sign_in(&email, password).await.status, 303, "{password}");
        assert_eq!(
            site.visitor().sign_in(&email, password.trim_end_matches(' ')).await.status,
            if password.ends_with(' ') { 401 } else { 303 }
        );
    }
}

#[tokio::test]
async fn a_sign_up_sent_again_changes_nothing() {
    let site = Site::start().await;
    let mut visitor = site.visitor();
    visitor.get("/sign-up").await;
    let fields =
        [("email", "a@example.com"), ("password", PASSWORD), ("form_token", &visitor.form_token.clone())];
    assert_eq!(visitor.post_bare("/sign-up", &fields).await.status, 200);
    let again = visitor.post_bare("/sign-up", &fields).await;
    assert_eq!((again.status, again.location()), (303, "/cache"));
    assert_eq!(visitor.get("/sign-up").await.location(), "/cache");
    assert_eq!(site.store.users().await.unwrap().len(), 1);
}
