//! Binary requests of an authenticated client.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| proxy::fuzzing::check_binary(input));
