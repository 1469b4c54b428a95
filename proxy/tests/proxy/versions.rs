//! What depends on the version of memcached that runs in the instance.

use std::io::{Read as _, Write as _};

use testkit::{Memcached, MemcachedBinary, TestProxy};

// D-13.
#[test]
fn flags_that_an_old_version_ignores_are_ignored() {
    let proxy = TestProxy::start();
    for (number, program) in MemcachedBinary::all().into_iter().enumerate() {
        let is_new = program.version().is_reference();
        let token = proxy.sign_up(&format!("user{number}@example.com"));
        let _memcached =
            Memcached::start_binary(program, &proxy, &token, &format!("10.214.7.{}", 71 + number));
        let mut stream = proxy.log_in(&token);
        let mut ask = |request: &str, expected: &str| {
            stream.write_all(request.as_bytes()).unwrap();
            let mut reply = vec![0; expected.len()];
            stream.read_exact(&mut reply).unwrap();
            assert_eq!(String::from_utf8(reply).unwrap(), expected, "to {request:?}");
        };
        ask("ms a 1 s\r\n1\r\n", if is_new { "HD s1\r\n" } else { "HD\r\n" });
        ask("ms new 1 MA N30\r\n1\r\n", if is_new { "HD\r\n" } else { "NS\r\n" });
        ask("ms b 1 E7\r\n1\r\n", if is_new { "HD\r\n" } else { "CLIENT_ERROR invalid flag\r\n" });
        if !is_new {
            ask("ms b 1 c\r\n1\r\n", "HD c2\r\n");
            ask("mg b v C2\r\n", "VA 1\r\n1\r\n");
        }
    }
}
