//! A headless Chromium, driven by a chromedriver on a free port. Both end with the test.

use std::process::Stdio;
use std::time::Duration;

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const FLAGS: [&str; 7] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
];

/// Options of a browser.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BrowserOptions {
    pub(crate) dark: bool,
    pub(crate) phone: bool,
    pub(crate) without_scripts: bool,
}

/// A running chromedriver. Dropping it ends it and its browsers.
#[derive(Debug)]
pub(crate) struct Driver {
    process: Child,
    url: String,
}

impl Driver {
    /// Starts Debian's chromedriver on a port of its choice.
    pub(crate) async fn start() -> Self {
        let mut process = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver starts (apt install chromium-driver)");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some((_, port)) = line.trim_end_matches('.').split_once("successfully on port ") {
                    return port.to_owned();
                }
            }
            panic!("chromedriver ended");
        };
        let port = tokio::time::timeout(START_TIMEOUT, port).await.expect("chromedriver prints its port");
        Self { process, url: format!("http://127.0.0.1:{port}") }
    }

    /// Opens a browser; the caller closes it.
    pub(crate) async fn browser(&self, options: BrowserOptions) -> Client {
        let mut flags: Vec<String> = FLAGS.map(str::to_owned).to_vec();
        flags.push("--window-size=1200,1000".into());
        flags.push(format!("--blink-settings=preferredColorScheme={}", if options.dark { 0 } else { 1 }));
        let mut chrome = json!({ "args": flags });
        if options.phone {
            chrome["mobileEmulation"] =
                json!({ "deviceMetrics": { "width": 390, "height": 844, "pixelRatio": 2 } });
        }
        if options.without_scripts {
            chrome["prefs"] = json!({ "profile.managed_default_content_settings.javascript": 2 });
        }
        let Value::Object(capabilities) = json!({ "goog:chromeOptions": chrome }) else { unreachable!() };
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let browser = builder.capabilities(capabilities).connect(&self.url);
        tokio::time::timeout(START_TIMEOUT, browser).await.expect("in time").expect("Chromium starts")
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The whole process group: a failed test leaves its browser open.
        let pid = self.process.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}
