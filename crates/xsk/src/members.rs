//! How ports join and leave a worker's edge, and which packet memory they share.

use std::time::Duration;

use podway_tables::PortId;

use crate::close::Closing;
use crate::edge::{WorkerEdge, WorkerSettings};
use crate::error::PortError;
use crate::frames::Owner;
use crate::kernel::Binding;
use crate::pool::Pool;
use crate::port::{IDLE_FILL, PARTS, Port};
use crate::redirect::interface_index;

/// Packet memories a worker has at most: one for copies, one per zero-copy queue, and what outlives its first device.
const POOLS: usize = 8;

/// How a port's socket should be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// Copied by the kernel: veth pairs, and anything else.
    Copy,
    /// Zero-copy if the driver can, else copied; the log says which: NICs.
    ZeroCopy,
}

/// What a port's socket was bound as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Copied by the kernel.
    Copy,
    /// Zero-copy.
    ZeroCopy,
}

impl WorkerEdge {
    /// Binds this worker's queue of `interface` and registers the socket for `port`.
    ///
    /// A queue that is still being released is tried again until `patience` is over; zero asks once. Call it in the
    /// device's network namespace.
    pub fn add_port(
        &mut self,
        port: PortId,
        interface: &str,
        bind: Bind,
        patience: Duration,
    ) -> Result<Bound, PortError> {
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
        let mut added = self.bind(port, interface, ifindex, bind, patience)?;
        let pool = self.pools[added.pool].as_mut().expect("the port's own");
        added.refill(&pool.memory, &mut pool.frames);
        pool.ports += 1;
        let bound = match pool.binding {
            Binding::Copy => Bound::Copy,
            Binding::ZeroCopy | Binding::ZeroCopySingle => Bound::ZeroCopy,
        };
        let registered = self.settings.sockets.insert(port, queue, added.rings.fd());
        let place = usize::from(port.0);
        if self.ports.len() <= place {
            self.ports.resize_with(place + 1, || None);
        }
        self.ports[place] = Some(added);
        if let Err(error) = registered {
            self.remove_port(port);
            return Err(PortError::Register(error));
        }
        self.watch_ports();
        self.activate(port);
        tracing::info!(port = port.0, interface, queue, ?bound, "port bound");
        Ok(bound)
    }

    /// Closes the port's socket and takes its frames back; a port that is not there is no error.
    ///
    /// What it had not sent is lost. The socket itself is closed beside the worker within some 20 ms, and the queue is
    /// free for another one then. The first port of all is best one that stays: its socket outlives its removal.
    pub fn remove_port(&mut self, port: PortId) {
        let Some(mut removed) = self
            .ports
            .get_mut(usize::from(port.0))
            .and_then(Option::take)
        else {
            return;
        };
        if let Err(error) = self.settings.sockets.remove(port, self.settings.queue) {
            tracing::warn!(port = port.0, %error, "the socket's map entry stays until the socket is closed");
        }
        self.active.retain(|&id| id != port);
        self.dirty.retain(|&id| id != port);
        let place = removed.pool;
        let pool = self.pools[place].as_mut().expect("the port's own");
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
        for pool in self.pools.iter_mut().flatten() {
            pool.frames.pass_all(owner, Owner::FREE);
        }
    }

    /// Closes a port's socket; its frames are free when the kernel is done with them.
    fn close(&mut self, mut port: Port) {
        let pool = self.pools[port.pool].as_mut().expect("the port's own");
        port.forget_partial(&mut pool.frames);
        let (place, owner, last) = (port.pool, port.owner(), pool.ports == 0);
        let kept = self.closer.keep(port.rings.socket());
        match &kept {
            Ok((ticket, _)) => drop(pool.frames.pass_all(owner, *ticket)),
            Err(error) => tracing::warn!(%error, "closing a socket takes the worker's time"),
        }
        drop(port);
        if last {
            self.pools[place] = None;
        }
        let done = match kept {
            Ok((ticket, socket)) => match self.closer.close(ticket, socket) {
                Closing::Beside => return,
                Closing::Done => ticket,
            },
            Err(_) => owner,
        };
        self.take_back(done);
    }

    /// A port that is bound to a memory: a zero-copy one of its own, or the one that copies share.
    fn bind(
        &mut self,
        port: PortId,
        interface: &str,
        ifindex: u32,
        bind: Bind,
        patience: Duration,
    ) -> Result<Port, PortError> {
        if bind == Bind::ZeroCopy {
            for binding in [Binding::ZeroCopy, Binding::ZeroCopySingle] {
                match self.bind_new(port, interface, ifindex, binding, patience) {
                    Err(PortError::Refused { error, .. }) => {
                        tracing::info!(interface, ?binding, %error, "not possible");
                    }
                    other => return other,
                }
            }
            tracing::warn!(
                interface,
                "the driver has no zero-copy: packets are copied by the kernel"
            );
        }
        for place in 0..self.pools.len() {
            let Some(pool) = &mut self.pools[place] else {
                continue;
            };
            if pool.binding != Binding::Copy {
                continue;
            }
            if pool
                .retired
                .as_ref()
                .is_some_and(|it| it.ifindex == ifindex)
            {
                let retired = pool.retired.take().expect("just seen");
                return Ok(retired.revive(port, &mut pool.frames));
            }
            match join(
                pool,
                place,
                port,
                interface,
                ifindex,
                self.settings.queue,
                patience,
            ) {
                // The first device of that memory is gone, and with it the way to share it.
                Err(PortError::Refused { error, .. })
                    if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENXIO)) => {}
                other => return other,
            }
        }
        self.bind_new(port, interface, ifindex, Binding::Copy, patience)
    }

    /// A port bound first to a memory of its own.
    fn bind_new(
        &mut self,
        port: PortId,
        interface: &str,
        ifindex: u32,
        binding: Binding,
        patience: Duration,
    ) -> Result<Port, PortError> {
        let place = match self.pools.iter().position(Option::is_none) {
            Some(place) => place,
            None if self.pools.len() < POOLS => {
                self.pools.push(None);
                self.pools.len() - 1
            }
            None => return Err(PortError::OutOfFrames { wanted: IDLE_FILL }),
        };
        let WorkerSettings { frames, queue, .. } = self.settings;
        let (pool, rings) = Pool::anchored(frames, interface, ifindex, queue, binding, patience)?;
        self.pools[place] = Some(pool);
        let parts = match binding {
            Binding::Copy | Binding::ZeroCopy => PARTS,
            Binding::ZeroCopySingle => 1,
        };
        Ok(Port::new(port, ifindex, place, rings, parts))
    }

    fn watch_ports(&mut self) {
        let sockets = self.ports.iter().flatten().map(|port| port.rings.fd());
        self.sleeper.watch(sockets);
    }
}

/// A port bound to a memory that others have.
fn join(
    pool: &Pool,
    place: usize,
    port: PortId,
    interface: &str,
    ifindex: u32,
    queue: u32,
    patience: Duration,
) -> Result<Port, PortError> {
    if pool.frames.free() < IDLE_FILL {
        return Err(PortError::OutOfFrames { wanted: IDLE_FILL });
    }
    let rings = pool
        .open(interface, queue, patience)
        .map_err(|error| PortError::socket(interface, queue, error))?;
    Ok(Port::new(port, ifindex, place, rings, PARTS))
}
