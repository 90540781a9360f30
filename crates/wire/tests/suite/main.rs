//! Packets in, packets out, with etherparse as the second opinion.

mod cutting;
mod errors;
mod joining;
mod neighbours;
mod packets;
mod parsing;
mod replies;
mod translation;
