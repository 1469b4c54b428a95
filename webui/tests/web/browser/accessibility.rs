//! WCAG 2.2 AA on every page: what axe-core finds, the keyboard, a phone's width, and pages without scripts.

use std::path::PathBuf;
use std::sync::OnceLock;

use fantoccini::Client;
use fantoccini::actions::{InputSource as _, KeyAction, KeyActions};
use fantoccini::key::Key;
use serde_json::{Value, json};

use super::driver::{BrowserOptions, Driver};
use super::flow::Flow;
use super::{Site, admin, walk};

/// Stops of the tab key that a page may have beside its links, buttons and fields: what scrolls.
const SCROLLERS_MAX: usize = 10;

/// Counts what can be reached with the tab key, and notes in which order it is, and what shows no focus.
const WATCH_FOCUS: &str = "
  const shown = (element) => element.checkVisibility({ visibilityProperty: true });
  const radios = new Set();
  const all = document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex]');
  const stops = [...all].filter((element) => {
    if (element.disabled || element.tabIndex < 0 || element.type === 'hidden' || !shown(element)) return false;
    if (element.type !== 'radio') return true;
    const group = [...document.getElementsByName(element.name)];
    if (radios.has(element.name) || (group.some((it) => it.checked) && !element.checked)) return false;
    radios.add(element.name);
    return true;
  });
  // Not by identity: a page that refreshes itself replaces elements.
  const name = (element) => element.cloneNode(false).outerHTML;
  window.focusWatch = { stops: stops.map(name), visited: [], hidden: [] };
  const shows = (element) => {
    const style = getComputedStyle(element);
    return (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== 'none';
  };
  addEventListener('focusin', ({ target }) => {
    window.focusWatch.visited.push(name(target));
    // A focus that the browser doesn't ascribe to the keyboard, such as that of a window which comes to the front, needs no mark.
    if (!target.matches(':focus-visible')) return;
    const label = target.labels && target.labels[0];
    if (!shows(target) && !(label && shows(label))) window.focusWatch.hidden.push(name(target));
  });
  document.activeElement.blur();
  getSelection().setPosition(document.body, 0);
  scrollTo(0, 0);
  return stops.length;";

const FOCUS_FAULTS: &str = "
  const { stops, visited, hidden } = window.focusWatch;
  const faults = hidden.map((name) => 'focus not visible: ' + name);
  for (const stop of stops) if (!visited.includes(stop)) faults.push('not reached: ' + stop);
  const order = [...new Set(visited)].filter((name) => stops.includes(name)).map((name) => stops.indexOf(name));
  // Behind the last one comes the first, where a field has the focus from the beginning.
  order.forEach((stop, i) => {
    if (i > 0 && stop < order[i - 1] && stop !== 0) faults.push('out of order: ' + stops[stop]);
  });
  return faults;";

const TOO_WIDE: &str = "
  const { scrollWidth, clientWidth } = document.documentElement;
  const wide = [...document.querySelectorAll('*')].filter((it) => it.getBoundingClientRect().right > clientWidth);
  return scrollWidth > clientWidth ? wide.map((it) => 'too wide: ' + it.cloneNode(false).outerHTML) : [];";

const RUN_AXE: &str = "
  const [options, done] = arguments;
  axe.run(document, options).then(({ violations }) => done(violations.map(({ impact, id, nodes }) =>
    `${impact} ${id}: ` + nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(' | '))));";

/// axe-core, from npm.
fn axe() -> &'static str {
    static SOURCE: OnceLock<String> = OnceLock::new();
    SOURCE.get_or_init(|| {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/node/node_modules");
        let modules =
            std::env::var_os("MEMGATE_TEST_NODE_MODULES").map_or_else(|| root.into(), PathBuf::from);
        let path = modules.join("axe-core/axe.min.js");
        std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error} (./deploy/test installs it)", path.display()))
    })
}

/// What axe-core finds on the page that is open, of all rules or of those named.
async fn axe_faults(browser: &Client, rules: &[&str]) -> Vec<String> {
    if browser.execute("return typeof axe", vec![]).await.unwrap() == "undefined" {
        let source = format!("{}; return window.axe = axe, true", axe());
        browser.execute(&source, vec![]).await.unwrap();
    }
    let mut options = json!({ "resultTypes": ["violations"] });
    if !rules.is_empty() {
        options["runOnly"] = json!({ "type": "rule", "values": rules });
    }
    strings(browser.execute_async(RUN_AXE, vec![options]).await.unwrap())
}

fn strings(value: Value) -> Vec<String> {
    serde_json::from_value(value).unwrap()
}

/// What is wrong with reaching the page's links, buttons and fields by the tab key.
async fn keyboard_faults(browser: &Client) -> Vec<String> {
    let stops = browser.execute(WATCH_FOCUS, vec![]).await.unwrap().as_u64().unwrap();
    let mut keys = KeyActions::new("keyboard".to_owned());
    for _ in 0..usize::try_from(stops).unwrap() + SCROLLERS_MAX {
        let value = char::from(Key::Tab);
        keys = keys.then(KeyAction::Down { value }).then(KeyAction::Up { value });
    }
    browser.perform_actions(keys).await.unwrap();
    strings(browser.execute(FOCUS_FAULTS, vec![]).await.unwrap())
}

/// Walks through every page, and returns what `find` finds, with the page's name.
pub(super) async fn faults(
    options: BrowserOptions,
    find: impl AsyncFn(&Client) -> Vec<String>,
) -> Vec<String> {
    let site = Site::start().await;
    let driver = Driver::start().await;
    let browser = driver.browser(options).await;
    let flow = Flow::new(&browser, format!("http://{}", site.address));
    let found = std::sync::Mutex::new(Vec::new());
    let visit = async |page: &str| {
        let faults = find(&browser).await;
        found.lock().unwrap().extend(faults.into_iter().map(|fault| format!("{page}: {fault}")));
    };
    walk::every_page(&flow, &site, &visit).await;
    let site = admin::site().await;
    admin::every_page(&Flow::new(&browser, format!("http://{}", site.address)), &site, &visit).await;
    browser.close().await.unwrap();
    found.into_inner().unwrap()
}

pub(super) fn check(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[tokio::test]
async fn axe_core_finds_nothing_and_everything_is_reached_by_keyboard() {
    let find = async |browser: &Client| {
        let mut found = axe_faults(browser, &[]).await;
        found.extend(keyboard_faults(browser).await);
        found
    };
    check(&faults(BrowserOptions::default(), find).await);
}

#[tokio::test]
async fn colours_have_enough_contrast_in_the_dark() {
    let options = BrowserOptions { dark: true, ..BrowserOptions::default() };
    check(&faults(options, async |browser| axe_faults(browser, &["color-contrast"]).await).await);
}

#[tokio::test]
async fn every_page_fits_a_phone() {
    let options = BrowserOptions { phone: true, ..BrowserOptions::default() };
    let find = async |browser: &Client| {
        let mut found = strings(browser.execute(TOO_WIDE, vec![]).await.unwrap());
        found.extend(axe_faults(browser, &["target-size", "meta-viewport"]).await);
        found
    };
    check(&faults(options, find).await);
}

#[tokio::test]
async fn every_page_is_reached_without_scripts() {
    let options = BrowserOptions { without_scripts: true, ..BrowserOptions::default() };
    check(&faults(options, async |_| Vec::new()).await);
}
