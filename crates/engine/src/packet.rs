//! What passes between an edge and the engine: a batch of packets and what becomes of each.

use arrayvec::ArrayVec;
use podway_tables::PortId;
use podway_wire::cut::Cut;
use podway_wire::{Frame, macs};

use crate::{DropReason, LastHop};

/// How many packets a batch holds at most.
pub const BATCH: usize = 64;
/// How many fragments that waited a batch can set free.
pub const MADE: usize = 64;

/// A packet on its way through a batch: the edge sets `ingress`, the engine sets `verdict`.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The bytes.
    pub frame: Frame<'a>,
    /// The port it came in by.
    pub ingress: PortId,
    /// What the edge does with the frame after the batch.
    pub verdict: Verdict,
    /// In how many pieces it is sent.
    pub parts: Parts,
}

/// In how many pieces a packet is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// In one, as it is.
    Whole,
    /// With the segments right behind it, if they continue it and the packet has `longest` bytes at most.
    Joined {
        /// The largest IP packet that is taken where it goes, in bytes.
        longest: u32,
    },
    /// Cut, as a NIC would: every part with headers of its own, one right after the other.
    Cut(Cut),
}

impl<'a> Packet<'a> {
    /// Who handed it to us on the wire.
    pub(crate) fn last_hop(&self) -> Option<LastHop> {
        let (_, mac) = macs(self.frame.bytes())?;
        let port = self.ingress;
        Some(LastHop { port, mac })
    }

    /// A packet that has come in; nothing is decided about it.
    pub fn received(frame: Frame<'a>, ingress: PortId) -> Packet<'a> {
        Packet {
            frame,
            ingress,
            verdict: Verdict::Drop(DropReason::UnknownPort),
            parts: Parts::Whole,
        }
    }
}

/// What the edge does with a frame after the engine had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it, as it now is, out of this port.
    Transmit(PortId),
    /// Take the frame back; the reason is counted by the engine already.
    Drop(DropReason),
    /// Take the frame back: the engine has a copy that waits for the rest of its datagram, or for its neighbour.
    Waits,
}

/// Packets that came in together, and room for those that are made of them.
pub struct Batch<'s, 'a> {
    /// What came in, [`BATCH`] at most.
    pub packets: &'s mut [Packet<'a>],
    /// What was made.
    pub spares: Spares<'s, 'a>,
}

/// Frames for packets that did not come in: what waited, copies.
pub struct Spares<'s, 'a> {
    made: ArrayVec<Packet<'a>, MADE>,
    /// Packets that were taken and not put back yet.
    taken: usize,
    spare: &'s mut dyn FnMut() -> Option<Frame<'a>>,
}

impl<'s, 'a> Batch<'s, 'a> {
    /// A batch; `spare` gives an empty frame with headroom, if there is one, and gets it back among the made packets.
    pub fn new(
        packets: &'s mut [Packet<'a>],
        spare: &'s mut dyn FnMut() -> Option<Frame<'a>>,
    ) -> Batch<'s, 'a> {
        let spares = Spares {
            made: ArrayVec::new(),
            taken: 0,
            spare,
        };
        Batch { packets, spares }
    }

    /// The packets that were made, with their verdicts; they are sent after those that came in.
    pub fn into_made(self) -> ArrayVec<Packet<'a>, MADE> {
        self.spares.made
    }
}

impl<'a> Spares<'_, 'a> {
    /// An empty packet, if there is room for it; it has to be [put](Spares::put) among the made ones, used or not.
    pub fn take(&mut self) -> Option<Packet<'a>> {
        if self.made.remaining_capacity() <= self.taken {
            return None;
        }
        let frame = (self.spare)()?;
        self.taken += 1;
        Some(Packet {
            verdict: Verdict::Drop(DropReason::NoFrame),
            ..Packet::received(frame, PortId(u16::MAX))
        })
    }

    /// Puts a packet among the made ones.
    pub fn put(&mut self, packet: Packet<'a>) {
        self.taken -= 1;
        self.made.push(packet);
    }
}
