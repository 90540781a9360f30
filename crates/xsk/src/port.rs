//! A worker's end of one device: its rings, what is in them, and what came of it.

use podway_tables::PortId;

use crate::frames::{Chunk, Frames, Owner};
use crate::kernel::{CHUNK, Memory, More, Received, Rings, Sent};
use crate::ring::{CONTINUED, Descriptor};

/// Frames in the fill ring of a port that nothing comes from.
pub(crate) const IDLE_FILL: u32 = 64;
/// Frames in the fill ring of a busy port: as few as will do, because a small set of them stays in the cache.
pub(crate) const BUSY_FILL: u32 = 512;
/// Frames in the fill ring of a port that runs short although it has those: a window of TCP comes at once.
pub(crate) const BULK_FILL: u32 = 2048;
/// How long packets, or their parts, are on average that come in bulk, in bytes.
const BULK: u64 = 1024;
/// Descriptors of one packet that the kernel sends at most (its MAX_SKB_FRAGS).
pub(crate) const PARTS: u32 = 17;
/// Turns after which a stalled port is tried again.
const STALL_TURNS: u64 = 64;

/// What a port did, counted from when it was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortStatistics {
    /// The port.
    pub port: PortId,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets put into the transmit ring.
    pub tx_packets: u64,
    /// Bytes put into the transmit ring.
    pub tx_bytes: u64,
    /// How often the receive ring was looked at.
    pub polls: u64,
    /// `sendto` calls.
    pub sends: u64,
    /// Packets not sent because the transmit ring, or the memory to copy them to, had no room.
    pub ring_full: u64,
    /// Packets not sent because the device takes none such: too short, or too many chunks.
    pub unsendable: u64,
    /// Packets that were cut.
    pub cut_packets: u64,
    /// The parts that they became; as packets, they are counted as transmitted, too.
    pub cut_parts: u64,
    /// Packets made of several that came one after the other.
    pub joined_packets: u64,
    /// Those that they were made of.
    pub joined_parts: u64,
    /// Packets not sent in parts because their checksum was wrong.
    pub unsound: u64,
    /// Turns that left the fill ring short of its idle level because no frame was free.
    pub fill_empty: u64,
    /// What the kernel counted; zeroes if the device is gone.
    pub kernel: KernelStatistics,
}

/// The kernel's counters of a socket (XDP_STATISTICS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelStatistics {
    /// Packets dropped for other reasons than those below.
    pub rx_dropped: u64,
    /// Packets dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Packets dropped, or delayed, because the fill ring was empty.
    pub fill_ring_empty: u64,
    /// Descriptors in the fill ring that the kernel refused: our bug.
    pub rx_invalid: u64,
    /// Descriptors in the transmit ring that the kernel refused: our bug.
    pub tx_invalid: u64,
}

/// A packet that has been received whole, or in parts so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) first: Chunk,
    last: Chunk,
    /// Bytes in the chunks after the first.
    pub(crate) carried: usize,
}

#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) id: PortId,
    /// What its frames are booked under.
    owner: Owner,
    pub(crate) ifindex: u32,
    pub(crate) pool: usize,
    pub(crate) rings: Rings,
    /// How many chunks a packet may span.
    pub(crate) parts: u32,
    /// Frames in the fill and receive rings.
    pub(crate) filled: u32,
    /// Frames in the transmit and completion rings and between them.
    pub(crate) sending: u32,
    /// What the fill ring holds while nothing comes.
    idle: u32,
    /// What the fill ring should hold.
    target: u32,
    partial: Option<Arrival>,
    /// Turns since anything was received.
    pub(crate) quiet: u32,
    pub(crate) active: Activity,
    pub(crate) dirty: Dirty,
    /// The turn until which nothing is sent, the device being down.
    stalled_until: u64,
    pub(crate) counted: PortStatistics,
}

/// Whether a port is on the list of those that every turn looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    Idle,
    Listed,
}

/// Whether the kernel has yet to be told of descriptors in the transmit ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dirty {
    No,
    Listed,
}

impl Port {
    /// A port of a device, whose packets span so many chunks at most and whose fill ring is to hold so many frames.
    pub(crate) fn new(
        (id, ifindex): (PortId, u32),
        pool: usize,
        rings: Rings,
        (parts, idle): (u32, u32),
    ) -> Port {
        Port {
            id,
            owner: Owner::port(id),
            ifindex,
            pool,
            rings,
            parts,
            filled: 0,
            sending: 0,
            idle,
            target: idle,
            partial: None,
            quiet: 0,
            active: Activity::Idle,
            dirty: Dirty::No,
            stalled_until: 0,
            counted: PortStatistics::of(id),
        }
    }

    /// Ends the port's use, its socket staying open: what it received is dropped, what it sends is sent.
    pub(crate) fn retire(&mut self, frames: &mut Frames) {
        self.rings.transmit.publish();
        self.rings.send();
        while self.receive(frames, usize::MAX, |frames, unread| {
            frames.put_chain(unread.first)
        }) > 0
        {}
        self.forget_partial(frames);
        self.reap(frames);
        frames.pass_all(self.owner, Owner::RETIRED);
        self.owner = Owner::RETIRED;
    }

