//! Reads and edits packet bytes: frames, parsed headers, flow keys, checksum deltas.
//!
//! Pure: no clock, no randomness, no I/O. Nothing here trusts a length that came from the wire.

mod addr;
mod bytes;
pub mod checksum;
pub mod cut;
pub mod edit;
mod embedded;
pub mod fragment;
mod frame;
pub mod icmp;
pub mod join;
mod key;
pub mod mss;
pub mod neighbour;
mod parse;
pub mod reset;
mod sum;
pub mod unfinished;
pub mod vxlan;

pub use addr::{Addr, Family, Mac};
pub use embedded::{Embedded, embedded};
pub use frame::{Frame, NoRoom};
pub use key::{FlowKey, Protocol};
pub use parse::{
    Carries, Content, ETHERNET, Fragment, Icmp, ParseError, Parsed, TCP_ACK, TCP_FIN, TCP_PSH,
    TCP_RST, TCP_SYN, TCP_URG, macs,
};
