//! The only state that two threads touch: the flow table, path MTUs, the publication of snapshots, counters.
//!
//! No I/O, no clock, no randomness: times and seeds are arguments. Keys and decisions are opaque words, so that this
//! crate knows nothing of packets. Everything shared is an atomic or behind a lock, and the models in `tests/loom.rs`
//! run the same code through every interleaving that matters.

mod counters;
mod flows;
mod fragments;
mod hash;
mod index;
mod owners;
mod partition;
mod path_mtus;
mod prefetch;
mod publication;
mod slot;
mod slots;
mod sync;

pub use counters::{Counters, Row};
pub use flows::{Flow, FlowTable, Gone, Handle, Hit, NewFlow, Refused, Share, Tracked};
#[cfg(not(loom))]
pub use flows::{Foreign, Resumed};
pub use fragments::{Fragments, Later, Range, Refusal, WAITING_BYTES};
pub use hash::spread;
pub use path_mtus::{PathMtu, PathMtus, Target};
pub use publication::{Publication, Reader};
pub use slot::{Decision, Direction, INHERITED, Key, Phase};
