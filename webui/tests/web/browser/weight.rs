//! What every page weighs: HTML, style, script and pictures together, uncompressed.

use fantoccini::Client;

use super::accessibility::{check, faults};
use super::driver::BrowserOptions;

/// Bytes that a page may weigh, with all that it loads.
const PAGE_MAX: u64 = 100 * 1000;
/// Style and script, which each page loads: less means that something wasn't counted.
const ASSETS_MIN: u64 = 20 * 1000;

/// The bytes of the page and of all that it has loaded, each address once, also what was in the browser's cache.
const WEIGHT: &str = "
  const sizes = new Map();
  const entries = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
  for (const { name, decodedBodySize } of entries) sizes.set(name, Math.max(decodedBodySize, sizes.get(name) || 0));
  const page = performance.getEntriesByType('navigation')[0].decodedBodySize;
  return [page, [...sizes.values()].reduce((sum, size) => sum + size, 0)];";

async fn too_heavy(browser: &Client) -> Vec<String> {
    let found = browser.execute(WEIGHT, vec![]).await.unwrap();
    let [page, all] = [0, 1].map(|n| found[n].as_u64().unwrap());
    let mut faults = Vec::new();
    if all >= PAGE_MAX {
        faults.push(format!("{all} bytes, of which {page} are the page's own"));
    }
    if page == 0 || all < page + ASSETS_MIN {
        faults.push(format!("{all} bytes were counted, of which {page} are the page's own"));
    }
    faults
}

#[tokio::test]
async fn every_page_weighs_less_than_100_kb() {
    check(&faults(BrowserOptions::default(), too_heavy).await);
}
