//! Packets in, packets out, with etherparse as the second opinion.

mod packets;
mod translation;
