//! A packet's bytes in place: a chunk of memory with room before them.

use std::fmt;

/// A packet inside a chunk of memory: `chunk[head..tail]`, and `carried` more bytes in chunks that follow.
///
/// Headers are pushed and pulled by moving `head`, never by moving the payload. The carried bytes are
/// the tail of a packet that spans chunks: they are counted in its length, and nobody reads or edits them.
pub struct Frame<'a> {
    chunk: &'a mut [u8],
    head: usize,
    tail: usize,
    carried: usize,
}

/// There is no room for the header in front of the packet, or the packet is shorter than the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl<'a> Frame<'a> {
    /// The packet at `chunk[head..tail]`; `None` if that is not inside the chunk.
    #[inline]
    pub fn new(chunk: &'a mut [u8], head: usize, tail: usize, carried: usize) -> Option<Frame<'a>> {
        (head <= tail && tail <= chunk.len()).then_some(Frame {
            chunk,
            head,
            tail,
            carried,
        })
    }

    /// The bytes in this chunk.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.chunk[self.head..self.tail]
    }

    /// The bytes in this chunk, to edit.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.chunk[self.head..self.tail]
    }

    /// The packet's length in bytes, carried ones included.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.tail - self.head + self.carried
    }

    /// How many bytes of the packet are in following chunks.
    #[inline]
    pub fn carried(&self) -> usize {
        self.carried
    }

    /// Where the packet starts in the chunk.
    #[inline]
    pub fn head(&self) -> usize {
        self.head
    }

    /// Where the packet ends in the chunk.
    #[inline]
    pub fn tail(&self) -> usize {
        self.tail
    }

    /// Puts `count` bytes in front of the packet and gives the packet from there on; their content is what lay there.
    #[inline]
    pub fn push(&mut self, count: usize) -> Result<&mut [u8], NoRoom> {
        self.head = self.head.checked_sub(count).ok_or(NoRoom)?;
        Ok(self.bytes_mut())
    }

    /// Takes `count` bytes off the front.
    #[inline]
    pub fn pull(&mut self, count: usize) -> Result<(), NoRoom> {
        if self.tail - self.head < count {
            return Err(NoRoom);
        }
        self.head += count;
        Ok(())
    }

    /// Counts so many more bytes that follow in other chunks.
    #[inline]
    pub fn carry(&mut self, count: usize) {
        self.carried += count;
    }

    /// Shortens or lengthens the packet to `length` bytes in this chunk and drops what was carried.
    #[inline]
    pub fn resize(&mut self, length: usize) -> Result<(), NoRoom> {
        if self.head + length > self.chunk.len() {
            return Err(NoRoom);
        }
        self.tail = self.head + length;
        self.carried = 0;
        Ok(())
    }
}

impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Frame({}..{} of {}, {} carried)",
            self.head,
            self.tail,
            self.chunk.len(),
            self.carried
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_and_pull_stay_inside_the_chunk() {
        let mut memory = [0u8; 64];
        let mut frame = Frame::new(&mut memory, 16, 40, 100).expect("frame");
        assert_eq!(frame.len(), 124);
        assert_eq!(frame.push(17), Err(NoRoom));
        assert_eq!(frame.push(16).map(|bytes| bytes.len()), Ok(40));
        assert_eq!(frame.pull(41), Err(NoRoom));
        assert_eq!(frame.pull(40), Ok(()));
        assert_eq!(frame.len(), 100);
        assert!(Frame::new(&mut [0; 4], 3, 2, 0).is_none());
        assert!(Frame::new(&mut [0; 4], 0, 5, 0).is_none());
    }
}
