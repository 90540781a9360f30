//! Packet memory and sockets: all that touches xsk-rs.

use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use crate::error::PortError;
use crate::frames::Chunk;
use crate::port::BULK_FILL;
use crate::ring::{Layout, TransmitRing};

/// Bytes of a chunk: what fits zero-copy with multi-buffer, and a page.
pub const CHUNK: usize = 4096;

/// Entries of a fill and of a receive ring: as many as a port has frames there at most.
const RECEIVE_ENTRIES: u32 = BULK_FILL;
/// Entries of a transmit and of a completion ring.
pub(crate) const TRANSMIT_ENTRIES: u32 = 2048;
/// Descriptors handled at once.
const BURST: usize = 64;
/// Linux 6.17: how many packets one `sendto` may send.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// Room for large packets on their way through copy-mode transmit, in bytes.
const SEND_BUFFER: libc::c_int = 64 << 20;

/// How a socket is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Copied by the kernel, packets may span chunks.
    Copy,
    /// Zero-copy, a packet is a chunk: for drivers that can't do more.
    ZeroCopySingle,
    /// Zero-copy, packets may span chunks.
    ZeroCopy,
}

/// Memory that the kernel and the worker share, cut into chunks.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) opener: Opener,
    /// The descriptor of each chunk, as the fill ring takes it.
    descriptors: Vec<FrameDesc>,
    base: *mut u8,
}

// SAFETY: `base` points into memory that `opener` keeps mapped, wherever the two are moved together.
unsafe impl Send for Memory {}

/// What opens sockets of a memory, on any thread; it keeps the memory mapped.
#[derive(Clone, Debug)]
pub(crate) struct Opener(Umem);

/// A turn of a worker: the bytes of chunks are lent until it ends.
pub(crate) struct Turn(());

/// While a turn goes on.
#[derive(Clone, Copy)]
pub(crate) struct During<'turn>(PhantomData<&'turn Turn>);

impl Turn {
    pub(crate) fn begin() -> Turn {
        Turn(())
    }

    pub(crate) fn during(&self) -> During<'_> {
        During(PhantomData)
    }
}

/// A received part of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) chunk: Chunk,
    pub(crate) head: usize,
    pub(crate) length: usize,
    pub(crate) more: More,
}

/// Whether a packet goes on in the next descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum More {
    Follows,
    Complete,
}

/// What one `sendto` came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The kernel took what it could.
    Taken,
    /// The device is down or gone: nothing will be taken for now.
    Stalled,
}

/// A socket bound to one queue of a device, and its four rings.
#[derive(Debug)]
pub(crate) struct Rings {
    receive: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    pub(crate) transmit: TransmitRing,
    // Declared after the ring that lies in it.
    _mapping: Mapping,
    socket: TxQueue,
}

impl Memory {
    /// `frames` chunks.
    pub(crate) fn new(frames: u32) -> Result<Memory, PortError> {
        let bytes = frames as usize * CHUNK;
        let count = NonZeroU32::new(frames).ok_or(PortError::Frames(frames))?;
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(CHUNK as u32).expect("4096 is a frame size"))
            .fill_queue_size(entries(RECEIVE_ENTRIES))
            .comp_queue_size(entries(TRANSMIT_ENTRIES))
            .build()
            .expect("headroom fits in a chunk");
        let (umem, descriptors) = Umem::new(config, count, false)
            .map_err(|error| PortError::memory(bytes, cause(&error)))?;
        // SAFETY: nobody has a reference into the memory yet; only the address is kept.
        let data = unsafe { umem.data(&descriptors[0]) }.contents().as_ptr();
        let base = data.wrapping_sub(descriptors[0].addr()).cast_mut();
        Ok(Memory {
            opener: Opener(umem),
            descriptors,
            base,
        })
    }

    /// The bytes of a chunk.
    ///
    /// # Safety
    /// The worker has the chunk until the turn ends or it gives the chunk away, no other reference into it lives till
    /// then, and no memory is let go inside a turn.
    #[inline]
    pub(crate) unsafe fn chunk<'turn>(&self, chunk: Chunk, _: During<'turn>) -> &'turn mut [u8] {
        assert!((chunk as usize) < self.descriptors.len());
        // SAFETY: inside the mapping by the line above; unique by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(chunk as usize * CHUNK), CHUNK) }
    }

    /// The chunk that `pointer` points into, if it is of this memory.
    #[inline]
    pub(crate) fn chunk_at(&self, pointer: *const u8) -> Option<Chunk> {
        let offset = (pointer as usize).checked_sub(self.base as usize)?;
        (offset < self.descriptors.len() * CHUNK).then_some((offset / CHUNK) as Chunk)
    }
}

