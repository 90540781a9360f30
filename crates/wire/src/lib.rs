//! Reads and edits packet bytes: frames, parsed headers, flow keys, checksum deltas.
//!
//! Pure: no clock, no randomness, no I/O. Nothing here trusts a length that came from the wire.

mod addr;
mod frame;
mod key;

pub use addr::{Addr, Family, Mac};
pub use frame::{Frame, NoRoom};
pub use key::{FlowKey, Protocol};
