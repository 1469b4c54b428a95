//! Sessions of signed-in users, and CSRF cookies of everyone else.
//!
//! A session's id is 32 random bytes in a cookie; the store keeps its SHA-256. The CSRF token of a session
//! is in the store. A visitor without a session has a double-submit cookie: their forms repeat its value. A browser's other
//! cookies sign nobody in.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, MatchedPath};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum_extra::extract::CookieJar;
use daemon::Shutdown;
use sha2::{Digest as _, Sha256};
use store::{Leak, NewSession, Session, Store, StoreError, User};
use subtle::ConstantTimeEq as _;

use super::client_ip::ClientIp;
use super::reject::PageError;
use crate::Config;
use crate::password_attempts::account;
use crate::state::AppState;

/// How often a session's last use is written to the store.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);
/// Routes that an open page asks again and again.
const REFRESHED: [&str; 4] =
    ["/caches/{cache}/state", "/caches/{cache}/figures", "/caches/{cache}/events", "/tokens/{id}/first-use"];
/// Routes of pages that reload themselves without scripts, and how they mark that.
const RELOADED: [&str; 3] = ["/caches/{cache}", "/caches/{cache}/activity", "/caches/{cache}/settings"];
const RELOAD_MARK: &str = "reloaded";
/// How often expired sessions are deleted.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// How long a browser is known after its last sign-in.
const BROWSER_AGE: Duration = Duration::from_hours(365 * 24);
/// How long a link that was followed is kept.
const LINK_AGE: Duration = Duration::from_hours(1);
/// How long a browser keeps a sign-in that waits for a code; the store ends it after five minutes.
const CODE_AGE: Duration = Duration::from_mins(10);
/// Length of a session id or CSRF token: 32 bytes in hexadecimal.
const SECRET_LEN: usize = 64;
/// Length of a session id's random part; a tag follows, by which made-up ids are found out.
const SESSION_RANDOM_LEN: usize = 32;

/// Extractor: sender of a request, signed in or not. No `Debug`: that would print the CSRF token.
pub(crate) struct Visitor {
    pub(crate) me: Option<SignedIn>,
    /// From the session, or from the visitor's cookie.
    pub(crate) csrf_token: String,
    /// CSRF cookie to set with the response, if the visitor has none.
    pub(crate) new_cookie: Option<HeaderValue>,
}

/// Extractor: the signed-in sender of a request. Redirects anyone else to the sign-in page.
#[derive(Debug)]
pub(crate) struct SignedIn {
    pub(crate) user: User,
    pub(crate) session: Session,
    /// Tokens found in public whose notice isn't dismissed.
    pub(crate) leaks: Vec<Leak>,
}

/// Extractor: what the sender's browser says of an earlier sign-in. It outlives sessions and signs nobody in.
pub(crate) struct Browser(Option<String>);

impl Browser {
    /// Whether this browser has signed in to an account before.
    pub(crate) fn has_signed_in(&self, app: &AppState, email: &str) -> bool {
        let Some(sent) = self.0.as_deref().filter(|sent| is_secret(sent)) else { return false };
        let (random, tag) = sent.split_at(SESSION_RANDOM_LEN);
        let expected = app.token_key.browser_tag(random, &account(email));
        expected.as_bytes().ct_eq(tag.as_bytes()).into()
    }
}

/// The cookie of a browser that has signed in to an account.
pub(crate) fn browser_cookie(app: &AppState, email: &str) -> HeaderValue {
    let random = hex(&rand::random::<[u8; SESSION_RANDOM_LEN / 2]>());
    let tag = app.token_key.browser_tag(&random, &account(email));
    Cookie::Browser.set(&app.config, &(random + &tag), BROWSER_AGE)
}

impl FromRequestParts<Arc<AppState>> for Browser {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, Infallible> {
        Ok(Self(cookie(&parts.headers, Cookie::Browser.name(&app.config))))
    }
}

