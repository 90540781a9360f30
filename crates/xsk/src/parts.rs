//! Cutting packets as they are sent: every part in frames of its own, all of them in the ring, or none.

use arrayvec::ArrayVec;
use podway_tables::PortId;
use podway_wire::cut::{Cut, Cutting, Part};

use crate::edge::{HEADROOM, WorkerEdge};
use crate::frames::{Chunk, Frames, Owner};
use crate::kernel::{CHUNK, During};
use crate::pool::Pool;
use crate::port::Port;

/// Chunks that a packet spans at most: 65 535 bytes and some headers, the first chunk with room before them.
const PIECES: usize = 20;
/// Parts that a packet is cut into at most: 65 535 bytes in segments of 536.
const PARTS: usize = 128;

/// Why a packet was not sent in parts.
enum Unsent {
    /// It is not as its cut says, or there would be more parts than a packet may have.
    Uncut,
    /// Its checksum is wrong, and parts with right ones would hide that.
    Unsound,
    /// The ring or the frames ran short, and the kernel took nothing.
    Full,
}

impl WorkerEdge {
    /// Puts the parts of a packet, whose bytes in its first chunk are `head`, into a port's transmit ring, or none of
    /// them; the packet's own frames come back.
    #[cold]
    pub(crate) fn transmit_parts(
        &mut self,
        target: PortId,
        from: usize,
        (chunk, head): (Chunk, &[u8]),
        cut: Cut,
        turn: During<'_>,
    ) {
        let source = &self.pools[from];
        let mut pieces: ArrayVec<&[u8], PIECES> = ArrayVec::new();
        pieces.push(head);
        let mut at = source.frames.next(chunk);
        while let Some(part) = at
            && !pieces.is_full()
        {
            let (head, length) = source.frames.part(part);
            // SAFETY: the worker has the packet's chunks until they are put back below, and a batch refers to the
            // first of them only.
            let bytes = unsafe { source.memory.chunk(part, turn) };
            pieces.push(&bytes[head..head + length]);
            at = source.frames.next(part);
        }
        let sent = self.cut_into(target, &pieces, cut, turn);
        let counted = &mut self.ports[usize::from(target.0)].counted;
        match sent {
            Ok(parts) => {
                counted.cut_packets += 1;
                counted.cut_parts += parts as u64;
            }
            Err(Unsent::Uncut) => counted.unsendable += 1,
            Err(Unsent::Unsound) => counted.unsound += 1,
            Err(Unsent::Full) => counted.ring_full += 1,
        }
        self.pools[from].frames.put_chain(chunk);
    }

    fn cut_into(
        &mut self,
        target: PortId,
        pieces: &[&[u8]],
        cut: Cut,
        turn: During<'_>,
    ) -> Result<usize, Unsent> {
        let mut cutting = Cutting::new(pieces, cut).ok_or(Unsent::Uncut)?;
        let count = cutting.count();
        let chunks = chunks_of(cutting.longest());
        let port = &mut self.ports[usize::from(target.0)];
        let pool = &mut self.pools[port.pool];
        if count > PARTS || chunks > port.parts {
            return Err(Unsent::Uncut);
        }
        if port.is_stalled(self.turn) {
            return Err(Unsent::Full);
        }
        let needed = count as u32 * chunks;
        if !has_room(port, &pool.frames, needed) {
            // What waits in the ring gives way, unless the device takes nothing.
            port.send(self.turn);
            port.reap(&mut pool.frames);
            if !has_room(port, &pool.frames, needed) {
                return Err(Unsent::Full);
            }
        }
        let mut parts: ArrayVec<Chunk, PARTS> = ArrayVec::new();
        while let Some(part) = cutting.next_part() {
            parts.push(write(&mut cutting, part, pool, turn));
        }
        if !cutting.is_sound() {
            for part in parts {
                pool.frames.put_chain(part);
            }
            return Err(Unsent::Unsound);
        }
        for part in parts {
            let (head, length) = pool.frames.part(part);
            port.put(&mut pool.frames, part, (head, head + length));
        }
        self.note_sending(target);
        Ok(count)
    }
}

fn has_room(port: &mut Port, frames: &Frames, needed: u32) -> bool {
    port.rings.transmit.fits(needed) && frames.free() >= needed
}

/// How many chunks a part of this length takes.
fn chunks_of(length: usize) -> u32 {
    length.div_ceil(CHUNK - HEADROOM) as u32
}

/// Writes one part into free frames, of which there are enough; the first of them.
fn write(cutting: &mut Cutting<'_>, mut part: Part, pool: &mut Pool, turn: During<'_>) -> Chunk {
    let Pool { memory, frames, .. } = pool;
    let headers = cutting.headers();
    let mut take = || {
        let chunk = frames.take(Owner::WORKER).expect("there are enough");
        // SAFETY: the worker has just taken the chunk, and nobody else refers to it.
        (chunk, unsafe { memory.chunk(chunk, turn) })
    };
    let (first, bytes) = take();
    let payload = cutting.copy(&mut part, &mut bytes[HEADROOM + headers..]);
    let mut rest: ArrayVec<(Chunk, usize), PIECES> = ArrayVec::new();
    let mut copied = payload;
    while copied < part.payload() {
        let (chunk, bytes) = take();
        let length = cutting.copy(&mut part, &mut bytes[HEADROOM..]);
        rest.push((chunk, length));
        copied += length;
    }
    cutting.write_headers(&part, &mut bytes[HEADROOM..]);
    frames.note(first, HEADROOM, headers + payload);
    let mut last = first;
    for (chunk, length) in rest {
        frames.note(chunk, HEADROOM, length);
        frames.link(last, chunk);
        last = chunk;
    }
    first
}
