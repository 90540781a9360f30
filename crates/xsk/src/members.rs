//! How ports join and leave a worker's edge, and which packet memory they share.

use std::time::Duration;

use podway_tables::PortId;

use crate::edge::WorkerEdge;
use crate::error::PortError;
use crate::frames::Owner;
use crate::kernel::Bound;
use crate::opening::{Opened, Opening, Place, Socket, Way};
use crate::pool::{Pool, PoolId};
use crate::port::{BULK_FILL, BUSY_FILL, IDLE_FILL, PARTS, Port};
use crate::redirect::interface_index;

/// Packet memories a worker has at most: one for copies, one per zero-copy queue, and what outlives its first device.
const POOLS: usize = 8;

/// How a port's socket should be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// Copied by the kernel: veth pairs, of which there are many and most are quiet.
    Copy,
    /// This way, or the next worse one that the kernel grants: NICs, which bursts come by.
    Nic(Bound),
}

impl Bind {
    /// What the fill ring holds while nothing comes, of so many frames.
    pub(crate) fn fill(self, frames: u32) -> u32 {
        let wanted = match self {
            Bind::Copy => IDLE_FILL,
            Bind::Nic(Bound::Copy) => BUSY_FILL,
            // The driver takes what its own ring holds out of it at once, and a burst comes before we see its first packet.
            Bind::Nic(Bound::ZeroCopySingle | Bound::ZeroCopy) => BULK_FILL,
        };
        wanted.min(frames / 4)
    }
}

impl WorkerEdge {
    /// Binds this worker's queue of `interface` and registers the socket for `port`, in the caller's network namespace.
    ///
    /// It waits for the kernel: a worker that carries packets takes the three steps of this apart, and has another
    /// thread do the second one.
    pub fn add_port(
        &mut self,
        port: PortId,
        interface: &str,
        bind: Bind,
        patience: Duration,
    ) -> Result<Bound, PortError> {
        let opened = self.opening(port, interface, bind)?.open(patience)?;
        self.take_up(opened)
    }

    /// What it takes to have a socket of this worker's queue of `interface` for `port`.
    pub fn opening(&self, port: PortId, interface: &str, bind: Bind) -> Result<Opening, PortError> {
        let queue = self.settings.queue;
        if !self.settings.sockets.has_place(port, queue) {
            return Err(PortError::OutOfRange {
                port: port.0,
                queue,
            });
        }
        if self.port(port).is_some() {
            return Err(PortError::Exists(port.0));
        }
        let ifindex =
            interface_index(interface).map_err(|_| PortError::NoDevice(interface.to_owned()))?;
        Ok(Opening {
            place: Place {
                port,
                interface: interface.to_owned(),
                ifindex,
                queue,
            },
            bind,
            frames: self.settings.frames,
            way: self.way(ifindex, bind.fill(self.settings.frames))?,
        })
    }

    fn way(&self, ifindex: u32, fill: u32) -> Result<Way, PortError> {
        let copying = || {
            let pools = self.pools.iter();
            pools.filter(|pool| pool.bound == Bound::Copy)
        };
        let is_kept = |pool: &&Pool| {
            let mut kept = pool.retired.iter();
            kept.any(|it| it.ifindex == ifindex)
        };
        if let Some(pool) = copying().find(is_kept) {
            return Ok(Way::Kept(pool.id));
        }
        if copying().any(|pool| pool.frames.free() < fill) {
            return Err(PortError::OutOfFrames { wanted: fill });
        }
        let shared = copying().map(|pool| (pool.id, pool.memory.opener.clone()));
        Ok(Way::New(shared.collect()))
    }

