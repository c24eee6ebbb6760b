//! Deterministic pseudo-random numbers: the same words give the same number in every process.

/// Returns a pseudo-random number that depends only on `words`.
pub(crate) fn number(words: &[&str]) -> u64 {
    // FNV-1a, with the finalizer of SplitMix64, because the low bits of FNV-1a are weak.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for word in words {
        for byte in word.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^ (hash >> 32)
}

/// Whether `event` happens to an order. `share` is the share of affected orders, from 0 to 1.
pub(crate) fn happens(event: &str, order: &str, share: f64) -> bool {
    (number(&[event, order]) % 10_000) < (share * 10_000.0) as u64
}