/// Extractor: from where a session is started, as its user sees it in the list of sessions.
#[derive(Debug)]
pub(crate) struct SessionSource {
    source: String,
    user_agent: String,
}

impl FromRequestParts<Arc<AppState>> for SessionSource {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, Infallible> {
        let source = ClientIp::from_request_parts(parts, app).await?.to_string();
        let user_agent = parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        Ok(Self { source, user_agent: user_agent.unwrap_or_default().to_owned() })
    }
}

/// Extractor: the snippet that this browser's user looked at last.
pub(crate) struct LastSnippet(pub(crate) Option<String>);

/// The cookie of a browser whose user has chosen a snippet.
pub(crate) fn snippet_cookie(app: &AppState, id: &str) -> HeaderValue {
    Cookie::Snippet.set(&app.config, id, BROWSER_AGE)
}

impl FromRequestParts<Arc<AppState>> for LastSnippet {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, Infallible> {
        Ok(Self(cookie(&parts.headers, Cookie::Snippet.name(&app.config))))
    }
}

/// Extractor: the code of the link that this browser has followed last.
pub(crate) struct FollowedLink(pub(crate) Option<String>);

/// The cookie of a browser that has followed a link of a mail: its address has no code any more from then on, so that nothing
/// passes it on.
pub(crate) fn link_cookie(app: &AppState, code: &str) -> HeaderValue {
    Cookie::Link.set(&app.config, code, LINK_AGE)
}

/// A cookie that makes the browser forget the link.
pub(crate) fn expired_link_cookie(app: &AppState) -> HeaderValue {
    Cookie::Link.set(&app.config, "", Duration::ZERO)
}

impl FromRequestParts<Arc<AppState>> for FollowedLink {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, Infallible> {
        Ok(Self(cookie(&parts.headers, Cookie::Link.name(&app.config))))
    }
}

/// Extractor: the hash of the sign-in that waits for a code in this browser. It signs nobody in by itself.
pub(crate) struct AwaitedCode(pub(crate) Option<String>);

/// A new sign-in that waits for a code: the hash of its id, and its cookie.
pub(crate) fn await_code(app: &AppState) -> (String, HeaderValue) {
    let random = hex(&rand::random::<[u8; SESSION_RANDOM_LEN / 2]>());
    let tag = app.token_key.sign_in_tag(&random);
    let id = random + &tag;
    (hash(&id), Cookie::Code.set(&app.config, &id, CODE_AGE))
}

/// A cookie that makes the browser forget the sign-in that waits for a code.
pub(crate) fn expired_code_cookie(app: &AppState) -> HeaderValue {
    Cookie::Code.set(&app.config, "", Duration::ZERO)
}

impl FromRequestParts<Arc<AppState>> for AwaitedCode {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, Infallible> {
        let id = cookie(&parts.headers, Cookie::Code.name(&app.config)).filter(|id| is_secret(id));
        // Made-up ids cost no look-up.
        let is_own = |id: &String| {
            let (random, tag) = id.split_at(SESSION_RANDOM_LEN);
            bool::from(app.token_key.sign_in_tag(random).as_bytes().ct_eq(tag.as_bytes()))
        };
        Ok(Self(id.filter(is_own).map(|id| hash(&id))))
    }
}

impl SignedIn {
    /// The store, with this user as the actor in the audit log.
    pub(crate) fn store(&self, app: &AppState) -> Store {
        app.store.acting_as_user(&self.user.id)
    }
}

impl FromRequestParts<Arc<AppState>> for Visitor {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, PageError> {
        if let Some(me) = find(app, &parts.headers, RequestedBy::of(parts)).await? {
            return Ok(Self { csrf_token: me.session.form_token.clone(), me: Some(me), new_cookie: None });
        }
        let name = Cookie::Csrf.name(&app.config);
        let sent = cookie(&parts.headers, name).filter(|value| is_secret(value));
        let csrf_token = sent.clone().unwrap_or_else(new_secret);
        let new_cookie =
            sent.is_none().then(|| Cookie::Csrf.set(&app.config, &csrf_token, app.config.session_age()));
        Ok(Self { me: None, csrf_token, new_cookie })
    }
}