    /// Makes an opened socket a port's and registers it; the kernel takes no time for it.
    pub fn take_up(&mut self, opened: Opened) -> Result<Bound, PortError> {
        let Opened {
            place,
            socket,
            fill,
            refused: _,
        } = opened;
        let (port, queue) = (place.port, place.queue);
        if self.port(port).is_some() {
            return Err(PortError::Exists(port.0));
        }
        let mut added = self.port_of(&place, socket, fill)?;
        let pool = &mut self.pools[added.pool];
        added.refill(&pool.memory, &mut pool.frames);
        pool.ports += 1;
        let bound = pool.bound;
        let registered = self.settings.sockets.insert(port, queue, added.rings.fd());
        self.ports.put(usize::from(port.0), added);
        if let Err(error) = registered {
            self.remove_port(port);
            return Err(PortError::Register(error));
        }
        self.watch_ports();
        self.activate(port);
        let interface = place.interface;
        tracing::info!(port = port.0, interface, queue, ?bound, "port bound");
        Ok(bound)
    }

    fn port_of(&mut self, place: &Place, socket: Socket, fill: u32) -> Result<Port, PortError> {
        let Place { port, ifindex, .. } = *place;
        match socket {
            Socket::Kept(id) => {
                let pool = self.pool(id).map(|at| &mut self.pools[at]);
                let kept = pool.and_then(|pool| Some((pool.retired.take()?, &mut pool.frames)));
                let (kept, frames) = kept.ok_or(PortError::MemoryGone)?;
                Ok(kept.revive(port, frames))
            }
            Socket::Shared(id, rings) => {
                let at = self.pool(id).ok_or(PortError::MemoryGone)?;
                Ok(Port::new((port, ifindex), at, rings, (PARTS, fill)))
            }
            Socket::Alone(pool, rings) => {
                let at = self.pools.free_place();
                if at == POOLS {
                    return Err(PortError::OutOfFrames { wanted: fill });
                }
                let parts = match pool.bound {
                    Bound::Copy | Bound::ZeroCopy => PARTS,
                    Bound::ZeroCopySingle => 1,
                };
                self.pools.put(at, *pool);
                Ok(Port::new((port, ifindex), at, rings, (parts, fill)))
            }
        }
    }

    fn pool(&self, id: PoolId) -> Option<usize> {
        self.pools.position(|pool| pool.id == id)
    }

    /// Closes the port's socket and takes its frames back; a port that is not there is no error.
    ///
    /// What it had not sent is lost. The socket itself is closed beside the worker within some 20 ms, and the queue is
    /// free for another one then. The first port of all is best one that stays: its socket outlives its removal.
    pub fn remove_port(&mut self, port: PortId) {
        let Some(mut removed) = self.ports.take(usize::from(port.0)) else {
            return;
        };
        if let Err(error) = self.settings.sockets.remove(port, self.settings.queue) {
            tracing::warn!(port = port.0, %error, "the socket's map entry stays until the socket is closed");
        }
        self.active.retain(|&id| id != port);
        self.dirty.retain(|&id| id != port);
        let pool = &mut self.pools[removed.pool];
        pool.ports -= 1;
        if pool.ports > 0 && removed.ifindex == pool.anchor && pool.retired.is_none() {
            removed.retire(&mut pool.frames);
            pool.retired = Some(removed);
        } else {
            self.close(removed);
        }
        self.watch_ports();
    }

    /// Frees what sockets held that have been closed since.
    pub(crate) fn take_back_closed(&mut self) {
        while self.closer.open > 0 {
            let Some(ticket) = self.closer.next_closed() else {
                return;
            };
            self.take_back(ticket);
        }
    }

    fn take_back(&mut self, owner: Owner) {
        for pool in self.pools.iter_mut() {
            pool.frames.pass_all(owner, Owner::FREE);
        }
    }

    /// Closes a port's socket; its frames are free when the kernel is done with them.
    fn close(&mut self, mut port: Port) {
        let pool = &mut self.pools[port.pool];
        port.forget_partial(&mut pool.frames);
        let owner = port.owner();
        let ticket = self.closer.close(port.rings);
        pool.frames.pass_all(owner, ticket);
        if pool.ports == 0 {
            self.pools.take(port.pool);
        }
    }

    fn watch_ports(&mut self) {
        let sockets = self.ports.iter().map(|port| port.rings.fd());
        self.sleeper.watch(sockets);
    }
}
