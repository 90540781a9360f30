//! Carries a batch of packets from bytes to verdicts.

mod packet;
mod reason;

pub use packet::{BATCH, Edge, Packet, Verdict};
pub use reason::DropReason;