impl FromRequestParts<Arc<AppState>> for SignedIn {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, PageError> {
        let next = if parts.method == Method::GET { parts.uri.path() } else { "/caches" };
        let found = find(app, &parts.headers, RequestedBy::of(parts)).await?;
        found.ok_or_else(|| PageError::SignInRequired(next.to_owned()))
    }
}

/// Starts a session under a new id and returns it with its cookie. Ends `previous`, the browser's session.
pub(crate) async fn start(
    app: &AppState,
    user_id: &str,
    from: &SessionSource,
    previous: Option<&Session>,
) -> Result<(Session, HeaderValue), PageError> {
    let (id, form_token) = (new_session_id(app), new_secret());
    let id_hash = hash(&id);
    if let Some(previous) = previous {
        app.store.end_session(&previous.id_hash).await?;
    }
    let new = NewSession {
        id_hash: &id_hash,
        user_id,
        form_token: &form_token,
        source: &from.source,
        user_agent: &from.user_agent,
    };
    app.store.create_session(&new).await?;
    let cookie = Cookie::Session.set(&app.config, &id, app.config.session_age());
    let now = store::now();
    let user_id = user_id.to_owned();
    let session =
        Session { id_hash, user_id, form_token, created_at: now, last_seen_at: now, confirmed_at: None };
    Ok((session, cookie))
}

/// Ends a session and returns a cookie that replaces the browser's.
pub(crate) async fn end(app: &AppState, session: &Session) -> Result<HeaderValue, PageError> {
    app.store.end_session(&session.id_hash).await?;
    Ok(expired_cookie(app))
}

/// A cookie that makes the browser delete its session cookie.
pub(crate) fn expired_cookie(app: &AppState) -> HeaderValue {
    Cookie::Session.set(&app.config, "", Duration::ZERO)
}

/// Whether a session exists and hasn't expired.
pub(crate) async fn is_active(app: &AppState, id_hash: &str) -> Result<bool, PageError> {
    let session = app.store.session(id_hash, app.config.session_idle(), app.config.session_age()).await?;
    Ok(session.is_some())
}

/// Deletes expired sessions until shutdown.
pub(crate) fn spawn_sweep(app: Arc<AppState>, shutdown: &Shutdown) {
    let mut ticks = shutdown.every(SWEEP_INTERVAL);
    shutdown.spawn(async move {
        while ticks.next().await {
            let (idle, age) = (app.config.session_idle(), app.config.session_age());
            if let Err(error) = app.store.end_old_sessions(idle, age).await {
                tracing::warn!(%error, "failed to delete expired sessions");
            }
            if let Err(error) = app.store.acting_as("webui").prune_tokens().await {
                tracing::warn!(%error, "failed to delete tokens that ended long ago");
            }
            if let Err(error) = delete_expired(&app.store).await {
                tracing::warn!(%error, "failed to delete old mail, links and sign-ins");
            }
            if let Err(error) = app.store.delete_old_notifications().await {
                tracing::warn!(%error, "failed to delete old notifications");
            }
            if let Err(error) = app.store.prune_api_requests().await {
                tracing::warn!(%error, "failed to forget old requests of the API");
            }
        }
    });
}

/// Who has made a request: a session is in use while its user opens pages, and not while an open page refreshes itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestedBy {
    User,
    OpenPage,
}

impl RequestedBy {
    /// By the route, and by what a page that reloads itself adds to its address.
    fn of(parts: &Parts) -> Self {
        let route = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
        let is_marked = || parts.uri.query().is_some_and(|it| it.split('&').any(|part| part == RELOAD_MARK));
        let is_reload = parts.method == Method::GET && RELOADED.contains(&route) && is_marked();
        if REFRESHED.contains(&route) || is_reload { Self::OpenPage } else { Self::User }
    }
}

