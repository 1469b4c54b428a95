//! Lines, and how memcached 1.6.45 reads them.

use super::classic::Keys;
use super::*;
use crate::protocol::Then;
use crate::protocol::request::{FlagSet, ReplyFormat, SHARED_VALUE_MAX, TextFormat};

const LIMITS: Limits = Limits {
    item_size_max: 1024 * 1024,
    gathered_max: SHARED_VALUE_MAX,
    flags: FlagSet::NEWEST,
    mechanisms: b"PLAIN",
};

/// A frame in short.
fn describe(input: &[u8]) -> String {
    let Some(frame) = parse(input, LIMITS) else { return "more".into() };
    let text = |words: &[u8]| String::from_utf8_lossy(words).trim_end().to_owned();
    let what = match frame.parsed {
        Parsed::Request(request) => format!("{:?} {}", request.command.kind(), text(request.key.bytes)),
        Parsed::Keys(keys) => format!("keys {}", text(keys.line)),
        Parsed::LocalReply(words) => format!("reply {}", text(&words)),
        Parsed::Swallow { bytes, then: Then::LocalReply(words) } => {
            format!("swallow {bytes} reply {}", text(&words))
        }
        Parsed::Swallow { bytes, then: Then::Request(request) } => {
            format!("swallow {bytes} {:?}", request.command.kind())
        }
        Parsed::Close(words) => format!("close {}", text(&words)),
        Parsed::Stream { len, .. } => format!("stream {len}"),
        Parsed::UntaggedCommand(command) => format!("{:?}", command.kind),
        Parsed::NeedsVersion => "needs version".into(),
        Parsed::Login => "login".into(),
    };
    format!("{what} [{}]", frame.consumed)
}

#[test]
fn lines_are_parsed_as_memcached_does() {
    let k = "k".repeat(251);
    let bad = "CLIENT_ERROR bad command line format";
    for (input, expected) in [
        ("get a\r\nget b\r\n", "keys a [7]".to_owned()),
        ("get  a  b \r\n", "keys a  b [12]".to_owned()),
        ("get a\n", "keys a [6]".to_owned()),
        ("get a", "more".to_owned()),
        ("get\r\n", format!("reply {bad} [5]")),
        ("get \r\n", format!("reply {bad} [6]")),
        ("gat 0\r\n", format!("reply {bad} [7]")),
        ("gat abc a\r\n", "reply CLIENT_ERROR invalid exptime argument [11]".to_owned()),
        ("gat 0 a\r\n", "keys a [9]".to_owned()),
        ("\r\n", format!("reply {bad} [2]")),
        ("a\r\n", format!("reply {bad} [3]")),
        ("bogus\r\n", "reply ERROR [7]".to_owned()),
        ("bogus noreply\r\n", "reply  [15]".to_owned()),
        ("GET a\r\n", "reply ERROR [7]".to_owned()),
        (" get a\r\n", "reply ERROR [8]".to_owned()),
        (" set a 0 0 1\r\n", "close ERROR [14]".to_owned()),
        ("get a\rb\r\n", "reply ERROR [9]".to_owned()),
        ("set a\0b 0 0 1\r\n1\r\n", "close ERROR [15]".to_owned()),
        ("GET / HTTP/1.1\r\n", "close  [16]".to_owned()),
        ("set a 0 0 1\r\n1\r\n", "Store(Set) a [16]".to_owned()),
        ("set a 0 0 1\r\n1\r", "more".to_owned()),
        ("set a 0 0\r\n", format!("close {bad} [11]")),
        ("cas a 0 0 1\r\n1\r\n", format!("close {bad} [13]")),
        ("cas a 0 0 1 x\r\n1\r\n", format!("swallow 3 reply {bad} [15]")),
        ("cas a 0 0 1 5\r\n1\r\n", "Store(Set) a [18]".to_owned()),
        ("set a 0 0 -1\r\n", format!("close {bad} [14]")),
        ("set a 0 0 2147483646\r\n", format!("close {bad} [22]")),
        ("set a 0 0 2147483645\r\n", "swallow 2147483647 Invalidate [22]".to_owned()),
        (
            "add a 0 0 2147483645\r\n",
            "swallow 2147483647 reply SERVER_ERROR object too large for cache [22]".to_owned(),
        ),
        ("set a x 0 1\r\n1\r\n", format!("swallow 3 reply {bad} [13]")),
        ("set a 0 0 1\r\n12345\r\n", "close CLIENT_ERROR bad data chunk [13]".to_owned()),
        ("set a 0 0 1 noreply\r\n12345\r\n", "close  [21]".to_owned()),
        ("incr a x\r\n", "reply CLIENT_ERROR invalid numeric delta argument [10]".to_owned()),
        ("incr a\r\n", format!("reply {bad} [8]")),
        ("incr a 1\r\n", "Arithmetic a [10]".to_owned()),
        ("touch a x\r\n", "reply CLIENT_ERROR invalid exptime argument [11]".to_owned()),
        ("delete a 5\r\n", "Delete a [12]".to_owned()),
        ("delete\r\n", format!("reply {bad} [8]")),
        ("ms a 1\r\nx\r\n", "Meta { verb: Set, value: No } a [11]".to_owned()),
        ("flush_all\r\n", "FlushAll { delay: None } [11]".to_owned()),
        ("flush_all 5 noreply\r\n", "FlushAll { delay: Some(5) } [21]".to_owned()),
        ("flush_all x\r\n", "reply CLIENT_ERROR invalid exptime argument [13]".to_owned()),
        ("stats reset\r\n", "reply ERROR [13]".to_owned()),
        ("set a 0 0 200000\r\n", "stream 200000 [18]".to_owned()),
        ("shutdown\r\n", "reply ERROR [10]".to_owned()),
        ("quit\r\n", "close  [6]".to_owned()),
        ("version\r\n", "Version  [9]".to_owned()),
    ] {
        assert_eq!(describe(input.as_bytes()), expected, "{input:?}");
    }
    assert_eq!(describe(format!("get a {k}\r\n").as_bytes()), format!("reply {bad} [259]"));
    assert_eq!(
        describe(format!("set {k} 0 0 1\r\n1\r\n").as_bytes()),
        format!("swallow 3 reply {bad} [263]")
    );
    assert_eq!(describe(&[b'x'; 2049]), "close CLIENT_ERROR line too long [2049]");
    assert_eq!(describe(&[b'x'; 2048]), "more");
    let longest = format!("{}\r\n", "x".repeat(2048));
    assert_eq!(describe(longest.as_bytes()), "reply ERROR [2050]");
    assert_eq!(describe(&longest.as_bytes()[..2049]), "more", "the limit depends on packets");
    assert_eq!(describe(format!("get {}", "a ".repeat(2000)).as_bytes()), "more");
}

#[test]
fn keys_are_returned_one_by_one() {
    let keys = Keys { line: b"a  bc d ", with_cas: true, exptime: None };
    let (first, rest) = keys.next().unwrap();
    assert_eq!((first.key.bytes, rest), (&b"a"[..], &b"bc d "[..]));
    let (second, rest) = Keys { line: rest, ..keys }.next().unwrap();
    assert_eq!(second.format, ReplyFormat::Text(TextFormat::Value { with_cas: true, last: false }));
    let (third, rest) = Keys { line: rest, ..keys }.next().unwrap();
    assert_eq!(third.format, ReplyFormat::Text(TextFormat::Value { with_cas: true, last: true }));
    assert!(Keys { line: rest, ..keys }.next().is_none());
}
