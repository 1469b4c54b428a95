//! The terminal while `memgate top` has it: its second screen, without echo and line editing. When dropped, it is as before.

use std::io::{self, Write as _};

use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// What is assumed of a terminal that doesn't tell its size.
const USUAL_SIZE: (usize, usize) = (80, 24);
/// The second screen, without a cursor and without wrapping; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_REST: &str = "\x1b[J";

pub(super) struct Terminal {
    before: Termios,
}

impl Terminal {
    pub(super) fn open() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Flush, &raw)?;
        let terminal = Self { before };
        write(ENTER)?;
        Ok(terminal)
    }

    /// Shows text instead of what was there.
    pub(super) fn draw(&mut self, text: &str) -> io::Result<()> {
        let lines: Vec<&str> = text.lines().collect();
        // Nothing is cleared before it is written again, so that nothing flickers.
        let lines = lines.join(&format!("{CLEAR_LINE}\r\n"));
        write(&format!("{HOME}{lines}{CLEAR_LINE}{CLEAR_REST}"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = write(LEAVE);
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &self.before);
    }
}

/// Columns and lines.
pub(super) fn size() -> (usize, usize) {
    match tcgetwinsize(stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => USUAL_SIZE,
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
