//! A web UI on a free port with a SQLite store of its own, and a client with cookies.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use daemon::Shutdown;
use daemon::health::Health;
use daemon::http::ConnectionLimits;
use prometheus_client::registry::Registry;
use store::{Database, InstanceState, Observed, OperationProgress, OperationState, Store, TokenKey};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use webui::{App, Config};

pub(crate) const PASSWORD: &str = "correct horse battery";
/// Time limit of every wait.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) store: Store,
    pub(crate) health: Health,
    metrics: Registry,
    shutdown: Shutdown,
    folder: TempDir,
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts with a high sign-up limit, and the changes that `change` makes.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::start_in(folder, change).await
    }

    pub(crate) async fn start_in(folder: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_within(folder, change, |_| {}).await
    }

    /// Starts with other limits of connections.
    pub(crate) async fn start_within(
        folder: TempDir,
        change: impl FnOnce(&mut Config),
        limit: impl FnOnce(&mut ConnectionLimits),
    ) -> Self {
        let database = Database::Sqlite(folder.path().join("memgate.db"));
        let store = Store::open(&database).await.unwrap();
        let token_key = TokenKey::load_or_create(&folder.path().join("token.key")).unwrap();
        let mut config = Config { endpoint: "cache.example.com:11999".into(), ..Config::default() };
        config.limits.sign_ups_per_hour = 100;
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, health) = (Shutdown::new(), Health::default());
        let mut metrics = Registry::default();
        let app = App::new(config, store.clone(), token_key, &mut metrics).unwrap();
        let app = app.with_connection_limits(limit);
        let (until, ready) = (shutdown.clone(), health.clone());
        shutdown.spawn(async move { app.serve(listener, ready, until).await });
        Self { address, store, health, metrics, shutdown, folder }
    }

    /// Where its keys and its database are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Value of a metric without labels.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        self.find_metric(name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// How many requests a limit has refused.
    pub(crate) fn limited(&self, cause: &str) -> u64 {
        self.find_metric(&format!("memgate_webui_limited_total{{cause=\"{cause}\"}}")).unwrap_or(0)
    }

    /// Value of a metric with these labels, if it has been counted.
    pub(crate) fn find_metric(&self, name: &str) -> Option<u64> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(value.parse().unwrap())
    }

    pub(crate) fn visitor(&self) -> Visitor {
        self.visitor_from([127, 0, 0, 1])
    }

    /// A client with one of the addresses 127.0.0.0/8.
    pub(crate) fn visitor_from(&self, source: [u8; 4]) -> Visitor {
        Visitor {
            address: self.address,
            source: source.into(),
            cookies: BTreeMap::new(),
            csrf_token: String::new(),
            cache: "none".to_owned(),
            headers: vec![("Sec-Fetch-Site".into(), "same-origin".into())],
        }
    }

    /// Signs a new user up; returns the client and the response.
    pub(crate) async fn sign_up_user(&self, email: &str) -> (Visitor, Response) {
        let mut visitor = self.visitor();
        visitor.get("/sign-up").await;
        let response = visitor.post("/sign-up", &[("email", email), ("password", PASSWORD)]).await;
        assert_eq!(response.status, 200, "{}", response.body);
        (visitor, response)
    }

    /// Switches a user's second factor on in the user's only session, which stays.
    pub(crate) async fn set_up_second_factor(&self, user_id: &str) {
        let sessions = self.store.sessions_of(user_id, Duration::MAX, Duration::MAX).await.unwrap();
        let [session] = sessions.as_slice() else { panic!("{} sessions", sessions.len()) };
        self.store.begin_second_factor(user_id, &session.id_hash).await.unwrap();
        let seed = self.store.second_factor(user_id).await.unwrap().unwrap().seed;
        self.store.confirm_second_factor(user_id, &seed, 1, &[]).await.unwrap();
    }

    /// Records a state of the user's instance, as the provisioner does.
    pub(crate) async fn set_state(&self, email: &str, state: InstanceState) {
        let user = self.store.user_by_email(email).await.unwrap().unwrap();
        let instance = self.store.first_instance_of(&user.id).await.unwrap().unwrap();
        let runs = state == InstanceState::Running;
        let seen = Observed {
            state,
            generation: instance.route.map_or(1, |route| route.generation + 1),
            address: runs.then(|| "10.213.7.99".into()),
            container: runs.then(|| "c0ffee0123456789".into()),
            version: runs.then(|| "1.6.18".into()),
            message: None,
        };
        self.store.record_route(&instance.id, &seen).await.unwrap();
    }

    /// Ends the operations on a cache, as the provisioner does.
    pub(crate) async fn finish_operations(&self, cache: &str) {
        let done =
            OperationProgress { state: OperationState::Done, progress: 100, message: None, checkpoint: None };
        for operation in self.store.open_operations_of(cache).await.unwrap() {
            self.store.record_operation(&operation.id, &done).await.unwrap();
        }
    }

    /// Shuts down; returns whether that took less than 5 s.
    pub(crate) async fn stop(self) -> bool {
        self.shutdown.begin();
        self.shutdown.finished(Duration::from_secs(5)).await
    }
}

