//! Carrying verdicts out: packets are put into the rings of the ports that they leave by, or their frames come back.

use podway_engine::{Packet, Parts, Verdict};
use podway_tables::PortId;

use crate::edge::WorkerEdge;
use crate::frames::Chunk;
use crate::kernel::During;
use crate::port::{Activity, Dirty};

/// Turns without a packet after which a port leaves the list.
const QUIET_TURNS: u32 = 1024;
/// The shortest packet that is sent: an Ethernet header.
const SHORTEST: usize = 14;

impl WorkerEdge {
    /// The packet memory that a packet of the batch lies in, and its first chunk there.
    #[inline]
    pub(crate) fn chunk_of(&self, packet: &Packet<'_>) -> (usize, Chunk) {
        let start = packet
            .frame
            .bytes()
            .as_ptr()
            .wrapping_sub(packet.frame.head());
        let mut pools = self.pools.numbered();
        pools
            .find_map(|(place, pool)| Some((place, pool.memory.chunk_at(start)?)))
            .expect("packets of a batch stay where they were received")
    }

    /// Sends or takes back every packet, in order; those that belong together leave as one.
    pub(crate) fn carry_out_all(&mut self, packets: &mut [Packet<'_>], turn: During<'_>) {
        let mut at = 0;
        while at < packets.len() {
            let count = match packets[at].parts {
                Parts::Joined { longest } => self.join(&mut packets[at..], longest as usize),
                Parts::Whole | Parts::Cut(_) => 1,
            };
            self.carry_out(&packets[at], turn);
            at += count;
        }
    }

    /// Sends or takes back one packet.
    #[inline]
    fn carry_out(&mut self, packet: &Packet<'_>, turn: During<'_>) {
        let (head, tail) = (packet.frame.head(), packet.frame.tail());
        let (place, chunk) = self.chunk_of(packet);
        let frames = &mut self.pools[place].frames;
        if packet.frame.carried() == 0 {
            frames.cut(chunk);
        }
        let Verdict::Transmit(target) = packet.verdict else {
            frames.put_chain(chunk);
            return;
        };
        match self.ports.get_mut(usize::from(target.0)) {
            Some(_) => match packet.parts {
                Parts::Whole | Parts::Joined { .. } => {
                    self.transmit(target, (place, chunk), (head, tail), turn)
                }
                Parts::Cut(cut) => {
                    let head = (chunk, packet.frame.bytes());
                    self.transmit_parts(target, place, head, cut, turn);
                }
            },
            None => {
                self.unknown_port += 1;
                frames.put_chain(chunk);
            }
        }
    }

    /// Puts a packet into a port's transmit ring, or takes it back if it can't.
    fn transmit(
        &mut self,
        target: PortId,
        (from, chunk): (usize, Chunk),
        span: (usize, usize),
        turn: During<'_>,
    ) {
        let port = &mut self.ports[usize::from(target.0)];
        let source = &mut self.pools[from];
        let (head, tail) = span;
        let parts = source.frames.chain_length(chunk);
        if tail - head < SHORTEST || parts > port.parts {
            port.counted.unsendable += 1;
            source.frames.put_chain(chunk);
            return;
        }
        if port.is_stalled(self.turn) || !port.rings.transmit.fits(parts) {
            port.counted.ring_full += 1;
            source.frames.put_chain(chunk);
            return;
        }
        let mut chunk = chunk;
        if port.pool != from {
            let [source, into] = self
                .pools
                .two_mut([from, port.pool])
                .expect("two different memories");
            let copy = into.copy_from(&source.frames, &source.memory, chunk, span, turn);
            source.frames.put_chain(chunk);
            let Some(copy) = copy else {
                port.counted.ring_full += 1;
                return;
            };
            chunk = copy;
        }
        let pool = &mut self.pools[port.pool];
        port.put(&mut pool.frames, chunk, (head, tail));
        self.note_sending(target);
    }

    /// Puts a port on the lists of those that have something to send.
    #[inline]
    pub(crate) fn note_sending(&mut self, target: PortId) {
        let port = &mut self.ports[usize::from(target.0)];
        if port.dirty == Dirty::No {
            port.dirty = Dirty::Listed;
            self.dirty.push(target);
        }
        self.activate(target);
    }

    /// One call into the kernel for each port that has something to send; what it can't take now stays listed.
    pub(crate) fn send(&mut self) {
        let (turn, ports, pools) = (self.turn, &mut self.ports, &mut self.pools);
        self.dirty.retain(|id| {
            let Some(port) = ports.get_mut(usize::from(id.0)) else {
                return false;
            };
            port.send(turn);
            let pool = &mut pools[port.pool];
            port.reap(&mut pool.frames);
            if port.rings.transmit.waiting() > 0 {
                return true;
            }
            port.dirty = Dirty::No;
            false
        });
    }

    /// Takes back what was sent, and lets ports off the list that have been quiet.
    pub(crate) fn reap(&mut self) {
        let (ports, pools) = (&mut self.ports, &mut self.pools);
        self.active.retain(|id| {
            let Some(port) = ports.get_mut(usize::from(id.0)) else {
                return false;
            };
            let pool = &mut pools[port.pool];
            port.reap(&mut pool.frames);
            port.refill(&pool.memory, &mut pool.frames);
            if port.quiet < QUIET_TURNS || port.sending > 0 {
                return true;
            }
            port.rest();
            port.active = Activity::Idle;
            false
        });
        for pool in pools.iter_mut() {
            if let Some(retired) = &mut pool.retired {
                retired.reap(&mut pool.frames);
            }
        }
    }
}
