//! The express lane's table: what the engine decided about established flows, written out for programs in the kernel.
//!
//! A slot can only forward, and only a packet whose key it has, exactly; whatever finds no slot is the engine's. One
//! owner, the [`Keeper`], writes slots and takes them back; anyone may revoke. No I/O, no clock, no randomness, and
//! keys are opaque words: the memory is lent by whoever mapped it, times and secrets are arguments. [`Lane::lookup`]
//! is what the programs do, step by step, so that models and tests can try it against every writer.

mod forward;
mod generations;
mod hash;
mod keeper;
mod lane;
mod memory;
mod place;
mod slot;
mod sync;

pub use forward::{Act, Acts, FORWARD_WORDS, Forward};
pub use generations::{Generation, Mark, WATCHED};
pub use hash::{SECRETS, Secret};
pub use keeper::{Fate, Keeper, Limits, Pair, Refused, Report};
pub use lane::{Lane, Ride};
pub use memory::{Memory, Shape};
pub use slot::{Entry, KEY_WORDS, Key, Ticket};
