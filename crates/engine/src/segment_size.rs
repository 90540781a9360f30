//! How long the segments of a TCP flow may be (RFC 9293, 3.7.1): what SYNs offer, and what is made of it.
//!
//! Pods with large devices hand over large segments whoever the peer is: a SYN that comes from the wire offers them
//! what their device takes, and the flow keeps what it offered. What leaves is cut to that.

use podway_state::{Hit, Tracked};
use podway_tables::{Hop, Snapshot};
use podway_wire::{Parsed, Protocol, TCP_SYN, mss};

use crate::Packet;
use crate::decide::Arrival;
use crate::emit::Egress;
use crate::engine::Moment;
use crate::flow::Flows;
use crate::track::{Heading, Track};

/// Offers below this are left alone: they are so rare that large segments for such peers would only be cut to crumbs.
const LEAST_RAISED: u16 = 536;

/// True of a pod or the node's own processes if their device takes larger packets than the wire, so that offers to them
/// are raised.
pub(crate) fn is_large(snapshot: &Snapshot, hop: Hop) -> bool {
    match hop {
        Hop::Endpoint(id) => {
            let endpoint = snapshot.endpoint(id);
            endpoint.is_some_and(|endpoint| endpoint.mtu > snapshot.node.uplink_mtu)
        }
        Hop::Host => snapshot.node.host_mtu > snapshot.node.uplink_mtu,
        Hop::Peer(_) | Hop::World(_) | Hop::Gateway | Hop::Unallocated => false,
    }
}

/// The longest IP packet of its flow that a segment on its way to the wire may be.
pub(crate) fn longest(
    snapshot: &Snapshot,
    hit: Option<&Hit>,
    parsed: &Parsed,
    arrival: Arrival,
) -> u32 {
    let default = mss::default(parsed.family);
    let size = match hit {
        Some(hit) => {
            let track = Track(hit.tracking);
            let size = track.segment_size(Heading::of(hit.direction));
            match track.is_midstream() {
                true => Some(size.unwrap_or(0).max(default)),
                false => size,
            }
        }
        None => begins_midstream(parsed, is_large(snapshot, arrival.hop())).then_some(default),
    };
    size.map_or(u32::MAX, |size| {
        u32::from(size) + u32::from(mss::headers(parsed.family))
    })
}

/// True of a flow whose first segment that we see is no SYN, and one of whose ends is large.
pub(crate) fn begins_midstream(parsed: &Parsed, is_large: bool) -> bool {
    is_large && parsed.key.protocol == Protocol::TCP && parsed.tcp_flags & TCP_SYN == 0
}

/// Makes a SYN that goes to the wire offer what the way back takes, and one that comes from there what the pod's device
/// takes.
#[cold]
pub(crate) fn offer(
    flows: &Flows,
    moment: Moment<'_>,
    packet: &mut Packet<'_>,
    (parsed, arrival): (&Parsed, Arrival),
    egress: &Egress<'_>,
) {
    let bytes = packet.frame.bytes_mut();
    let Some(offered) = mss::offered(bytes, parsed) else {
        return;
    };
    let headers = u32::from(mss::headers(parsed.family));
    let fits = egress.mtu().saturating_sub(headers).min(u16::MAX.into()) as u16;
    if egress.leads_out() {
        if offered > fits {
            mss::offer(bytes, parsed, fits);
        }
        return;
    }
    let from_wire = match arrival {
        Arrival::Peer(_) | Arrival::World => true,
        Arrival::Endpoint(_) | Arrival::Host => false,
    };
    if from_wire
        && is_large(moment.snapshot, egress.hop())
        && (LEAST_RAISED..fits).contains(&offered)
    {
        mss::offer(bytes, parsed, fits);
        flows.takes(parsed, offered);
    }
}

impl Flows {
    /// Notes the longest segment that the sender of a SYN takes; the first offer in a flow's life counts.
    fn takes(&self, parsed: &Parsed, size: u16) {
        const TRIES: usize = 8;
        for _ in 0..TRIES {
            let Some(hit) = self.find(&parsed.key, self.hash(&parsed.key)) else {
                return;
            };
            let track = Track(hit.tracking);
            let back = Heading::of(hit.direction).reverse();
            if track.segment_size(back).is_some() {
                return;
            }
            let known = track.with_segment_size(back, size);
            match self.table().track(hit.flow, track.0, known.0) {
                Tracked::Done | Tracked::Gone => return,
                Tracked::Changed(_) => {}
            }
        }
    }
}

/// What is known of a flow whose SYN was not seen after one more packet: its sender takes what it sends.
#[cold]
pub(crate) fn shown(track: Track, heading: Heading, parsed: &Parsed) -> Track {
    let size = parsed
        .length
        .saturating_sub(u32::from(mss::headers(parsed.family)))
        .min(u16::MAX.into()) as u16;
    let back = heading.reverse();
    match track.segment_size(back) {
        Some(known) if known >= size => track,
        Some(_) | None => track.with_segment_size(back, size),
    }
}
