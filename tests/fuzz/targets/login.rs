//! Bytes of an unauthenticated client, text and binary.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| proxy::fuzzing::check_login(input));
