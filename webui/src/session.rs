//! Who is asking: sessions by cookie, and for strangers a cookie that their forms must repeat.
//!
//! A session's id is 32 random bytes in a cookie; the store has its SHA-256. A stranger's form token is a
//! double-submit cookie, a session's is in the store.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method};
use axum_extra::extract::CookieJar;
use sha2::{Digest as _, Sha256};
use store::{Leak, Millis, NewSession, Session, Store, User};
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::pages::Trouble;
use crate::web::Web;

/// How often a session's use is written down.
const TOUCH_EVERY: Duration = Duration::from_secs(60);
/// How often sessions that are no longer good are removed.
const SWEEP_EVERY: Duration = Duration::from_secs(10 * 60);
/// 32 bytes in hexadecimal.
const SECRET_LEN: usize = 64;

/// Whoever asks: signed in or a stranger.
#[derive(Debug)]
pub(crate) struct Visitor {
    pub(crate) me: Option<SignedIn>,
    /// Of the session, or of the stranger's cookie.
    pub(crate) form_token: String,
    /// To be set with an answer that has a form in it.
    pub(crate) new_cookie: Option<HeaderValue>,
}

/// Somebody signed in. As an extractor it sends strangers to the sign-in page.
#[derive(Debug)]
pub(crate) struct SignedIn {
    pub(crate) user: User,
    pub(crate) session: Session,
    /// Tokens that were found in public, until that is dismissed.
    pub(crate) leaks: Vec<Leak>,
}

impl SignedIn {
    /// The store in this user's name.
    pub(crate) fn store(&self, web: &Web) -> Store {
        web.store.acting_as(&format!("user {}", self.user.id))
    }
}

impl FromRequestParts<Arc<Web>> for Visitor {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, web: &Arc<Web>) -> Result<Self, Trouble> {
        if let Some(me) = find(web, &parts.headers).await? {
            return Ok(Self { form_token: me.session.form_token.clone(), me: Some(me), new_cookie: None });
        }
        let name = Cookie::Form.name(&web.config);
        let held = cookie(&parts.headers, name).filter(|held| is_secret(held));
        let form_token = held.clone().unwrap_or_else(new_secret);
        let new_cookie =
            held.is_none().then(|| Cookie::Form.set(&web.config, &form_token, web.config.session_age()));
        Ok(Self { me: None, form_token, new_cookie })
    }
}

impl FromRequestParts<Arc<Web>> for SignedIn {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, web: &Arc<Web>) -> Result<Self, Trouble> {
        let reads = parts.method == Method::GET;
        let next = if reads { parts.uri.path() } else { "/cache" };
        find(web, &parts.headers).await?.ok_or_else(|| Trouble::SignInFirst(next.to_owned()))
    }
}

/// Begins a session under a new id, ends the one that the browser came with, and returns its cookie.
pub(crate) async fn begin(
    web: &Web,
    user_id: &str,
    was: Option<&SignedIn>,
) -> Result<(Session, HeaderValue), Trouble> {
    let (id, form_token) = (new_secret(), new_secret());
    let id_hash = hash(&id);
    if let Some(was) = was {
        web.store.end_session(&was.session.id_hash).await?;
    }
    web.store.create_session(&NewSession { id_hash: &id_hash, user_id, form_token: &form_token }).await?;
    let cookie = Cookie::Session.set(&web.config, &id, web.config.session_age());
    let now = store::now();
    let user_id = user_id.to_owned();
    Ok((Session { id_hash, user_id, form_token, created_at: now, last_seen_at: now }, cookie))
}

/// Ends a session; returns what makes the browser forget its cookie.
pub(crate) async fn end(web: &Web, session: &Session) -> Result<HeaderValue, Trouble> {
    web.store.end_session(&session.id_hash).await?;
    Ok(forget(web))
}

/// What makes the browser forget the cookie of a session that has ended.
pub(crate) fn forget(web: &Web) -> HeaderValue {
    Cookie::Session.set(&web.config, "", Duration::ZERO)
}

/// Whether a session is still good.
pub(crate) async fn is_active(web: &Web, id_hash: &str) -> Result<bool, Trouble> {
    let found = web.store.session(id_hash, web.config.session_idle(), web.config.session_age()).await?;
    Ok(found.is_some())
}

/// Removes old sessions until the stop.
pub(crate) async fn sweep(web: Arc<Web>, stop: CancellationToken) {
    loop {
        let swept = web.store.end_old_sessions(web.config.session_idle(), web.config.session_age()).await;
        if let Err(error) = swept {
            tracing::warn!(%error, "can't remove old sessions");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
    }
}

async fn find(web: &Web, headers: &HeaderMap) -> Result<Option<SignedIn>, Trouble> {
    let Some(id) = cookie(headers, Cookie::Session.name(&web.config)).filter(|id| is_secret(id)) else {
        return Ok(None);
    };
    let (idle, age) = (web.config.session_idle(), web.config.session_age());
    let Some(session) = web.store.session(&hash(&id), idle, age).await? else { return Ok(None) };
    let Some(user) = web.store.user(&session.user_id).await? else { return Ok(None) };
    touch(web, &session).await;
    let leaks = web.store.open_leaks(&user.id).await?;
    Ok(Some(SignedIn { user, session, leaks }))
}

/// A failed note costs nothing but an earlier end: pages still work when the disk is full.
async fn touch(web: &Web, session: &Session) {
    let every = TOUCH_EVERY.min(web.config.session_idle() / 4);
    let unseen = store::now().saturating_sub(session.last_seen_at);
    if unseen < Millis::try_from(every.as_millis()).unwrap_or(Millis::MAX) {
        return;
    }
    if let Err(error) = web.store.touch_session(&session.id_hash).await {
        tracing::warn!(%error, "can't note that a session is in use");
    }
}

#[derive(Debug, Clone, Copy)]
enum Cookie {
    Session,
    Form,
}

impl Cookie {
    /// `__Host-` binds a cookie to this very host, but browsers take it with TLS only.
    fn name(self, config: &Config) -> &'static str {
        match (self, config.is_https()) {
            (Self::Session, true) => "__Host-memgate",
            (Self::Session, false) => "memgate",
            (Self::Form, true) => "__Host-memgate-form",
            (Self::Form, false) => "memgate-form",
        }
    }

    fn set(self, config: &Config, value: &str, keep: Duration) -> HeaderValue {
        let (name, seconds) = (self.name(config), keep.as_secs());
        let secure = if config.is_https() { "; Secure" } else { "" };
        let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
    }
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    CookieJar::from_headers(headers).get(name).map(|cookie| cookie.value().to_owned())
}

fn is_secret(text: &str) -> bool {
    text.len() == SECRET_LEN && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn new_secret() -> String {
    hex(&rand::random::<[u8; 32]>())
}

fn hash(id: &str) -> String {
    hex(&Sha256::digest(id))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
