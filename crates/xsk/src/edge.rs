//! A worker's edge: one queue of every port, in and out, in batches.

use std::io;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use podway_engine::{BATCH, Batch, Edge, Packet, Parts, Verdict};
use podway_tables::PortId;
use podway_wire::Frame;

use crate::close::Closer;
use crate::error::PortError;
use crate::frames::{Chunk, Owner};
use crate::pool::Pool;
use crate::port::{Activity, Dirty, Port, PortStatistics};
use crate::redirect::Sockets;
use crate::sleep::{Sleeper, Waker};

/// Turns between looks at the ports that are not on the list.
const SCAN_TURNS: u64 = 32;
/// Turns without a packet after which a port leaves the list.
const QUIET_TURNS: u32 = 1024;
/// Room in front of a packet that is made here, in bytes: as much as XDP leaves (XDP_PACKET_HEADROOM).
pub(crate) const HEADROOM: usize = 256;
/// The shortest packet that is sent: an Ethernet header.
const SHORTEST: usize = 14;

/// What a worker's edge is made of.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// The queue of each port that this worker owns.
    pub queue: u32,
    /// Frames of each packet memory, 4096 bytes each, from 256 to 1048576.
    pub frames: u32,
    /// Where sockets are registered.
    pub sockets: Sockets,
}

/// One queue of every port, with the packet memory that they share.
#[derive(Debug)]
pub struct WorkerEdge {
    pub(crate) settings: WorkerSettings,
    pub(crate) pools: Vec<Option<Pool>>,
    /// By [`PortId`].
    pub(crate) ports: Vec<Option<Port>>,
    /// The ports that every turn looks at.
    pub(crate) active: Vec<PortId>,
    /// The ports with descriptors that the kernel has not been told of, or has not taken.
    pub(crate) dirty: Vec<PortId>,
    pub(crate) turn: u64,
    idle: Idle,
    unknown_port: u64,
    pub(crate) sleeper: Sleeper,
    pub(crate) closer: Closer,
}

/// Whether the last turn found a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    Yes,
    No,
}

impl WorkerEdge {
    /// An edge without ports; its packet memory is made with the first one.
    pub fn new(settings: WorkerSettings) -> Result<WorkerEdge, PortError> {
        if !(256..=1 << 20).contains(&settings.frames) {
            return Err(PortError::Frames(settings.frames));
        }
        Ok(WorkerEdge {
            settings,
            pools: Vec::new(),
            ports: Vec::new(),
            active: Vec::new(),
            dirty: Vec::new(),
            turn: 0,
            idle: Idle::Yes,
            unknown_port: 0,
            sleeper: Sleeper::new()?,
            closer: Closer::new()?,
        })
    }

    /// Frames that are neither free nor waiting in a port to be received into: being sent, part of an
    /// unfinished packet, or of a socket that is being closed.
    pub fn outstanding(&self) -> u32 {
        let filled = self.all_ports().map(|port| port.filled).sum::<u32>();
        let away = self
            .pools
            .iter()
            .flatten()
            .map(|pool| pool.frames.total() - pool.frames.free())
            .sum::<u32>();
        away - filled
    }

    /// Frames that are free, of all packet memories.
    pub fn free(&self) -> u32 {
        self.pools
            .iter()
            .flatten()
            .map(|pool| pool.frames.free())
            .sum()
    }