async fn delete_expired(store: &Store) -> Result<(), StoreError> {
    store.delete_expired_links().await?;
    store.delete_old_mails().await?;
    store.delete_expired_sign_ins().await?;
    Ok(())
}

/// The signed-in sender of a request.
pub(crate) async fn find(
    app: &AppState,
    headers: &HeaderMap,
    requested_by: RequestedBy,
) -> Result<Option<SignedIn>, PageError> {
    let id = cookie(headers, Cookie::Session.name(&app.config)).filter(|id| is_session_id(app, id));
    let Some(id) = id else { return Ok(None) };
    let (id_hash, limits) = (hash(&id), &app.rate_limits);
    limits.session_pages.acquire(&id_hash).map_err(|wait| limited(app, wait))?;
    let (idle, age) = (app.config.session_idle(), app.config.session_age());
    let found = app.metrics.store.observe("read_session", app.store.session(&id_hash, idle, age));
    let Some(session) = found.await? else { return Ok(None) };
    limits.user_pages.acquire(&session.user_id).map_err(|wait| limited(app, wait))?;
    let Some(user) = app.store.user(&session.user_id).await? else { return Ok(None) };
    if requested_by == RequestedBy::User {
        touch(app, &session).await;
    }
    let leaks = app.store.open_leaks(&user.id).await?;
    Ok(Some(SignedIn { user, session, leaks }))
}

fn limited(app: &AppState, wait: Duration) -> PageError {
    app.metrics.count_limited("pages");
    PageError::RateLimited(wait)
}

/// Records that a session is in use. A failure only makes the session expire earlier, so pages still work
/// when the disk is full.
async fn touch(app: &AppState, session: &Session) {
    let interval = TOUCH_INTERVAL.min(app.config.session_idle() / 4);
    let unrecorded = store::now().since(session.last_seen_at);
    if unrecorded < interval {
        return;
    }
    if let Err(error) = app.store.touch_session(&session.id_hash).await {
        tracing::warn!(%error, "failed to record the use of a session");
    }
}

#[derive(Debug, Clone, Copy)]
enum Cookie {
    Session,
    Csrf,
    Browser,
    Snippet,
    Link,
    Code,
}

impl Cookie {
    /// The prefix `__Host-` binds a cookie to one host; browsers accept it over TLS only.
    fn name(self, config: &Config) -> &'static str {
        match (self, config.is_https()) {
            (Self::Session, true) => "__Host-memgate",
            (Self::Session, false) => "memgate",
            (Self::Csrf, true) => "__Host-memgate-csrf",
            (Self::Csrf, false) => "memgate-csrf",
            (Self::Browser, true) => "__Host-memgate-browser",
            (Self::Browser, false) => "memgate-browser",
            (Self::Snippet, true) => "__Host-memgate-snippet",
            (Self::Snippet, false) => "memgate-snippet",
            (Self::Link, true) => "__Host-memgate-link",
            (Self::Link, false) => "memgate-link",
            (Self::Code, true) => "__Host-memgate-code",
            (Self::Code, false) => "memgate-code",
        }
    }

    fn set(self, config: &Config, value: &str, max_age: Duration) -> HeaderValue {
        let (name, seconds) = (self.name(config), max_age.as_secs());
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

fn new_session_id(app: &AppState) -> String {
    let random = hex(&rand::random::<[u8; SESSION_RANDOM_LEN / 2]>());
    let tag = app.token_key.session_tag(&random);
    random + &tag
}

/// Whether a cookie's value is an id that [`new_session_id`] may have made. Others cost no look-up.
fn is_session_id(app: &AppState, text: &str) -> bool {
    let Some((random, tag)) = is_secret(text).then(|| text.split_at(SESSION_RANDOM_LEN)) else {
        return false;
    };
    app.token_key.session_tag(random).as_bytes().ct_eq(tag.as_bytes()).into()
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
