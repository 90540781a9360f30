//! FNV-1a: the same in every release, unlike the standard library's hashes.

/// The hash of a name in 64 bits.
pub fn fnv64(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The hash of a name in 32 bits.
pub(crate) fn fnv32(name: &str) -> u32 {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    name.bytes().fold(0x811c_9dc5, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_definition() {
        assert_eq!(
            [fnv64(""), fnv64("a")],
            [0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c]
        );
        assert_eq!([fnv32(""), fnv32("a")], [0x811c_9dc5, 0xe40c_292c]);
    }
}
