//! Sockets on their way to a worker: asking the kernel for one takes its time, so any thread can.

use std::time::{Duration, Instant};

use podway_tables::PortId;

use crate::error::PortError;
use crate::kernel::{Bound, Opener, Rings};
use crate::members::Bind;
use crate::pool::{Pool, PoolId};

/// How often a queue that is still being released is tried again.
const BUSY_STEP: Duration = Duration::from_millis(20);

/// A socket that a worker wants, and the packet memories that it may share.
///
/// The kernel binds sockets under a lock that all changes to devices take (rtnl), for seconds where many come at once.
#[derive(Debug)]
pub struct Opening {
    pub(crate) place: Place,
    pub(crate) bind: Bind,
    /// Frames of a memory of its own.
    pub(crate) frames: u32,
    pub(crate) way: Way,
}

/// A worker's queue of a device, and the port that it is for.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) port: PortId,
    pub(crate) interface: String,
    pub(crate) ifindex: u32,
    pub(crate) queue: u32,
}

/// How a worker comes to a socket.
#[derive(Debug)]
pub(crate) enum Way {
    /// It still has one of that device.
    Kept(PoolId),
    /// A new one, of the first of these memories that it can share, or of its own.
    New(Vec<(PoolId, Opener)>),
}

/// A socket that no worker has yet; dropped, it is closed.
#[derive(Debug)]
pub struct Opened {
    pub(crate) place: Place,
    pub(crate) socket: Socket,
    /// What the port's fill ring holds while nothing comes.
    pub(crate) fill: u32,
    /// Why it is not bound better.
    pub(crate) refused: Option<String>,
}

/// Where a socket comes from.
#[derive(Debug)]
pub(crate) enum Socket {
    /// The worker has it.
    Kept(PoolId),
    /// It shares a memory.
    Shared(PoolId, Rings),
    /// It has its own.
    Alone(Box<Pool>, Rings),
}

impl Opening {
    /// Asks the kernel for the socket; a queue that is taken is tried again until `patience` is over, zero asks once.
    ///
    /// Call it in the device's network namespace.
    pub fn open(self, patience: Duration) -> Result<Opened, PortError> {
        let Opening {
            place,
            bind,
            frames,
            way,
        } = self;
        let shared = match way {
            Way::Kept(pool) => {
                return Ok(Opened {
                    place,
                    socket: Socket::Kept(pool),
                    fill: bind.fill(frames),
                    refused: None,
                });
            }
            Way::New(shared) => shared,
        };
        let deadline = Instant::now() + patience;
        let fill = bind.fill(frames);
        let copying = || copying(&place, frames, shared, deadline);
        let (socket, refused) = match bind {
            Bind::Copy | Bind::Nic(Bound::Copy) => (copying()?, None),
            // It has a memory of its own, and what is refused is copied: one buffer a packet may be too little for the link.
            Bind::Nic(bound @ (Bound::ZeroCopySingle | Bound::ZeroCopy)) => {
                match alone(&place, frames, bound, deadline) {
                    Err(PortError::Refused { error, .. }) => (copying()?, Some(error.to_string())),
                    opened => (opened?, None),
                }
            }
        };
        Ok(Opened {
            place,
            socket,
            fill,
            refused,
        })
    }
}

impl Opened {
    /// Why the socket is not bound as was asked for; `None` if it is.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }
}

/// A socket that shares the memory of others, or has its own if it can't.
fn copying(
    place: &Place,
    frames: u32,
    shared: Vec<(PoolId, Opener)>,
    deadline: Instant,
) -> Result<Socket, PortError> {
    for (pool, opener) in shared {
        match ask(place, &opener, Bound::Copy, deadline) {
            Ok(rings) => return Ok(Socket::Shared(pool, rings)),
            // The first device of that memory is gone, and with it the way to share it.
            Err(PortError::Refused { error, .. })
                if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENXIO)) => {}
            Err(other) => return Err(other),
        }
    }
    alone(place, frames, Bound::Copy, deadline)
}

/// A socket that is bound first to a memory of its own.
fn alone(place: &Place, frames: u32, bound: Bound, deadline: Instant) -> Result<Socket, PortError> {
    let pool = Pool::new(frames, place.ifindex, bound)?;
    let rings = ask(place, &pool.memory.opener, bound, deadline)?;
    Ok(Socket::Alone(Box::new(pool), rings))
}

fn ask(
    place: &Place,
    opener: &Opener,
    bound: Bound,
    deadline: Instant,
) -> Result<Rings, PortError> {
    let (interface, queue) = (&place.interface, place.queue);
    loop {
        match opener.open(interface, queue, bound) {
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(BUSY_STEP);
            }
            other => return other.map_err(|error| PortError::socket(interface, queue, error)),
        }
    }
}