    /// A retired port's socket and rings, in use again for a port of any id.
    pub(crate) fn revive(self, id: PortId, frames: &mut Frames) -> Port {
        let owner = Owner::port(id);
        frames.pass_all(self.owner, owner);
        Port {
            id,
            owner,
            active: Activity::Idle,
            dirty: Dirty::No,
            counted: PortStatistics::of(id),
            ..self
        }
    }

    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    /// Takes up to `limit` descriptors from the receive ring and gives each packet that is complete; how many were taken.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        frames: &mut Frames,
        limit: usize,
        mut each: impl FnMut(&mut Frames, Arrival),
    ) -> usize {
        let owner = self.owner();
        let partial = &mut self.partial;
        let counted = &mut self.counted;
        let before = counted.rx_bytes;
        counted.polls += 1;
        let waited = self.rings.received();
        if waited == 0 {
            return 0;
        }
        let taken = self.rings.receive(limit, |part: Received| {
            frames.pass(part.chunk, owner, Owner::WORKER);
            frames.note(part.chunk, part.head, part.length);
            counted.rx_bytes += part.length as u64;
            let arrival = match partial.take() {
                None => Arrival {
                    first: part.chunk,
                    last: part.chunk,
                    carried: 0,
                },
                Some(begun) => {
                    frames.link(begun.last, part.chunk);
                    Arrival {
                        last: part.chunk,
                        carried: begun.carried + part.length,
                        ..begun
                    }
                }
            };
            match part.more {
                More::Follows => *partial = Some(arrival),
                More::Complete => {
                    counted.rx_packets += 1;
                    each(frames, arrival);
                }
            }
        });
        self.filled -= taken as u32;
        // It comes faster than frames are given back: more of them, before the ring runs dry.
        if waited >= self.target / 4 {
            let is_bulk = counted.rx_bytes - before >= BULK * taken as u64;
            let most = if is_bulk {
                BULK_FILL
            } else {
                BUSY_FILL.max(self.idle)
            };
            self.target = (self.target * 2).min(most);
        }
        taken
    }

    /// Brings the fill ring to its level; beyond the idle level only while frames abound.
    #[inline]
    pub(crate) fn refill(&mut self, memory: &Memory, frames: &mut Frames) {
        let reserve = frames.total() / 4;
        let base = self.idle.saturating_sub(self.filled);
        let extra = self
            .target
            .saturating_sub(self.filled.max(self.idle))
            .min(frames.free().saturating_sub(reserve + base));
        let wanted = base + extra;
        if wanted == 0 {
            return;
        }
        let owner = self.owner();
        let given = self.rings.refill(memory, wanted, || frames.take(owner));
        self.filled += given;
        if given < base {
            self.counted.fill_empty += 1;
        }
        self.rings.wake_receiver();
    }

    /// Puts a packet of the worker's, whose bytes in the first chunk are `head..tail`, into the transmit ring; it fits.
    #[inline]
    pub(crate) fn put(&mut self, frames: &mut Frames, chunk: Chunk, span: (usize, usize)) {
        let (head, tail) = span;
        let mut at = Some(chunk);
        let mut place = (head, tail - head);
        while let Some(part) = at {
            at = frames.next(part);
            let (head, length) = place;
            self.rings.transmit.write(Descriptor {
                address: (part as usize * CHUNK + head) as u64,
                length: length as u32,
                options: at.map_or(0, |_| CONTINUED),
            });
            frames.pass(part, Owner::WORKER, self.owner);
            self.sending += 1;
            self.counted.tx_bytes += length as u64;
            if let Some(next) = at {
                place = frames.part(next);
            }
        }
        self.counted.tx_packets += 1;
    }

    /// Takes back what the kernel has sent.
    #[inline]
    pub(crate) fn reap(&mut self, frames: &mut Frames) {
        let owner = self.owner();
        while self.sending > 0 {
            let completed = self.rings.complete(|chunk| frames.put(chunk, owner));
            self.sending -= completed as u32;
            if completed == 0 {
                break;
            }
        }
    }

    /// Shows the kernel what was written and has it sent, unless the device is down.
    #[inline]
    pub(crate) fn send(&mut self, turn: u64) {
        self.rings.transmit.publish();
        if !self.is_stalled(turn) && self.rings.transmit.needs_wakeup() {
            self.counted.sends += 1;
            if self.rings.send() == Sent::Stalled {
                self.stalled_until = turn + STALL_TURNS;
            }
        }
    }

    /// True while the device takes nothing.
    #[inline]
    pub(crate) fn is_stalled(&self, turn: u64) -> bool {
        turn < self.stalled_until
    }

    /// Lets the fill ring run down to the idle level.
    pub(crate) fn rest(&mut self) {
        self.target = self.idle;
    }

    /// Frees the parts of a packet whose end has not come.
    pub(crate) fn forget_partial(&mut self, frames: &mut Frames) {
        if let Some(begun) = self.partial.take() {
            frames.put_chain(begun.first);
        }
    }

    pub(crate) fn statistics(&self) -> PortStatistics {
        let kernel = self
            .rings
            .statistics()
            .map(|kernel| KernelStatistics {
                rx_dropped: kernel.rx_dropped(),
                rx_ring_full: kernel.rx_ring_full(),
                fill_ring_empty: kernel.rx_fill_ring_empty_descs(),
                rx_invalid: kernel.rx_invalid_descs(),
                tx_invalid: kernel.tx_invalid_descs(),
            })
            .unwrap_or_default();
        PortStatistics {
            kernel,
            ..self.counted
        }
    }
}

impl PortStatistics {
    /// All zeroes.
    fn of(port: PortId) -> PortStatistics {
        PortStatistics {
            port,
            rx_packets: 0,
            rx_bytes: 0,
            tx_packets: 0,
            tx_bytes: 0,
            polls: 0,
            sends: 0,
            ring_full: 0,
            unsendable: 0,
            cut_packets: 0,
            cut_parts: 0,
            joined_packets: 0,
            joined_parts: 0,
            unsound: 0,
            fill_empty: 0,
            kernel: KernelStatistics::default(),
        }
    }
}
