//! The proxy in a process of its own, with rejected tokens of every kind.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};

use store::{NewToken, Token, UserState};

use testkit::{TestProxy, is_long_run, token_key};

/// Tokens of each kind: several, because guesses are throttled per token.
pub(crate) fn tokens_of_a_kind() -> usize {
    if is_long_run() { 4000 } else { 60 }
}

/// A running proxy; killed when dropped.
pub(crate) struct ProxyProcess {
    process: Child,
    _stdin: ChildStdin,
    pub(crate) listen: SocketAddr,
    pub(crate) good: Token,
    pub(crate) wrong: Vec<Token>,
    pub(crate) revoked: Vec<Token>,
    pub(crate) suspended: Vec<Token>,
}

impl ProxyProcess {
    pub(crate) fn start() -> Self {
        let this = std::env::current_exe().unwrap();
        let mut process = Command::new(this)
            .args(["--ignored", "--exact", "--nocapture", "proxy_process::the_proxy"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut reply = |what: &str| {
            let line = lines.find_map(|line| line.strip_prefix(&format!("{what}: ")).map(str::to_owned));
            line.unwrap_or_else(|| panic!("the proxy's process does not print {what}"))
        };
        let listen = reply("listen").parse().unwrap();
        let mut tokens =
            |what: &str| reply(what).split(' ').map(|token| Token::parse(token).unwrap()).collect::<Vec<_>>();
        let good = tokens("good").remove(0);
        let (wrong, revoked, suspended) = (tokens("wrong"), tokens("revoked"), tokens("suspended"));
        // The pipe must be read to its end, although the rest isn't needed.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, _stdin: stdin, listen, good, wrong, revoked, suspended }
    }

    /// Returns its resident memory in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for ProxyProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Not a test: the process that [`ProxyProcess`] starts.
#[test]
#[ignore = "runs until its parent closes the pipe"]
fn the_proxy() {
    let proxy = TestProxy::start();
    let [good, wrong, revoked, suspended] =
        ["good", "wrong", "revoked", "suspended"].map(|name| proxy.sign_up(&format!("{name}@example.org")));
    let more = |of: &Token| {
        let cache = proxy.runtime.block_on(proxy.store.token(&of.id())).unwrap().unwrap().cache_id;
        let key = token_key(proxy.data_dir.path());
        let make = |_| {
            let token = NewToken::generate(&key, "one of many");
            proxy.runtime.block_on(proxy.store.create_token(&cache, &token)).unwrap();
            token.token
        };
        (0..tokens_of_a_kind()).map(make).collect::<Vec<_>>()
    };
    let (wrong, revoked, suspended_tokens) = (more(&wrong), more(&revoked), more(&suspended));
    proxy.runtime.block_on(async {
        for token in &revoked {
            proxy.store.revoke_token(&token.id()).await.unwrap();
        }
        let user = proxy.store.token(&suspended.id()).await.unwrap().unwrap().user_id;
        proxy.store.set_user_state(&user, UserState::Suspended).await.unwrap();
    });
    let list = |tokens: &[Token]| tokens.iter().map(Token::reveal).collect::<Vec<_>>().join(" ");
    let mut out = std::io::stdout();
    writeln!(out, "\nlisten: {}\ngood: {}", proxy.config.listen, good.reveal()).unwrap();
    for (what, tokens) in [("wrong", &wrong), ("revoked", &revoked), ("suspended", &suspended_tokens)] {
        writeln!(out, "{what}: {}", list(tokens)).unwrap();
    }
    out.flush().unwrap();
    // Until the parent closes the pipe.
    let _ = std::io::stdin().read(&mut [0; 1]);
}
