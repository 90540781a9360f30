//! Packets in, packets out, with etherparse as the second opinion.

mod errors;
mod packets;
mod translation;
