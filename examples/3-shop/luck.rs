//! Luck that can be repeated: the same for the same words, in every run and process.

/// A number that looks as if it came by chance.
pub(crate) fn number(words: &[&str]) -> u64 {
    // FNV-1a, with a last stir (from SplitMix64): its low bits alone are not wild enough.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for word in words {
        for byte in word.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^ (hash >> 32)
}

/// Whether this befalls an order; `share` is how many of 1 it befalls.
pub(crate) fn strikes(what: &str, order: &str, share: f64) -> bool {
    (number(&[what, order]) % 10_000) < (share * 10_000.0) as u64
}
