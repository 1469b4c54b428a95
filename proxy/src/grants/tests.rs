//! Whose turn a look-up is, and what is kept of changed tokens.

use std::pin::pin;

use store::{Database, Fingerprint, NewToken, NewUser, Permissions, Token, TokenUse};
use tempfile::TempDir;

use super::*;
use crate::mailbox::{self, Message};

const SOURCE: [u8; 4] = [192, 0, 2, 1];

struct Fixture {
    folder: TempDir,
    grants: Arc<Grants>,
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&Database::Sqlite(folder.path().join("memgate.db"))).await.unwrap();
        let grants = Arc::new(Grants::new(store, key(&folder), Arc::default()));
        Self { folder, grants }
    }

    async fn sign_up(&self, email: &str) -> Token {
        let token = NewToken::generate(&key(&self.folder), "test");
        let user = NewUser { email, password_hash: None, plan: "default", is_admin: false };
        self.grants.store.sign_up(&user, &token).await.unwrap();
        token.token
    }

    /// Records that tokens have been used, a time ago.
    async fn use_tokens(&self, tokens: &[&Token], ago: Duration) {
        let at = self.grants.now().saturating_sub(ago);
        let uses: Vec<_> =
            tokens.iter().map(|token| TokenUse { token: token.id(), at, source: SOURCE.into() }).collect();
        self.grants.store.record_token_uses(&uses).await.unwrap();
    }

    /// Creates more tokens for the cache of `token`.
    async fn create_tokens(&self, token: &Token, count: usize, permissions: &Permissions) -> Vec<Token> {
        let cache = self.grants.store.token(&token.id()).await.unwrap().unwrap().cache_id;
        let mut tokens = Vec::new();
        for _ in 0..count {
            let new = NewToken::generate(&key(&self.folder), "more").limited_to(permissions.clone());
            self.grants.store.create_token(&cache, &new).await.unwrap();
            tokens.push(new.token);
        }
        tokens
    }

    /// Presents the secret of `secret_of` as that of `token`.
    async fn check(&self, token: &Token, secret_of: &Token) -> Verdict {
        let credential = Credential { id: token.id(), proof: Proof::Secret(secret_of.secret().clone()) };
        self.grants.check(&credential, SOURCE.into()).await
    }
}

fn key(folder: &TempDir) -> TokenKey {
    TokenKey::load_or_create(&folder.path().join("key")).unwrap()
}

//
#[tokio::test]
async fn wrong_secrets_take_turns_like_unknown_ids() {
    let fixture = Fixture::new().await;
    let (known, unknown) = (fixture.sign_up("ann@example.com").await, Token::generate());
    fixture.use_tokens(&[&known], Duration::ZERO).await;
    fixture.grants.preload().await;
    let mut running = Vec::new();
    for _ in 0..lookups::RUNNING_MAX {
        running.push(fixture.grants.lookups.turn(SOURCE.into()).await.unwrap());
    }
    // A right secret waits for nothing, although the token hasn't been used since the start.
    assert!(matches!(fixture.check(&known, &known).await, Verdict::Granted(_)));
    let mut of_known = pin!(fixture.check(&known, &unknown));
    let mut of_unknown = pin!(fixture.check(&unknown, &unknown));
    assert!(timeout(Duration::ZERO, &mut of_known).await.is_err());
    assert!(timeout(Duration::ZERO, &mut of_unknown).await.is_err());
    drop(running);
    assert!(matches!(of_known.await, Verdict::Denied(LoginOutcome::WrongSecret)));
    assert!(matches!(of_unknown.await, Verdict::Denied(LoginOutcome::Unknown)));
    // From then on neither waits.
    let mut running = Vec::new();
    for _ in 0..lookups::RUNNING_MAX {
        running.push(fixture.grants.lookups.turn(SOURCE.into()).await.unwrap());
    }
    assert!(matches!(fixture.check(&known, &unknown).await, Verdict::Denied(LoginOutcome::WrongSecret)));
    assert!(matches!(fixture.check(&unknown, &unknown).await, Verdict::Denied(LoginOutcome::Unknown)));
}

//
#[tokio::test]
async fn token_that_is_forgotten_while_it_is_looked_up_still_exists() {
    let fixture = Fixture::new().await;
    let ann = fixture.sign_up("ann@example.com").await;
    let expired = Permissions { expires_at: Some(Timestamp::from_millis(1)), ..Permissions::ALL };
    let [token] = &fixture.create_tokens(&ann, 1, &expired).await[..] else { panic!() };
    // What a look-up does, with the follower in between.
    let grant = fixture.grants.store.grant(&token.id()).await.unwrap().unwrap();
    assert!(fixture.grants.keep(Arc::new(grant)));
    fixture.grants.forget_inactive();
    fixture.grants.mark_looked_up(token.id(), true, 0);
    let verdict = fixture.check(token, token).await;
    assert!(matches!(verdict, Verdict::Denied(LoginOutcome::Expired)), "{verdict:?}");
}

