//! Pseudo-random numbers: the same sequence for the same seed.

/// An xorshift64 generator.
#[derive(Debug)]
pub struct Rng(u64);

impl Rng {
    /// Creates a generator; every seed is allowed, also 0.
    pub fn new(seed: u64) -> Self {
        // Small seeds share most of their bits, and a state of 0 would stay 0.
        Self((seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d) | 1 << 63)
    }

    /// Returns a number from 0 to `limit - 1`.
    ///
    /// # Panics
    /// When `limit` is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }
}
