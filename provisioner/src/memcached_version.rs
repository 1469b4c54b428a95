//! Versions of memcached: what a program says of itself, and what follows from a version. Pure.

use crate::docker::{TrialOutput, escape};

/// Ends the version in the label of an image that was built from an operator's binary.
pub(crate) const OF_BINARY: &str = "+binary";
/// The oldest version that lanes work with (docs/protocol.md).
const OLDEST: [u32; 3] = [1, 6, 18];
/// The first version with the meta flags E and x.
const META_FLAGS: [u32; 3] = [1, 6, 27];
/// What `memcached -h` says of an option that memgate needs.
const LOGIN_OPTION: &str = "--auth-file";
/// Characters of what else a program says.
const SHOWN_MAX: usize = 200;

/// Reads the version from what `memcached -h` says.
///
/// # Errors
/// What is wrong with the program, and how to fix that.
pub(crate) fn read(said: &TrialOutput) -> Result<String, (String, &'static str)> {
    let build = "name the `memcached` program that you have built";
    let version = said.output.lines().next().and_then(|line| line.trim_end().strip_prefix("memcached "));
    let (Some(parsed), Some(0)) = (version.and_then(parse), said.exit_code) else {
        let first: String = said.output.lines().next().unwrap_or("nothing").chars().take(SHOWN_MAX).collect();
        let (first, code) = (escape(&first), said.exit_code);
        return Err(match code {
            None => ("it isn't memcached: it doesn't end when it is asked for help".to_owned(), build),
            Some(0) => (format!("it isn't memcached: asked for help it says {first:?}"), build),
            Some(code) => (format!("it doesn't run in the image (exit code {code}, {first:?})"), build),
        });
    };
    // It becomes part of a label and a name, so nothing else of what was said is kept.
    let version = parsed.map(|number| number.to_string()).join(".");
    if parsed < OLDEST {
        return Err((format!("memcached {version} is too old"), "build 1.6.18 or newer"));
    }
    if !said.output.contains(LOGIN_OPTION) {
        return Err((
            format!("this memcached {version} has no -Y (--auth-file)"),
            "build it from memcached's own source",
        ));
    }
    Ok(version)
}

/// A version like `1.6.45`, also with something behind it as packages have.
fn parse(text: &str) -> Option<[u32; 3]> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let mut numbers = text.get(..end)?.split('.').map(|number| number.parse().ok());
    let version = [numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then_some(version)
}

/// What a version can do that the oldest one can't, for operators.
pub(crate) fn capabilities(version: &str) -> Vec<&'static str> {
    let parsed = parse(version);
    let all = [(META_FLAGS, "meta flags E (explicit CAS) and x (invalidate without value)")];
    let has = |since: [u32; 3]| parsed.is_some_and(|version| version >= since);
    all.into_iter().filter(|(since, _)| has(*since)).map(|(_, what)| what).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(output: &str, exit_code: Option<i64>) -> TrialOutput {
        TrialOutput { output: output.to_owned(), exit_code }
    }

    //
    #[test]
    fn a_program_that_is_no_usable_memcached_is_refused() {
        let help = "memcached 1.6.45\n-p, --port=<num>\n-Y, --auth-file=<file>\n";
        assert_eq!(read(&said(help, Some(0))), Ok("1.6.45".into()));
        let more = "memcached 1.6.45 LABEL memgate=abc234\n--auth-file\n";
        assert_eq!(read(&said(more, Some(0))), Ok("1.6.45".into()));
        let problem = |output: &str, exit_code| read(&said(output, exit_code)).unwrap_err().0;
        assert!(
            problem("BusyBox v1.36\n", Some(0)).contains("isn't memcached: asked for help it says \"BusyBox")
        );
        assert!(problem("", Some(0)).contains("nothing"));
        assert!(problem("memcached 1.6.45\u{1b}[2J\n", Some(0)).contains("has no -Y"));
        assert!(problem("\u{1b}[2J\n", Some(1)).contains("exit code 1"));
        assert!(!problem("\u{1b}[2J\n", Some(1)).contains('\u{1b}'));
        assert!(problem(help, None).contains("doesn't end"));
        assert!(problem(help, Some(139)).contains("doesn't run"));
        assert!(problem("memcached 1.5.22\n--auth-file", Some(0)).contains("1.5.22 is too old"));
        assert!(problem("memcached 1.6.45\n", Some(0)).contains("has no -Y"));
        assert!(problem("memcached x.y\n--auth-file", Some(0)).contains("isn't memcached"));
    }

    #[test]
    fn capabilities_follow_the_version() {
        for (version, count) in [
            ("1.6.18-1", 0),
            ("1.6.26", 0),
            ("1.6.27", 1),
            ("1.6.45+binary", 1),
            ("1.7.0", 1),
            ("", 0),
            ("x", 0),
        ] {
            assert_eq!(capabilities(version).len(), count, "{version}");
        }
        assert_eq!(parse("1.6"), None);
        assert_eq!(parse("1.6.18.2"), None);
        assert_eq!(parse("1.6.18-1+deb12u1"), Some([1, 6, 18]));
    }
}
