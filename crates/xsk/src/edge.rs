//! A worker's edge: one queue of every port, in and out, in batches.

use std::io;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use podway_engine::{BATCH, Batch, Packet};
use podway_tables::PortId;
use podway_wire::Frame;

use crate::close::Closer;
use crate::error::PortError;
use crate::frames::Owner;
use crate::kernel::{During, Turn};
use crate::pool::Pool;
use crate::port::{Activity, Port, PortStatistics};
use crate::redirect::Sockets;
use crate::shelf::Shelf;
use crate::sleep::{Sleeper, Waker};

/// Turns between looks at the ports that are not on the list.
const SCAN_TURNS: u64 = 32;
/// Room in front of a packet that is made here, in bytes: as much as XDP leaves (XDP_PACKET_HEADROOM).
pub(crate) const HEADROOM: usize = 256;

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
    pub(crate) pools: Shelf<Pool>,
    /// By [`PortId`].
    pub(crate) ports: Shelf<Port>,
    /// The ports that every turn looks at.
    pub(crate) active: Vec<PortId>,
    /// The ports with descriptors that the kernel has not been told of, or has not taken.
    pub(crate) dirty: Vec<PortId>,
    pub(crate) turn: u64,
    idle: Idle,
    pub(crate) unknown_port: u64,
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
            pools: Shelf::new(),
            ports: Shelf::new(),
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
        let pools = self.pools.iter();
        let away = pools
            .map(|pool| pool.frames.total() - pool.frames.free())
            .sum::<u32>();
        away - filled
    }

    /// Frames that are free, of all packet memories.
    pub fn free(&self) -> u32 {
        self.pools.iter().map(|pool| pool.frames.free()).sum()
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
        self.ports.iter().map(Port::statistics).collect()
    }

    /// Packets for ports that this worker doesn't have.
    pub fn unknown_port(&self) -> u64 {
        self.unknown_port
    }

    pub(crate) fn port(&self, port: PortId) -> Option<&Port> {
        self.ports.get(usize::from(port.0))
    }

    /// The ports, retired ones too.
    pub(crate) fn all_ports(&self) -> impl Iterator<Item = &Port> {
        let pools = self.pools.iter();
        let retired = pools.filter_map(|pool| pool.retired.as_ref());
        self.ports.iter().chain(retired)
    }

    #[inline]
    pub(crate) fn activate(&mut self, id: PortId) {
        let Some(port) = self.ports.get_mut(usize::from(id.0)) else {
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
        for place in 0..self.ports.end() {
            let Some(port) = self.ports.get_mut(place) else {
                continue;
            };
            if port.active == Activity::Idle && port.rings.received() > 0 {
                let id = port.id;
                self.activate(id);
            }
        }
    }

    /// Fills `batch` from the listed ports, a different one first each time.
    fn receive<'turn>(&mut self, batch: &mut ArrayVec<Packet<'turn>, BATCH>, turn: During<'turn>) {
        let count = self.active.len();
        for step in 0..count {
            let id = self.active[(self.turn as usize + step) % count];
            let port = &mut self.ports[usize::from(id.0)];
            let pool = &mut self.pools[port.pool];
            port.quiet = port.quiet.saturating_add(1);
            while !batch.is_full() {
                let room = batch.remaining_capacity();
                let memory = &pool.memory;
                let taken = port.receive(&mut pool.frames, room, |frames, arrival| {
                    let (head, length) = frames.part(arrival.first);
                    // SAFETY: the worker has the chunk until the batch's verdicts are carried out, and the batch
                    // holds its only reference.
                    let chunk = unsafe { memory.chunk(arrival.first, turn) };
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

    /// Has `process` decide on packets, and carries out its verdicts on them and on those that it made.
    #[inline]
    fn decide<'turn>(
        &mut self,
        packets: &mut [Packet<'turn>],
        process: &mut dyn FnMut(&mut Batch<'_, '_>),
        turn: During<'turn>,
    ) {
        let pools = &mut self.pools;
        let mut spare = || empty_frame(pools, turn);
        let mut batch = Batch::new(packets, &mut spare);
        process(&mut batch);
        let mut made = batch.into_made();
        self.carry_out_all(packets, turn);
        self.carry_out_all(&mut made, turn);
    }

    /// Receives one batch from every port that has packets, has `process` decide on it, and carries the verdicts out.
    ///
    /// Returns how many packets came in, 0 when there was nothing to do.
    pub fn turn(&mut self, process: &mut dyn FnMut(&mut Batch<'_, '_>)) -> usize {
        self.turn += 1;
        if self.idle == Idle::Yes || self.turn.is_multiple_of(SCAN_TURNS) {
            self.scan();
            self.take_back_closed();
        }
        let turn = Turn::begin();
        let mut packets = ArrayVec::new();
        self.receive(&mut packets, turn.during());
        let count = packets.len();
        if count > 0 {
            self.decide(&mut packets, process, turn.during());
        }
        self.send();
        self.reap();
        self.idle = match count {
            0 => Idle::Yes,
            _ => Idle::No,
        };
        count
    }

    /// Has `process` look at a batch of nothing, and carries out the verdicts of what it makes.
    pub fn make(&mut self, process: &mut dyn FnMut(&mut Batch<'_, '_>)) {
        let turn = Turn::begin();
        self.decide(&mut [], process, turn.during());
        self.send();
    }
}

/// An empty frame of any packet memory, with headroom; `None` if none has one to spare.
fn empty_frame<'turn>(pools: &mut Shelf<Pool>, turn: During<'turn>) -> Option<Frame<'turn>> {
    pools.iter_mut().find_map(|pool| {
        let chunk = pool.frames.take(Owner::WORKER)?;
        // SAFETY: the worker has the chunk until the batch's verdicts are carried out, and the batch holds its only
        // reference.
        let bytes = unsafe { pool.memory.chunk(chunk, turn) };
        Some(Frame::new(bytes, HEADROOM, HEADROOM, 0).expect("headroom is inside the chunk"))
    })
}
