//! Bounded map that forgets the keys that weren't used for longest, a generation at a time.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};

/// Keys in one generation; there are two.
const KEYS_MAX: usize = 20_000;

/// Values by key, which is stored as a keyed hash, so that no address is kept. When the newer generation is full, the
/// older one is dropped: a flood of keys makes it forget sooner, but never grows the memory.
#[derive(Debug)]
pub(crate) struct Generations<V> {
    newer: HashMap<u64, V>,
    older: HashMap<u64, V>,
    hasher: RandomState,
}

impl<V> Generations<V> {
    pub(crate) fn new() -> Self {
        Self { newer: HashMap::new(), older: HashMap::new(), hasher: RandomState::new() }
    }

    /// The key's value, if it isn't forgotten.
    pub(crate) fn get_mut(&mut self, key: impl Hash) -> Option<&mut V> {
        let key = self.hasher.hash_one(key);
        self.newer.get_mut(&key).or_else(|| self.older.get_mut(&key))
    }

    /// The key's value, which counts as used.
    pub(crate) fn get_or_default(&mut self, key: impl Hash) -> &mut V
    where
        V: Default,
    {
        let key = self.hasher.hash_one(key);
        if self.newer.len() >= KEYS_MAX && !self.newer.contains_key(&key) {
            self.rotate();
        }
        let older = self.older.remove(&key);
        self.newer.entry(key).or_insert_with(|| older.unwrap_or_default())
    }

    /// Begins a new generation, and forgets the older one.
    pub(crate) fn rotate(&mut self) {
        self.older = std::mem::take(&mut self.newer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn memory_is_bounded_and_used_keys_are_kept() {
        let mut generations = Generations::<u32>::new();
        for key in 0..200_000_u32 {
            *generations.get_or_default(key) = key;
            *generations.get_or_default("used") += 1;
        }
        assert!(generations.newer.len() + generations.older.len() <= 2 * KEYS_MAX);
        assert_eq!(generations.get_mut("used"), Some(&mut 200_000));
        assert_eq!(generations.get_mut(199_999_u32), Some(&mut 199_999));
        assert_eq!(generations.get_mut(0_u32), None);
    }

    #[test]
    fn two_rotations_forget_what_was_not_used() {
        let mut generations = Generations::<u32>::new();
        (*generations.get_or_default("a"), *generations.get_or_default("b")) = (1, 2);
        generations.rotate();
        assert_eq!(generations.get_or_default("a"), &mut 1);
        generations.rotate();
        assert_eq!(generations.get_mut("a"), Some(&mut 1));
        assert_eq!(generations.get_mut("b"), None);
    }
}
