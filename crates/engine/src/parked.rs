//! Packets for neighbours that the kernel is asked to resolve: a few wait for that, as they do in a host's own stack.

use std::collections::VecDeque;

use podway_tables::PortId;
use podway_wire::Frame;

use crate::Packet;

/// How many packets wait at most, and how many of one port: no pod has room for all others'.
const PARKED: usize = 64;
const OF_A_PORT: usize = 8;
/// How long a packet is at most, in bytes.
const BYTES: usize = 2_048;
/// How long one waits: the kernel asks three times, once a second.
const PATIENCE_MS: u32 = 3_000;

/// Copies of packets that wait.
pub(crate) struct Parked {
    /// In the order in which they came.
    waiting: VecDeque<Held>,
    free: Vec<Held>,
    /// The generation of the world that they were last tried with.
    tried: u32,
    /// When the one came that is being tried.
    trying_since_ms: Option<u32>,
}

/// A copy of a packet, as it came in.
struct Held {
    bytes: Box<[u8; BYTES]>,
    length: usize,
    ingress: PortId,
    since_ms: u32,
}

/// Whether a packet may go on waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It may.
    Left,
    /// Nobody answered in time.
    Over,
}

impl Parked {
    pub(crate) fn new() -> Parked {
        let empty = || Held {
            bytes: Box::new([0; BYTES]),
            length: 0,
            ingress: PortId(0),
            since_ms: 0,
        };
        Parked {
            waiting: VecDeque::with_capacity(PARKED),
            free: (0..PARKED).map(|_| empty()).collect(),
            tried: 0,
            trying_since_ms: None,
        }
    }

    /// True if nothing waits.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the packet that is looked at may wait: one that is being tried again waits from when it came.
    pub(crate) fn patience(&self, now_ms: u32) -> Patience {
        patience(self.trying_since_ms.unwrap_or(now_ms), now_ms)
    }

    /// Copies a packet that can't go yet, if there is room for it; true if there was.
    #[cold]
    pub(crate) fn take(&mut self, packet: &Packet<'_>, now_ms: u32, generation: u32) -> bool {
        let bytes = packet.frame.bytes();
        let of_port = self.waiting.iter();
        let of_port = of_port.filter(|it| it.ingress == packet.ingress).count();
        let fits = packet.frame.carried() == 0 && bytes.len() <= BYTES && of_port < OF_A_PORT;
        let Some(mut held) = fits.then(|| self.free.pop()).flatten() else {
            return false;
        };
        if self.waiting.is_empty() {
            self.tried = generation;
        }
        held.bytes[..bytes.len()].copy_from_slice(bytes);
        held.length = bytes.len();
        held.ingress = packet.ingress;
        held.since_ms = self.trying_since_ms.unwrap_or(now_ms);
        self.waiting.push_back(held);
        true
    }

    /// How many are to be tried now: all once a route or neighbour is another, those that waited for too long at any time.
    #[cold]
    pub(crate) fn due(&mut self, generation: u32, now_ms: u32) -> usize {
        if std::mem::replace(&mut self.tried, generation) != generation {
            return self.waiting.len();
        }
        let is_over = |held: &&Held| patience(held.since_ms, now_ms) == Patience::Over;
        self.waiting.iter().take_while(is_over).count()
    }

    /// Has all tried with the next batch: there was no frame for one.
    pub(crate) fn postpone(&mut self) {
        self.tried = self.tried.wrapping_sub(1);
    }

    /// Puts the one that has waited longest into an empty packet, to be tried until [`Parked::settle`].
    #[cold]
    pub(crate) fn next(&mut self, packet: &mut Packet<'_>) -> Option<()> {
        let held = self.waiting.pop_front()?;
        let filled = fill(&mut packet.frame, &held).then_some(());
        packet.ingress = held.ingress;
        self.trying_since_ms = Some(held.since_ms);
        self.free.push(held);
        filled
    }

    /// The one that was tried has gone, or waits again.
    pub(crate) fn settle(&mut self) {
        self.trying_since_ms = None;
    }
}

fn fill(frame: &mut Frame<'_>, held: &Held) -> bool {
    let fits = frame.resize(held.length).is_ok();
    if fits {
        frame
            .bytes_mut()
            .copy_from_slice(&held.bytes[..held.length]);
    }
    fits
}

fn patience(since_ms: u32, now_ms: u32) -> Patience {
    match now_ms.wrapping_sub(since_ms) < PATIENCE_MS {
        true => Patience::Left,
        false => Patience::Over,
    }
}
