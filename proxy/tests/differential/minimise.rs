//! Fewer requests that still make the same trouble.

use super::stream::Stream;

/// So many tries at most: each may wait for somebody who hangs.
const TRIES: usize = 400;

/// Leaves out of `stream` what may be left out while `fails` says so.
pub(crate) fn minimise<F: FnMut(&Stream) -> bool>(stream: &Stream, mut fails: F) -> Stream {
    let mut least = stream.clone();
    let mut tries = 0;
    let mut size = least.requests.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        let mut smaller = false;
        while at < least.requests.len() && tries < TRIES {
            let mut other = least.clone();
            other.requests.drain(at..(at + size).min(least.requests.len()));
            tries += 1;
            if fails(&other) {
                least = other;
                smaller = true;
            } else {
                at += size;
            }
        }
        if !smaller {
            size /= 2;
        }
        if tries >= TRIES {
            break;
        }
    }
    for at in (0..least.items.len()).rev() {
        let mut other = least.clone();
        other.items.remove(at);
        if tries < 2 * TRIES && fails(&other) {
            least = other;
        }
        tries += 1;
    }
    least
}
