//! Meta lines, and how memcached 1.6.45 reads them.

use super::*;
use crate::protocol::request::{Limits, SHARED_VALUE_MAX};
use crate::protocol::text;

/// A parsed line in short.
fn describe_with(input: &[u8], flags: FlagSet) -> String {
    let Some(frame) = text::parse(
        input,
        Limits { item_size_max: 1024 * 1024, gathered_max: SHARED_VALUE_MAX, flags, mechanisms: b"PLAIN" },
    ) else {
        return "more".into();
    };
    let words = |words: &[u8]| String::from_utf8_lossy(words).trim_end().to_owned();
    match frame.parsed {
        Parsed::Request(Request { command, key, .. }) => {
            format!("{:?} {} [{}]", command.kind(), words(key.bytes), frame.consumed)
        }
        Parsed::LocalReply(reply) => format!("reply {}", words(&reply)),
        Parsed::Close(reply) => format!("close {}", words(&reply)),
        Parsed::Swallow { bytes, then: Then::LocalReply(reply) } => {
            format!("swallow {bytes} reply {}", words(&reply))
        }
        Parsed::Swallow { bytes, then: Then::Request(request) } => {
            format!("swallow {bytes} {:?}", request.command.kind())
        }
        Parsed::UntaggedCommand(command) => format!("{:?}", command.kind),
        other => format!("{other:?}"),
    }
}

fn describe(input: &str) -> String {
    describe_with(input.as_bytes(), FlagSet::NEWEST)
}

const BAD: &str = "CLIENT_ERROR bad command line format";

#[test]
fn lines_are_parsed_as_memcached_does() {
    let k = "k".repeat(251);
    for (input, expected) in [
        ("mg a\r\n", "Meta { verb: Get, value: No } a [6]".to_owned()),
        ("mg a v t f Oabc q\r\n", "Meta { verb: Get, value: Yes } a [19]".to_owned()),
        ("mg a C5 v\r\n", "Meta { verb: Get, value: UnlessSame } a [11]".to_owned()),
        ("mg YQ== b v\r\n", "Meta { verb: Get, value: Yes } YQ== [13]".to_owned()),
        ("mg\r\n", format!("reply {BAD}")),
        ("mg \r\n", format!("reply {BAD}")),
        ("mg a !\r\n", format!("reply {BAD}")),
        ("mg a 1\r\n", "reply CLIENT_ERROR invalid flag".to_owned()),
        ("mg a v v\r\n", "reply CLIENT_ERROR duplicate flag".to_owned()),
        ("mg %%% b v\r\n", "reply CLIENT_ERROR error decoding key".to_owned()),
        ("mg a Nx\r\n", "reply CLIENT_ERROR bad token in command line format".to_owned()),
        ("mg a F4294967296\r\n", format!("reply {BAD}")),
        ("md a q\r\n", "Meta { verb: Delete, value: No } a [8]".to_owned()),
        ("ma a MD D5\r\n", "Meta { verb: Arithmetic, value: No } a [12]".to_owned()),
        ("ma a MZ\r\n", "reply CLIENT_ERROR invalid mode for ma M token".to_owned()),
        ("ma a Dx\r\n", "reply CLIENT_ERROR invalid or duplicate flag".to_owned()),
        ("ms a 1 MA\r\nx\r\n", "Meta { verb: Set, value: No } a [14]".to_owned()),
        ("ms a 1 MA\r\nx\r", "more".to_owned()),
        ("ms a 1 MZ\r\n", "swallow 3 reply CLIENT_ERROR invalid mode for ms M token".to_owned()),
        ("ms a 1 !\r\n", format!("close {BAD}")),
        ("ms a x\r\n", format!("close {BAD}")),
        ("ms a -1\r\n", format!("close {BAD}")),
        ("ms a\r\n", format!("close {BAD}")),
        ("ms a 1 q\r\n12345\r\n", "close CLIENT_ERROR bad data chunk".to_owned()),
        ("ms a 1048577 q\r\n", "swallow 1048579 Invalidate".to_owned()),
        ("mn\r\n", "reply MN".to_owned()),
        ("mx a\r\n", "reply ERROR".to_owned()),
        ("me a\r\n", "Inspect { key: [97], base64: false }".to_owned()),
    ] {
        assert_eq!(describe(input), expected, "{input:?}");
    }
    assert_eq!(describe(&format!("mg {k} v\r\n")), format!("reply {BAD}"));
    assert_eq!(describe(&format!("ms {k} 1\r\n")), format!("swallow 3 reply {BAD}"));
    assert_eq!(describe(&format!("ma {k}\r\n")), "reply CLIENT_ERROR invalid or duplicate flag");
    assert_eq!(describe(&format!("mg a O{}\r\n", "o".repeat(31))), "Meta { verb: Get, value: No } a [39]");
    let long = format!("mg a O{}\r\n", "o".repeat(32));
    assert_eq!(describe(&long), "reply CLIENT_ERROR opaque token too long");
    let eighteen = "mg a b c f h k l O1 q s t v u P1 L1 N0 R0 T0 C1".replace("mg a b", "mg YQ== b");
    assert!(describe(&format!("{eighteen}\r\n")).starts_with("Meta { verb: Get"));
    assert_eq!(describe(&format!("{eighteen} E5\r\n")), "reply CLIENT_ERROR options flags are too long");
}

/// D-9.
#[test]
fn newer_flags_are_refused_as_the_instances_version_does() {
    for (line, refused) in [
        ("mg a E5 v\r\n", "reply CLIENT_ERROR invalid flag"),
        ("md a x\r\n", "reply CLIENT_ERROR invalid or duplicate flag"),
        ("md a q E5\r\n", "reply CLIENT_ERROR invalid or duplicate flag"),
        ("ma a E5\r\n", "reply CLIENT_ERROR invalid or duplicate flag"),
        ("ms a 1 E5\r\nx\r\n", "swallow 3 reply CLIENT_ERROR invalid flag"),
    ] {
        assert_eq!(describe_with(line.as_bytes(), FlagSet::Version(OLDEST_VERSION)), refused);
        assert_eq!(describe_with(line.as_bytes(), FlagSet::Unknown), "NeedsVersion");
        assert!(describe(line).starts_with("Meta"), "{line}");
    }
}

#[test]
fn decoded_key_length_is_that_of_memcached() {
    for (key, expected) in [
        (&b"YQ=="[..], Some(1)),
        (b"YWI=", Some(2)),
        (b"YWJj", Some(3)),
        (b"YW!!Jj", Some(3)),
        (b"YQ==YQ==", Some(1)),
        (b"YQ=", None),
        (b"====", None),
        (b"%%%", None),
    ] {
        assert_eq!(decoded_len(key), expected, "{key:?}");
    }
}
