//! Virtual reassembly (D3): every fragment of a datagram goes the way of its first one, whichever comes first.

use std::sync::Arc;

use podway_state::{Fragments, Later, Range, Refusal, WAITING_BYTES};
use podway_tables::{EndpointId, PeerId};
use podway_wire::{Content, Family, Fragment, ParseError, Parsed, fragment};

use crate::decide::Arrival;
use crate::{DropReason, Packet, Spares};

/// A datagram whose first fragment has come: what waited for it may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Release {
    key: [u64; 5],
    hash: u64,
    ports: u32,
}

/// What is to be done with a fragment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Placed {
    /// It is the first: it goes on, and those that waited for it follow.
    First(Release),
    /// It goes on, its key completed.
    Later,
    /// A copy of it waits.
    Waits,
}

/// Places a fragment in its datagram, and completes its key with the ports that only the first one carries.
#[cold]
pub(crate) fn place(
    table: &Arc<Fragments>,
    packet: &Packet<'_>,
    parsed: &mut Parsed,
    arrival: Arrival,
    now_ms: u32,
) -> Result<Placed, DropReason> {
    let bytes = packet.frame.bytes();
    let piece = fragment::piece(bytes, parsed).map_err(|error| match error {
        ParseError::Truncated => DropReason::Truncated,
        ParseError::Malformed
        | ParseError::NotIp
        | ParseError::VlanTag
        | ParseError::ExtensionHeaders => DropReason::Malformed,
    })?;
    let [a, b] = parsed.key.source.words();
    let [c, d] = parsed.key.target.words();
    let family = match parsed.family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    let key = [a, b, c, d, piece.datagram << 4 | family];
    // No secret: a set that is full of an attacker's fragments refuses fragments only.
    let hash = key.iter().fold(0, |hash: u64, word| {
        (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }) >> 32;
    let range = Range {
        start: piece.start,
        end: piece.end,
    };
    let refused = |refusal| match refusal {
        Refusal::Overlap => DropReason::FragmentOverlap,
        Refusal::Full => DropReason::FragmentsFull,
    };
    match parsed.fragment {
        Fragment::Whole => Ok(Placed::Later),
        Fragment::First => {
            let ports = u32::from(parsed.key.source_port) << 16 | u32::from(parsed.key.target_port);
            table
                .first(&key, hash, ports, range, now_ms)
                .map_err(refused)?;
            Ok(Placed::First(Release { key, hash, ports }))
        }
        Fragment::Later => {
            let copy = (origin_word(arrival), bytes);
            match table
                .later(&key, hash, range, copy, now_ms)
                .map_err(refused)?
            {
                Later::Known(ports) => {
                    complete(parsed, ports);
                    Ok(Placed::Later)
                }
                Later::Waits => Ok(Placed::Waits),
            }
        }
    }
}

fn complete(parsed: &mut Parsed, ports: u32) {
    parsed.key.source_port = (ports >> 16) as u16;
    parsed.key.target_port = ports as u16;
}

/// The next fragment that waited, in a frame of its own; what finds no frame now waits until time forgets it.
pub(crate) fn released<'a>(
    table: &Arc<Fragments>,
    release: &Release,
    spares: &mut Spares<'_, 'a>,
) -> Option<(Packet<'a>, Parsed, Arrival)> {
    let mut packet = spares.take()?;
    match take(table, release, &mut packet) {
        Some((parsed, arrival)) => Some((packet, parsed, arrival)),
        None => {
            spares.put(packet);
            None
        }
    }
}

fn take(
    table: &Arc<Fragments>,
    release: &Release,
    packet: &mut Packet<'_>,
) -> Option<(Parsed, Arrival)> {
    packet.frame.resize(WAITING_BYTES).ok()?;
    let bytes = packet.frame.bytes_mut();
    let (origin, length) = table.released(&release.key, release.hash, bytes)?;
    packet.frame.resize(length).ok()?;
    let Ok(Content::Ip(mut parsed)) = Parsed::frame(&packet.frame) else {
        return None;
    };
    complete(&mut parsed, release.ports);
    Some((parsed, word_origin(origin)?))
}

const ENDPOINT: u64 = 1 << 32;
const HOST: u64 = 2 << 32;
const PEER: u64 = 3 << 32;
const WORLD: u64 = 4 << 32;

fn origin_word(arrival: Arrival) -> u64 {
    match arrival {
        Arrival::Endpoint(id) => ENDPOINT | u64::from(id.0),
        Arrival::Host => HOST,
        Arrival::Peer(id) => PEER | u64::from(id.0),
        Arrival::World => WORLD,
    }
}

fn word_origin(word: u64) -> Option<Arrival> {
    let id = word as u32;
    match word & !u64::from(u32::MAX) {
        ENDPOINT => Some(Arrival::Endpoint(EndpointId(id))),
        HOST => Some(Arrival::Host),
        PEER => Some(Arrival::Peer(PeerId(id as u16))),
        WORLD => Some(Arrival::World),
        _ => None,
    }
}
