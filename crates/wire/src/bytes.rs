//! Numbers in network order at an offset.

#[inline]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[inline]
pub(crate) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Writes words from the start of `bytes` on.
#[inline]
pub(crate) fn put_words<const N: usize>(bytes: &mut [u8], words: [u32; N]) {
    let (places, _) = bytes.as_chunks_mut();
    for (place, word) in places[..N].iter_mut().zip(words) {
        *place = word.to_be_bytes();
    }
}