impl Opener {
    /// A socket on `queue` of `interface`, with empty rings.
    pub(crate) fn open(&self, interface: &str, queue: u32, bound: Bound) -> io::Result<Rings> {
        let device = Interface::new(CString::new(interface)?);
        let mode = match bound {
            Bound::Copy => BindFlags::XDP_COPY | BindFlags::XDP_USE_SG,
            Bound::ZeroCopy => BindFlags::XDP_ZEROCOPY | BindFlags::XDP_USE_SG,
            Bound::ZeroCopySingle => BindFlags::XDP_ZEROCOPY,
        };
        let config = SocketConfig::builder()
            .rx_queue_size(entries(RECEIVE_ENTRIES))
            .tx_queue_size(entries(TRANSMIT_ENTRIES))
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(mode | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        // SAFETY: each (device, queue) is opened once, so no two sockets share a fill or completion ring.
        let opened = unsafe { Socket::new(config, &self.0, &device, queue) };
        let (socket, receive, rings) = opened.map_err(|error| cause(&error))?;
        let (fill, completion) = rings.ok_or_else(|| io::Error::from_raw_os_error(libc::EBUSY))?;
        let fd = socket.fd().as_raw_fd();
        tune(fd);
        let mapping = Mapping::of(fd)?;
        // SAFETY: the mapping lives as long as the ring, beside it; nothing is ever sent through `socket` itself.
        let transmit = unsafe { TransmitRing::new(mapping.layout) };
        Ok(Rings {
            receive,
            fill,
            completion,
            transmit,
            _mapping: mapping,
            socket,
        })
    }
}

impl Rings {
    pub(crate) fn fd(&self) -> RawFd {
        self.socket.fd().as_raw_fd()
    }

    /// How many received parts there are, as far as was looked.
    #[inline]
    pub(crate) fn received(&mut self) -> u32 {
        self.receive.nb_avail(RECEIVE_ENTRIES)
    }

    /// Takes up to `limit` received parts; how many there were.
    #[inline]
    pub(crate) fn receive(&mut self, limit: usize, mut each: impl FnMut(Received)) -> usize {
        let mut descriptors = [FrameDesc::default(); BURST];
        // SAFETY: the socket belongs to the memory whose chunks the descriptors name.
        let count = unsafe { self.receive.consume(&mut descriptors[..limit.min(BURST)]) };
        for descriptor in &descriptors[..count] {
            each(Received {
                chunk: (descriptor.addr() / CHUNK) as Chunk,
                head: descriptor.addr() % CHUNK,
                length: descriptor.lengths().data(),
                more: if descriptor.has_more_frames() {
                    More::Follows
                } else {
                    More::Complete
                },
            });
        }
        count
    }

    /// Takes up to a burst of completed chunks; how many there were.
    #[inline]
    pub(crate) fn complete(&mut self, mut each: impl FnMut(Chunk)) -> usize {
        if self.completion.nb_avail(1) == 0 {
            return 0;
        }
        let mut descriptors = [FrameDesc::default(); BURST];
        // SAFETY: as in `receive`.
        let count = unsafe { self.completion.consume(&mut descriptors) };
        for descriptor in &descriptors[..count] {
            each((descriptor.addr() / CHUNK) as Chunk);
        }
        count
    }

