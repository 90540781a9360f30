//! What the engine counts: a worker's packets by what happened to them.

use crate::DropReason;

/// Things that happen to packets and that are not drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// A packet came in.
    Received,
    /// A packet went out: forwarded, or an answer in its place.
    Transmitted,
    /// A fragment that had waited goes on.
    Made,
    /// A copy of a fragment waits for the first of its datagram.
    Waits,
    /// An answer of our own took a packet's place.
    Answered,
    /// An answer that no way leads to the target.
    Unreachable,
    /// A packet of a remembered flow.
    Hit,
    /// A packet that a decision was made for.
    Miss,
    /// A flow was remembered.
    Remembered,
    /// A remembered decision was judged again after a change.
    Judged,
    /// A packet was put into the tunnel.
    Pushed,
    /// A packet was taken out of the tunnel.
    Opened,
    /// A packet leaves in parts, which the edge counts.
    Cut,
    /// A router said that less fits a path than was known.
    PathLowered,
    /// A packet's checksum, which its sender had left to a device, was completed.
    Completed,
    /// A packet for this node's own address that answers no flow of ours went to its own stack.
    HostOwn,
}

impl Event {
    /// All of them, in the order of their counters.
    pub const ALL: &'static [Event] = &[
        Event::Received,
        Event::Transmitted,
        Event::Made,
        Event::Waits,
        Event::Answered,
        Event::Unreachable,
        Event::Hit,
        Event::Miss,
        Event::Remembered,
        Event::Judged,
        Event::Pushed,
        Event::Opened,
        Event::Cut,
        Event::PathLowered,
        Event::Completed,
        Event::HostOwn,
    ];

    /// The name that users see.
    pub fn name(self) -> &'static str {
        match self {
            Event::Received => "received",
            Event::Transmitted => "transmitted",
            Event::Made => "made",
            Event::Waits => "waits",
            Event::Answered => "answered",
            Event::Unreachable => "unreachable",
            Event::Hit => "flow-hit",
            Event::Miss => "flow-miss",
            Event::Remembered => "flow-remembered",
            Event::Judged => "flow-judged-again",
            Event::Pushed => "tunnel-pushed",
            Event::Opened => "tunnel-opened",
            Event::Cut => "cut",
            Event::PathLowered => "path-mtu-lowered",
            Event::Completed => "checksum-completed",
            Event::HostOwn => "host-own",
        }
    }
}

/// How many counters a worker has: events first, then drop reasons.
pub const COUNTERS: usize = Event::ALL.len() + DropReason::ALL.len();

/// The index of an event's counter.
#[inline]
pub fn event_index(event: Event) -> usize {
    event as usize
}

/// The index of a drop reason's counter.
#[inline]
pub fn drop_index(reason: DropReason) -> usize {
    Event::ALL.len() + reason as usize
}

/// The names of all counters, by index; drops are `drop/…`.
pub fn counter_names() -> Vec<String> {
    let events = Event::ALL.iter().map(|event| event.name().to_owned());
    events
        .chain(
            DropReason::ALL
                .iter()
                .map(|reason| format!("drop/{}", reason.name())),
        )
        .collect()
}
