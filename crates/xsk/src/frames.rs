//! Who has which frame of a packet memory: every frame has one owner at any time, and none is lost.

use std::num::NonZeroU32;

use podway_tables::PortId;

/// A frame, by its place in the packet memory.
pub(crate) type Chunk = u32;

/// Who has a frame: a port (its fill, receive or transmit ring or the kernel behind them), or one of the below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(u32);

impl Owner {
    /// On the free list.
    pub(crate) const FREE: Owner = Owner(u32::MAX);
    /// In the batch being processed, or a packet of which parts are still to come.
    pub(crate) const WORKER: Owner = Owner(u32::MAX - 1);
    /// In the rings of a port that was removed, but whose socket must stay.
    pub(crate) const RETIRED: Owner = Owner(u32::MAX - 2);

    /// In the rings of a port.
    pub(crate) const fn port(port: PortId) -> Owner {
        Owner(port.0 as u32)
    }

    /// In the rings of a socket that is being closed; `ticket` tells several apart.
    pub(crate) const fn closing(ticket: u32) -> Owner {
        Owner(1 << 16 | (ticket & 0xffff))
    }
}

/// A part of a packet in a chunk of its own, and where the next part is.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    head: u16,
    length: u16,
    next: Option<NonZeroU32>,
}

/// The frames of one packet memory.
#[derive(Debug)]
pub(crate) struct Frames {
    /// Last in, first out: the frame that is warmest in the cache comes next.
    free: Vec<Chunk>,
    owners: Vec<Owner>,
    parts: Vec<Part>,
}

impl Frames {
    /// `count` frames, all free.
    pub(crate) fn new(count: u32) -> Frames {
        Frames {
            free: (0..count).rev().collect(),
            owners: vec![Owner::FREE; count as usize],
            parts: vec![Part::default(); count as usize],
        }
    }

    /// How many there are.
    pub(crate) fn total(&self) -> u32 {
        self.owners.len() as u32
    }

    /// How many are free.
    #[inline]
    pub(crate) fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Takes a free frame for `owner`.
    #[inline]
    pub(crate) fn take(&mut self, owner: Owner) -> Option<Chunk> {
        let chunk = self.free.pop()?;
        self.owners[chunk as usize] = owner;
        self.parts[chunk as usize] = Part::default();
        Some(chunk)
    }

    /// Moves a frame from one owner to another; panics if the first does not have it.
    #[inline]
    pub(crate) fn pass(&mut self, chunk: Chunk, from: Owner, to: Owner) {
        let owner = &mut self.owners[chunk as usize];
        assert_eq!(
            *owner, from,
            "frame {chunk} is not where it was thought to be"
        );
        *owner = to;
    }

    /// Takes a frame back from `from`; panics if that does not have it.
    #[inline]
    pub(crate) fn put(&mut self, chunk: Chunk, from: Owner) {
        self.pass(chunk, from, Owner::FREE);
        self.free.push(chunk);
    }

    /// Takes a frame and all that follows it back from the worker.
    pub(crate) fn put_chain(&mut self, first: Chunk) {
        let mut at = Some(first);
        while let Some(chunk) = at {
            at = self.next(chunk);
            self.put(chunk, Owner::WORKER);
        }
    }

    /// Notes where a received part lies in its chunk, with nothing after it.
    #[inline]
    pub(crate) fn note(&mut self, chunk: Chunk, head: usize, length: usize) {
        self.parts[chunk as usize] = Part {
            head: head as u16,
            length: length as u16,
            next: None,
        };
    }

    /// Makes `next` follow `chunk`.
    pub(crate) fn link(&mut self, chunk: Chunk, next: Chunk) {
        self.parts[chunk as usize].next = NonZeroU32::new(next + 1);
    }

    /// Cuts off what follows `chunk` and takes it back.
    pub(crate) fn cut(&mut self, chunk: Chunk) {
        if let Some(rest) = self.next(chunk) {
            self.parts[chunk as usize].next = None;
            self.put_chain(rest);
        }
    }

    /// The frame that follows.
    #[inline]
    pub(crate) fn next(&self, chunk: Chunk) -> Option<Chunk> {
        self.parts[chunk as usize].next.map(|next| next.get() - 1)
    }

    /// Where the part lies in its chunk, and its length, in bytes.
    #[inline]
    pub(crate) fn part(&self, chunk: Chunk) -> (usize, usize) {
        let part = self.parts[chunk as usize];
        (usize::from(part.head), usize::from(part.length))
    }

    /// How many frames a packet has.
    #[inline]
    pub(crate) fn chain_length(&self, first: Chunk) -> u32 {
        let mut count = 1;
        let mut at = first;
        while let Some(next) = self.next(at) {
            count += 1;
            at = next;
        }
        count
    }

    /// Gives all that `from` has to `to`; the number of frames moved.
    pub(crate) fn pass_all(&mut self, from: Owner, to: Owner) -> u32 {
        let mut moved = 0;
        for (chunk, owner) in self.owners.iter_mut().enumerate() {
            if *owner == from {
                *owner = to;
                moved += 1;
                if to == Owner::FREE {
                    self.free.push(chunk as Chunk);
                }
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Owner = Owner::port(PortId(3));

    #[test]
    fn frames_are_taken_last_in_first_out_and_come_back() {
        let mut frames = Frames::new(4);
        let first = frames.take(PORT).expect("frame");
        frames.put(first, PORT);
        assert_eq!(frames.take(PORT), Some(first));
        while frames.take(PORT).is_some() {}
        assert_eq!(frames.free(), 0);
        assert_eq!(frames.pass_all(PORT, Owner::FREE), 4);
        assert_eq!((frames.free(), frames.total()), (4, 4));
    }

    #[test]
    #[should_panic(expected = "not where it was thought to be")]
    fn a_frame_comes_back_only_once() {
        let mut frames = Frames::new(2);
        let chunk = frames.take(PORT).expect("frame");
        frames.put(chunk, PORT);
        frames.put(chunk, PORT);
    }

    #[test]
    fn chains_are_walked_cut_and_taken_back() {
        let mut frames = Frames::new(8);
        let chain: Vec<_> = (0..3)
            .map(|_| frames.take(Owner::WORKER).expect("frame"))
            .collect();
        for pair in chain.windows(2) {
            frames.link(pair[0], pair[1]);
        }
        frames.note(chain[2], 256, 3840);
        assert_eq!(frames.chain_length(chain[0]), 3);
        assert_eq!(frames.part(chain[2]), (256, 3840));
        frames.cut(chain[1]);
        assert_eq!((frames.chain_length(chain[0]), frames.free()), (2, 6));
        frames.put_chain(chain[0]);
        assert_eq!(frames.free(), 8);
        let again = frames.take(Owner::WORKER).expect("frame");
        assert_eq!(frames.next(again), None, "a frame forgets what followed it");
    }
}