    /// Gives the kernel up to `limit` chunks to receive into, as `next` names them; how many it took.
    #[inline]
    pub(crate) fn refill(
        &mut self,
        memory: &Memory,
        limit: u32,
        mut next: impl FnMut() -> Option<Chunk>,
    ) -> u32 {
        let mut given = 0;
        while given < limit {
            let mut descriptors = [FrameDesc::default(); BURST];
            let room = self.fill.nb_free(BURST as u32).min(limit - given);
            let mut count = 0;
            while count < room.min(BURST as u32) as usize {
                let Some(chunk) = next() else { break };
                descriptors[count] = memory.descriptors[chunk as usize];
                count += 1;
            }
            // SAFETY: the chunks are of this memory and were free: nobody else has them.
            let taken = unsafe { self.fill.produce(&descriptors[..count]) };
            assert_eq!(taken, count, "the fill ring had room");
            given += taken as u32;
            if count < BURST {
                break;
            }
        }
        given
    }

    /// Wakes the driver if it waits for frames; only zero-copy drivers do.
    #[inline]
    pub(crate) fn wake_receiver(&self) {
        if self.fill.needs_wakeup() {
            // SAFETY: no buffer is passed; the call only runs the driver's poll.
            unsafe {
                libc::recvfrom(
                    self.fd(),
                    ptr::null_mut(),
                    0,
                    libc::MSG_DONTWAIT,
                    ptr::null_mut(),
                    ptr::null_mut(),
                )
            };
        }
    }

    /// Tells the kernel to send what is in the transmit ring.
    pub(crate) fn send(&self) -> Sent {
        // SAFETY: no buffer is passed; the call only starts transmission.
        let status = unsafe {
            libc::sendto(
                self.fd(),
                ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                ptr::null(),
                0,
            )
        };
        if status >= 0 {
            return Sent::Taken;
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => Sent::Taken,
            _ => Sent::Stalled,
        }
    }

    /// The kernel's own counters of this socket.
    pub(crate) fn statistics(&self) -> io::Result<xsk_rs::socket::XdpStatistics> {
        self.socket.fd().xdp_statistics()
    }
}

/// A second mapping of a socket's transmit ring, whose descriptors are ours to write.
#[derive(Debug)]
struct Mapping {
    start: *mut libc::c_void,
    bytes: usize,
    layout: Layout,
}

// SAFETY: a mapping is of the process, not of a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    fn of(socket: RawFd) -> io::Result<Mapping> {
        // SAFETY: all zeroes is a value of this plain structure.
        let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
        let mut size = size_of::<libc::xdp_mmap_offsets>() as libc::socklen_t;
        // SAFETY: the option's value is this structure, of the given size.
        let status = unsafe {
            libc::getsockopt(
                socket,
                libc::SOL_XDP,
                libc::XDP_MMAP_OFFSETS,
                ptr::from_mut(&mut offsets).cast(),
                &mut size,
            )
        };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
        let offsets = offsets.tx;
        let bytes = offsets.desc as usize
            + TRANSMIT_ENTRIES as usize * size_of::<crate::ring::Descriptor>();
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket,
                libc::XDP_PGOFF_TX_RING,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = |offset: u64| start.wrapping_byte_add(offset as usize);
        Ok(Mapping {
            start,
            bytes,
            layout: Layout {
                producer: at(offsets.producer).cast(),
                consumer: at(offsets.consumer).cast(),
                flags: at(offsets.flags).cast(),
                descriptors: at(offsets.desc).cast(),
                size: TRANSMIT_ENTRIES,
            },
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `of` made, and the ring in it goes with it.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
}

/// Raises what one `sendto` may send; kernels without the option send in smaller steps.
fn tune(socket: RawFd) {
    let budget = TRANSMIT_ENTRIES as libc::c_int;
    if set_option(socket, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, budget).is_err() {
        tracing::debug!("no XDP_MAX_TX_SKB_BUDGET before Linux 6.17: sending 32 packets a call");
    }
    if let Err(error) = set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER) {
        tracing::debug!(%error, "the send buffer stays at its default");
    }
}

fn set_option(
    socket: RawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value is an int of the given size, and lives through the call.
    let status = unsafe {
        libc::setsockopt(
            socket,
            level,
            name,
            ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The kernel's error inside one of xsk-rs.
fn cause(error: &(dyn std::error::Error + 'static)) -> io::Error {
    error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error)
        .map_or_else(
            || io::Error::other(error.to_string()),
            io::Error::from_raw_os_error,
        )
}

fn entries(count: u32) -> QueueSize {
    QueueSize::new(count).expect("a power of two")
}
