//! Replies of a backend to requests of several clients.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| proxy::fuzzing::check_replies(input));