/// HTTP client with cookies and the CSRF token of the last page.
#[derive(Clone)]
pub(crate) struct Visitor {
    pub(crate) address: SocketAddr,
    source: Ipv4Addr,
    pub(crate) cookies: BTreeMap<String, String>,
    pub(crate) csrf_token: String,
    /// The cache of the last page of one. Paths name it as `{cache}`.
    pub(crate) cache: String,
    /// Headers of every POST.
    pub(crate) headers: Vec<(String, String)>,
}

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Visitor {
    pub(crate) async fn get(&mut self, path: &str) -> Response {
        let request = self.request_head("GET", path) + "\r\n";
        self.send(request.as_bytes()).await
    }

    /// Sends a form with the CSRF token of the last page.
    pub(crate) async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Response {
        let token = self.csrf_token.clone();
        let mut fields = fields.to_vec();
        fields.push(("csrf_token", &token));
        self.post_without_token(path, &fields).await
    }

    /// Sends a form with these fields only.
    pub(crate) async fn post_without_token(&mut self, path: &str, fields: &[(&str, &str)]) -> Response {
        let body: Vec<String> = fields.iter().map(|(k, v)| format!("{k}={}", escape(v))).collect();
        let body = body.join("&");
        let mut request = self.request_head("POST", path);
        for (name, value) in &self.headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!(
            "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.send(request.as_bytes()).await
    }

    /// The path with the cache's id.
    pub(crate) fn path(&self, path: &str) -> String {
        path.replace("{cache}", &self.cache)
    }

    pub(crate) async fn sign_in(&mut self, email: &str, password: &str) -> Response {
        self.get("/sign-in").await;
        self.post("/sign-in", &[("email", email), ("password", password)]).await
    }

    pub(crate) fn request_head(&self, method: &str, path: &str) -> String {
        let cookies: Vec<String> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let path = self.path(path);
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        if !cookies.is_empty() {
            head += &format!("Cookie: {}\r\n", cookies.join("; "));
        }
        head
    }

    pub(crate) async fn send(&mut self, request: &[u8]) -> Response {
        let socket = TcpSocket::new_v4().unwrap();
        if self.source != Ipv4Addr::LOCALHOST {
            socket.bind(SocketAddr::new(IpAddr::V4(self.source), 0)).unwrap();
        }
        let mut stream = socket.connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut bytes = Vec::new();
        let read =
            tokio::time::timeout(DEADLINE * 3, stream.read_to_end(&mut bytes)).await.expect("an response");
        // The server doesn't read a rejected body, so it may reset the connection after the response.
        assert!(read.is_ok() || !bytes.is_empty());
        let response = Response::parse(&bytes);
        self.store_cookies(&response);
        if let Some((_, rest)) = response.body.split_once("data-events-url=\"/caches/") {
            self.cache = rest.split('/').next().unwrap().to_owned();
        }
        response
    }

    fn store_cookies(&mut self, response: &Response) {
        for cookie in response.header_values("set-cookie") {
            let (name, rest) = cookie.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            if rest.contains("Max-Age=0;") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        if let Some(token) = response.field("csrf_token") {
            self.csrf_token = token;
        }
    }
}

impl Response {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header =
            |line: &str| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned())).unwrap();
        Self { status, headers: lines.map(header).collect(), body: body.to_owned() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    pub(crate) fn header_values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(k, _)| k == name).map(|(_, v)| v.as_str()).collect()
    }

    pub(crate) fn location(&self) -> &str {
        self.header("location").unwrap_or_default()
    }

    /// Value of the first input with this name.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let (_, rest) = self.body.split_once(&format!("name=\"{name}\""))?;
        let (tag, _) = rest.split_once('>')?;
        Some(tag.split_once("value=\"")?.1.split_once('"')?.0.to_owned())
    }

    /// Text of the element with this id.
    pub(crate) fn text(&self, id: &str) -> Option<&str> {
        let (_, rest) = self.body.split_once(&format!("id=\"{id}\""))?;
        Some(rest.split_once('>')?.1.split_once('<')?.0)
    }

    /// Ids of the active tokens in the list, or of the token that is shown.
    pub(crate) fn tokens(&self) -> Vec<String> {
        let shown = self.body.split("data-first-use-url=\"/tokens/").skip(1);
        let ids = self.body.split("data-token=\"").skip(1).chain(shown);
        ids.map(|rest| rest.split(['"', '/']).next().unwrap().to_owned()).collect()
    }
}

/// Waits for a condition; panics after [`DEADLINE`].
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl FnMut() -> F) {
    eventually_within(DEADLINE, what, condition).await;
}

/// Waits for a condition; panics after `limit`.
pub(crate) async fn eventually_within<F: Future<Output = bool>>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    let started = std::time::Instant::now();
    while !condition().await {
        assert!(started.elapsed() < limit, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
