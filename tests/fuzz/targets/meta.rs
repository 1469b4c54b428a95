//! Meta requests of an authenticated client, among text ones.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| proxy::fuzzing::check_text(input));
