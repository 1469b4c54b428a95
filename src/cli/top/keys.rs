//! The keys of `memgate top`.

use std::io::Read as _;

use tokio::sync::mpsc;

use super::view::Sort;

/// What the last line of the screen says.
pub(super) const FOOTER: &str =
    "q quit   sort by: r rate  h hits  l p99  e errors  m memory  c connections  n name";

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Sort(Sort),
}

impl Key {
    /// `None` for a byte that means nothing. In raw mode, Ctrl-C is a byte too.
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            b'q' | b'Q' | 3 => Self::Quit,
            b'r' => Self::Sort(Sort::Rate),
            b'h' => Self::Sort(Sort::Hits),
            b'l' => Self::Sort(Sort::P99),
            b'e' => Self::Sort(Sort::Errors),
            b'm' => Self::Sort(Sort::Memory),
            b'c' => Self::Sort(Sort::Connections),
            b'n' => Self::Sort(Sort::Name),
            _ => return None,
        })
    }
}

/// Reads keys from stdin. A thread of its own waits for them: nothing waits for that at the end, as a runtime would.
pub(super) fn read() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut byte = [0];
        while stdin.read(&mut byte).is_ok_and(|read| read == 1) {
            if let Some(key) = Key::of(byte[0])
                && sender.blocking_send(key).is_err()
            {
                return;
            }
        }
    });
    receiver
}