    /// Has everything sent that is on its way out, and waits for it until `patience` is over; what is still outstanding.
    pub fn drain(&mut self, patience: Duration) -> u32 {
        let start = Instant::now();
        loop {
            self.turn += 1;
            self.send();
            self.reap();
            self.take_back_closed();
            let outstanding = self.outstanding();
            if outstanding == 0 || start.elapsed() >= patience {
                return outstanding;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Waits until there is something to receive, until a [`Waker`] says so, or until `timeout` is over.
    pub fn sleep(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = match self.dirty.is_empty() {
            true => timeout,
            // Something waits to be sent, by a device that is down or busy.
            false => timeout.min(Duration::from_millis(1)),
        };
        self.idle = Idle::Yes;
        self.sleeper.sleep(timeout)
    }

    /// Wakes the worker out of [`WorkerEdge::sleep`], from any thread.
    pub fn waker(&self) -> Waker {
        self.sleeper.waker()
    }

    /// What every port did, in order of their ids.
    pub fn port_statistics(&self) -> Vec<PortStatistics> {
        self.ports.iter().flatten().map(Port::statistics).collect()
    }

    /// Packets for ports that this worker doesn't have.
    pub fn unknown_port(&self) -> u64 {
        self.unknown_port
    }

    pub(crate) fn port(&self, port: PortId) -> Option<&Port> {
        self.ports.get(usize::from(port.0))?.as_ref()
    }

    /// The ports, retired ones too.
    pub(crate) fn all_ports(&self) -> impl Iterator<Item = &Port> {
        let retired = self
            .pools
            .iter()
            .flatten()
            .filter_map(|pool| pool.retired.as_ref());
        self.ports.iter().flatten().chain(retired)
    }

    #[inline]
    pub(crate) fn activate(&mut self, id: PortId) {
        let Some(port) = self.ports[usize::from(id.0)].as_mut() else {
            return;
        };
        port.quiet = 0;
        if port.active == Activity::Idle {
            port.active = Activity::Listed;
            self.active.push(id);
        }
    }

    /// Puts the ports that have something on the list.
    fn scan(&mut self) {
        for place in 0..self.ports.len() {
            let Some(port) = &mut self.ports[place] else {
                continue;
            };
            if port.active == Activity::Idle && port.rings.received() > 0 {
                let id = port.id;
                self.activate(id);
            }
        }
    }

    /// Fills `batch` from the listed ports, a different one first each time.
    fn receive(&mut self, batch: &mut ArrayVec<Packet<'_>, BATCH>) {
        let count = self.active.len();
        for step in 0..count {
            let id = self.active[(self.turn as usize + step) % count];
            let port = self.ports[usize::from(id.0)].as_mut().expect("listed");
            let pool = self.pools[port.pool].as_mut().expect("the port's own");
            port.quiet = port.quiet.saturating_add(1);
            while !batch.is_full() {
                let room = batch.remaining_capacity();
                let memory = &pool.memory;
                let taken = port.receive(&mut pool.frames, room, |frames, arrival| {
                    let (head, length) = frames.part(arrival.first);
                    // SAFETY: the worker has the chunk until the batch's verdicts are carried out, and the batch
                    // holds its only reference; the memory lives longer than the turn.
                    let chunk = unsafe { memory.chunk(arrival.first) };
                    let frame = Frame::new(chunk, head, head + length, arrival.carried)
                        .expect("the kernel keeps packets inside their chunks");
                    batch.push(Packet::received(frame, id));
                });
                if taken > 0 {
                    port.quiet = 0;
                }
                if taken < room {
                    break;
                }
            }
            port.refill(&pool.memory, &mut pool.frames);
            if batch.is_full() {
                break;
            }
        }
    }

    /// The packet memory that a packet of the batch lies in, and its first chunk there.
    #[inline]
    pub(crate) fn chunk_of(&self, packet: &Packet<'_>) -> (usize, Chunk) {
        let start = packet
            .frame
            .bytes()
            .as_ptr()
            .wrapping_sub(packet.frame.head());
        let mut pools = self.pools.iter().enumerate();
        pools
            .find_map(|(place, pool)| Some((place, pool.as_ref()?.memory.chunk_at(start)?)))
            .expect("packets of a batch stay where they were received")
    }

    /// Sends or takes back every packet, in order; those that belong together leave as one.
    fn carry_out_all(&mut self, packets: &mut [Packet<'_>]) {
        let mut at = 0;
        while at < packets.len() {
            let count = match packets[at].parts {
                Parts::Joined { longest } => self.join(&mut packets[at..], longest as usize),
                Parts::Whole | Parts::Cut(_) => 1,
            };
            self.carry_out(&packets[at]);
            at += count;
        }
    }

    /// Sends or takes back one packet.
    #[inline]
    fn carry_out(&mut self, packet: &Packet<'_>) {
        let (head, tail) = (packet.frame.head(), packet.frame.tail());
        let (place, chunk) = self.chunk_of(packet);
        let frames = &mut self.pools[place].as_mut().expect("just found").frames;
        if packet.frame.carried() == 0 {
            frames.cut(chunk);
        }
        let Verdict::Transmit(target) = packet.verdict else {
            frames.put_chain(chunk);
            return;
        };
        match self.ports.get_mut(usize::from(target.0)) {
            Some(Some(_)) => match packet.parts {
                Parts::Whole | Parts::Joined { .. } => {
                    self.transmit(target, place, chunk, (head, tail))
                }
                Parts::Cut(cut) => {
                    let head = (chunk, packet.frame.bytes());
                    self.transmit_parts(target, place, head, cut);
                }
            },
            _ => {
                self.unknown_port += 1;
                frames.put_chain(chunk);
            }
        }
    }

    /// Puts a packet into a port's transmit ring, or takes it back if it can't.
    fn transmit(&mut self, target: PortId, from: usize, chunk: Chunk, span: (usize, usize)) {
        let port = self.ports[usize::from(target.0)]
            .as_mut()
            .expect("looked up");
        let source = self.pools[from].as_mut().expect("just found");
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
                .get_disjoint_mut([from, port.pool])
                .expect("two different memories");
            let source = source.as_mut().expect("just found");
            let into = into.as_mut().expect("the port's own");
            let copy = into.copy_from(&source.frames, &source.memory, chunk, span);
            source.frames.put_chain(chunk);
            let Some(copy) = copy else {
                port.counted.ring_full += 1;
                return;
            };
            chunk = copy;
        }
        let pool = self.pools[port.pool].as_mut().expect("the port's own");
        port.put(&mut pool.frames, chunk, (head, tail));
        self.note_sending(target);
    }

    /// Puts a port on the lists of those that have something to send.
    #[inline]
    pub(crate) fn note_sending(&mut self, target: PortId) {
        let port = self.ports[usize::from(target.0)]
            .as_mut()
            .expect("looked up");
        if port.dirty == Dirty::No {
            port.dirty = Dirty::Listed;
            self.dirty.push(target);
        }
        self.activate(target);
    }

    /// One call into the kernel for each port that has something to send; what it can't take now stays listed.
    fn send(&mut self) {
        let (turn, ports, pools) = (self.turn, &mut self.ports, &mut self.pools);
        self.dirty.retain(|id| {
            let Some(port) = ports[usize::from(id.0)].as_mut() else {
                return false;
            };
            port.send(turn);
            let pool = pools[port.pool].as_mut().expect("the port's own");
            port.reap(&mut pool.frames);
            if port.rings.transmit.waiting() > 0 {
                return true;
            }
            port.dirty = Dirty::No;
            false
        });
    }

    /// Takes back what was sent, and lets ports off the list that have been quiet.
    fn reap(&mut self) {
        let (ports, pools) = (&mut self.ports, &mut self.pools);
        self.active.retain(|id| {
            let Some(port) = ports[usize::from(id.0)].as_mut() else {
                return false;
            };
            let pool = pools[port.pool].as_mut().expect("the port's own");
            port.reap(&mut pool.frames);
            port.refill(&pool.memory, &mut pool.frames);
            if port.quiet < QUIET_TURNS || port.sending > 0 {
                return true;
            }
            port.rest();
            port.active = Activity::Idle;
            false
        });
        for pool in pools.iter_mut().flatten() {
            if let Some(retired) = &mut pool.retired {
                retired.reap(&mut pool.frames);
            }
        }
    }
}

impl WorkerEdge {
    /// Has `process` decide on packets, and carries out its verdicts on them and on those that it made.
    #[inline]
    fn decide(&mut self, packets: &mut [Packet<'_>], process: &mut dyn FnMut(&mut Batch<'_, '_>)) {
        let pools = &mut self.pools;
        let mut spare = || empty_frame(pools);
        let mut batch = Batch::new(packets, &mut spare);
        process(&mut batch);
        let mut made = batch.into_made();
        self.carry_out_all(packets);
        self.carry_out_all(&mut made);
    }
}

impl Edge for WorkerEdge {
    fn turn(&mut self, process: &mut dyn FnMut(&mut Batch<'_, '_>)) -> usize {
        self.turn += 1;
        if self.idle == Idle::Yes || self.turn.is_multiple_of(SCAN_TURNS) {
            self.scan();
            self.take_back_closed();
        }
        let mut packets = ArrayVec::new();
        self.receive(&mut packets);
        let count = packets.len();
        if count > 0 {
            self.decide(&mut packets, process);
        }
        self.send();
        self.reap();
        self.idle = match count {
            0 => Idle::Yes,
            _ => Idle::No,
        };
        count
    }

    fn make(&mut self, process: &mut dyn FnMut(&mut Batch<'_, '_>)) {
        self.decide(&mut [], process);
        self.send();
    }
}

/// An empty frame of any packet memory, with headroom; `None` if none has one to spare.
fn empty_frame<'a>(pools: &mut [Option<Pool>]) -> Option<Frame<'a>> {
    pools.iter_mut().flatten().find_map(|pool| {
        let chunk = pool.frames.take(Owner::WORKER)?;
        // SAFETY: the worker has the chunk until the batch's verdicts are carried out, and the batch holds its only
        // reference; the memory lives longer than the turn.
        let bytes = unsafe { pool.memory.chunk(chunk) };
        Some(Frame::new(bytes, HEADROOM, HEADROOM, 0).expect("headroom is inside the chunk"))
    })
}
