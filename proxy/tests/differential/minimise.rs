//! Reduces a failing stream.

use super::stream::Stream;

/// Maximum number of attempts: each may take a timeout.
const TRIES_MAX: usize = 400;

/// Removes from `stream` what can be removed while `fails` still returns true.
pub(crate) fn minimise<F: FnMut(&Stream) -> bool>(stream: &Stream, mut fails: F) -> Stream {
    let mut least = stream.clone();
    let mut tries = 0;
    let mut size = least.requests.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        let mut smaller = false;
        while at < least.requests.len() && tries < TRIES_MAX {
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
        if tries >= TRIES_MAX {
            break;
        }
    }
    for at in (0..least.items.len()).rev() {
        let mut other = least.clone();
        other.items.remove(at);
        if tries < 2 * TRIES_MAX && fails(&other) {
            least = other;
        }
        tries += 1;
    }
    least
}
