//! A packet memory with its frames, and the socket that it hangs on.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::PortError;
use crate::frames::{Chunk, Frames, Owner};
use crate::kernel::{Bound, CHUNK, During, Memory};
use crate::port::Port;

/// Tells packet memories apart, those that are gone too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolId(u64);

/// One packet memory, shared by the ports that are bound to it.
///
/// The kernel ties a shared memory to the socket that was bound first, and xsk-rs keeps that one open for as long
/// as there are others. So when its port is removed, the socket stays here, retired, until all are gone.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) id: PoolId,
    pub(crate) memory: Memory,
    pub(crate) frames: Frames,
    pub(crate) bound: Bound,
    /// The ports that are bound, the retired one not counted.
    pub(crate) ports: u32,
    /// The device of the first socket.
    pub(crate) anchor: u32,
    pub(crate) retired: Option<Port>,
}

impl Pool {
    /// A new memory of `frames` chunks, for sockets that are bound like the first one, of the device `anchor`.
    pub(crate) fn new(frames: u32, anchor: u32, bound: Bound) -> Result<Pool, PortError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(Pool {
            id: PoolId(NEXT.fetch_add(1, Ordering::Relaxed)),
            memory: Memory::new(frames)?,
            frames: Frames::new(frames),
            bound,
            ports: 0,
            anchor,
            retired: None,
        })
    }

    /// Copies a packet of `from` that starts at `first`, whose bytes there are `head..tail`; `None` if there is no room.
    pub(crate) fn copy_from(
        &mut self,
        from: &Frames,
        source: &Memory,
        first: Chunk,
        span: (usize, usize),
        turn: During<'_>,
    ) -> Option<Chunk> {
        if self.frames.free() < from.chain_length(first) {
            return None;
        }
        let (head, tail) = span;
        let copied = self.copy_part(source, first, (head, tail - head), turn)?;
        let mut last = copied;
        let mut at = from.next(first);
        while let Some(chunk) = at {
            let part = self.copy_part(source, chunk, from.part(chunk), turn)?;
            self.frames.link(last, part);
            last = part;
            at = from.next(chunk);
        }
        Some(copied)
    }

    fn copy_part(
        &mut self,
        source: &Memory,
        chunk: Chunk,
        (head, length): (usize, usize),
        turn: During<'_>,
    ) -> Option<Chunk> {
        let copy = self.frames.take(Owner::WORKER)?;
        debug_assert!(head + length <= CHUNK);
        // SAFETY: the worker has both chunks, of different memories; the packet's frame, which refers to the one, is
        // not looked at any more.
        let (into, bytes) = unsafe { (self.memory.chunk(copy, turn), source.chunk(chunk, turn)) };
        into[head..head + length].copy_from_slice(&bytes[head..head + length]);
        self.frames.note(copy, head, length);
        Some(copy)
    }
}
