//! Checks the fuzz targets' properties with their seeds and mutations of them.

use std::fs;
use std::path::PathBuf;

use super::*;

/// Mutations of each seed. All take seconds. Fuzzing itself is `./deploy/fuzz`.
const MUTATIONS_PER_SEED: usize = 300;

struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 8).unwrap() % limit.max(1)
    }

    /// A range within `len` bytes, mostly a short one.
    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let from = self.below(len + 1);
        let max = if self.below(2) == 0 { 4 } else { len };
        from..(from + self.below(max + 1)).min(len)
    }

    fn mutate(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        const WORDS: [&[u8]; 10] =
            [b"\r\n", b" ", b"\0", b"\r", b"noreply", b"4294967296", b"-1", b"O1", b"\xff\xff\xff\xff", b"0"];
        let range = self.range(input.len());
        match self.below(6) {
            0 => drop(input.drain(range)),
            1 => {
                let piece = input[range].to_vec();
                let at = self.below(input.len() + 1);
                drop(input.splice(at..at, piece));
            }
            2 => {
                let other = &seeds[self.below(seeds.len())];
                let theirs = self.range(other.len());
                drop(input.splice(range, other[theirs].iter().copied()));
            }
            3 => drop(input.splice(range, WORDS[self.below(WORDS.len())].iter().copied())),
            4 => input[range].iter_mut().for_each(|byte| *byte = u8::try_from(self.below(256)).unwrap()),
            _ => input[range].iter_mut().for_each(|byte| *byte ^= 1 << self.below(8)),
        }
    }
}

/// Checks `property` with the seeds of `target` and mutations of them.
fn check_seeds(target: &str, property: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds").join(target);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(seeds.len() > 5, "{target} has too few seeds");
    let mut rng = Rng(0x2545_f491_4f6c_dd1d);
    for seed in &seeds {
        let mut input = seed.clone();
        for _ in 0..MUTATIONS_PER_SEED {
            if let Err(panic) = std::panic::catch_unwind(|| property(&input)) {
                eprintln!("with {}", input.escape_ascii());
                std::panic::resume_unwind(panic);
            }
            if rng.below(5) == 0 || input.len() > 4000 {
                input.clone_from(seed);
            }
            rng.mutate(&mut input, &seeds);
        }
    }
}

// R-10, R-7.
#[test]
fn text_requests_hold_the_properties() {
    check_seeds("text", check_text);
}

#[test]
fn meta_requests_hold_the_properties() {
    check_seeds("meta", check_text);
}

#[test]
fn binary_requests_hold_the_properties() {
    check_seeds("binary", check_binary);
}

// S-11.
#[test]
fn logins_hold_the_properties() {
    check_seeds("login", check_login);
}

// R-17.
#[test]
fn replies_hold_the_properties() {
    check_seeds("replies", check_replies);
}
