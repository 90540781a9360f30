//! What passes between an edge and the engine: a batch of packets and what becomes of each.

use podway_tables::PortId;
use podway_wire::Frame;

use crate::DropReason;

/// How many packets a batch holds at most.
pub const BATCH: usize = 64;

/// A packet on its way through a batch: the edge sets `ingress`, the engine sets `verdict`.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The bytes.
    pub frame: Frame<'a>,
    /// The port it came in by.
    pub ingress: PortId,
    /// What the edge does with the frame after the batch.
    pub verdict: Verdict,
}

/// What the edge does with a frame after the engine had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it, as it now is, out of this port.
    Transmit(PortId),
    /// Take the frame back; the reason is counted by the engine already.
    Drop(DropReason),
}

/// A source and sink of batches: the kernel's rings, or memory in tests and in the simulator.
pub trait Edge {
    /// Receives one batch from every port that has packets, has `process` decide on it, and carries the verdicts out.
    ///
    /// Returns how many packets came in, 0 when there was nothing to do. A batch is at most [`BATCH`] packets.
    fn turn(&mut self, process: &mut dyn FnMut(&mut [Packet<'_>])) -> usize;
}