//
#[tokio::test]
async fn token_that_is_known_is_known_under_its_cache() {
    let fixture = Fixture::new().await;
    let token = fixture.sign_up("ann@example.com").await;
    let grant = Arc::new(fixture.grants.store.grant(&token.id()).await.unwrap().unwrap());
    let known = &fixture.grants.known;
    for _ in 0..20_000 {
        std::thread::scope(|scope| {
            scope.spawn(|| known.insert(grant.clone()));
            known.remove(&grant.token);
        });
        assert_eq!(known.of_cache(&grant.cache_id).len(), known.len());
    }
}

//
#[tokio::test]
async fn many_tokens_of_one_cache_come_after_others() {
    let fixture = Fixture::new().await;
    let (ann, bob) = (fixture.sign_up("ann@example.com").await, fixture.sign_up("bob@example.com").await);
    let many = fixture.create_tokens(&ann, 40, &Permissions::ALL).await;
    let all: Vec<&Token> = many.iter().chain([&ann, &bob]).collect();
    fixture.use_tokens(&all, Duration::ZERO).await;
    let mut feed = fixture.grants.store.feed().await.unwrap();
    fixture.grants.preload().await;
    assert_eq!(fixture.grants.known.len(), 42);
    for token in &many {
        fixture.grants.store.revoke_token(&token.id()).await.unwrap();
    }
    fixture.grants.store.revoke_token(&bob.id()).await.unwrap();
    let (workers, mut inboxes) = mailbox::channels(1);
    let changes = feed.next().await.unwrap();
    fixture.grants.apply_changes(&changes, &workers).await.unwrap();
    let mut told = Vec::new();
    while let Ok(Message::Changed(grant)) = inboxes[0].try_recv() {
        assert!(grant.revoked);
        told.push(grant.token);
    }
    assert_eq!((told.len(), told[0]), (41, bob.id()));
    // Nobody can log in with them any more.
    assert_eq!(fixture.grants.known.len(), 1);
    assert!(matches!(fixture.check(&bob, &bob).await, Verdict::Denied(LoginOutcome::Revoked)));
    assert!(matches!(fixture.check(&ann, &ann).await, Verdict::Granted(_)));
}

//
#[tokio::test]
async fn tokens_that_nobody_can_log_in_with_are_forgotten() {
    let fixture = Fixture::new().await;
    let ann = fixture.sign_up("ann@example.com").await;
    let expired = Permissions { expires_at: Some(Timestamp::from_millis(1)), ..Permissions::ALL };
    let expired = fixture.create_tokens(&ann, 3, &expired).await;
    let unused = fixture.create_tokens(&ann, 3, &Permissions::ALL).await;
    let used: Vec<&Token> = expired.iter().chain([&ann]).collect();
    fixture.use_tokens(&used, Duration::ZERO).await;
    fixture.use_tokens(&[&unused[0]], Duration::from_hours(25)).await;
    fixture.grants.preload().await;
    assert_eq!(fixture.grants.known.len(), 1, "neither expired nor unused ones are read ahead");
    for token in &expired {
        let verdict = fixture.check(token, token).await;
        assert!(matches!(verdict, Verdict::Denied(LoginOutcome::Expired)), "{verdict:?}");
    }
    assert_eq!(fixture.grants.known.len(), 4);
    fixture.grants.forget_inactive();
    assert_eq!(fixture.grants.known.len(), 1);
    assert!(matches!(fixture.check(&expired[0], &expired[0]).await, Verdict::Denied(LoginOutcome::Expired)));
    assert!(matches!(fixture.check(&ann, &ann).await, Verdict::Granted(_)));
}

// a suspension reaches a token that was forgotten and read again at the same time.
#[tokio::test]
async fn token_is_known_by_itself_and_by_its_cache_or_by_neither() {
    const ROUNDS: usize = 20_000;
    let fixture = Fixture::new().await;
    let token = fixture.sign_up("ann@example.com").await;
    let grant = Arc::new(fixture.grants.store.grant(&token.id()).await.unwrap().unwrap());
    let (known, step) = (known::KnownGrants::default(), std::sync::Barrier::new(2));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for _ in 0..ROUNDS {
                step.wait();
                known.remove(&grant.token);
                step.wait();
            }
        });
        for round in 0..ROUNDS {
            known.insert(grant.clone());
            step.wait();
            known.insert(grant.clone());
            step.wait();
            let by_cache = known.of_cache(&grant.cache_id);
            assert_eq!(by_cache.contains(&grant.token), known.get(&grant.token).is_some(), "{round}");
        }
    });
}

// with many certificates, a proxy forgets some.
#[tokio::test]
async fn a_forgotten_certificate_that_is_revoked_ends_its_connections() {
    let fixture = Fixture::new().await;
    let (token, grants) = (fixture.sign_up("ann@example.com").await, &fixture.grants);
    let fingerprint = Fingerprint::of(b"certificate");
    let expires = store::now().saturating_add(Duration::from_secs(3600));
    grants.store.add_certificate(&token.id(), fingerprint, expires, "").await.unwrap();
    let (_, verdict) = grants.check_certificate(fingerprint, SOURCE.into()).await;
    assert!(matches!(verdict, Verdict::Granted(_)));
    assert!(!grants.renew_certificate(&fingerprint).await.unwrap(), "a current one");
    grants.certificates.forget_all();
    grants.store.revoke_certificate(&token.id(), fingerprint).await.unwrap();
    assert!(grants.renew_certificate(&fingerprint).await.unwrap());
}
