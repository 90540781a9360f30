//! The transmit ring's arithmetic, apart from the kernel: one producer, positions that wrap at 2^32.

use std::sync::atomic::{AtomicU32, Ordering};

/// A descriptor as the kernel reads it (`struct xdp_desc`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Descriptor {
    /// Where the bytes start, from the start of the packet memory.
    pub(crate) address: u64,
    /// How many bytes.
    pub(crate) length: u32,
    /// [`CONTINUED`] or 0.
    pub(crate) options: u32,
}

/// The packet goes on in the next descriptor (XDP_PKT_CONTD).
pub(crate) const CONTINUED: u32 = libc::XDP_PKT_CONTD;

const NEED_WAKEUP: u32 = libc::XDP_RING_NEED_WAKEUP;

/// Where a ring's parts are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) producer: *mut u32,
    pub(crate) consumer: *mut u32,
    pub(crate) flags: *mut u32,
    pub(crate) descriptors: *mut Descriptor,
    /// Entries, a power of two.
    pub(crate) size: u32,
}

/// The producer's end of a transmit ring.
#[derive(Debug)]
pub(crate) struct TransmitRing {
    layout: Layout,
    /// The next entry to write; ahead of the shared position until published.
    next: u32,
    /// The consumer's position when last looked at.
    taken: u32,
}

// SAFETY: the pointers lead to memory shared with the kernel, which does not care what thread it is reached from;
// `&mut self` keeps producers to one at a time.
unsafe impl Send for TransmitRing {}

impl TransmitRing {
    /// The ring at `layout`.
    ///
    /// # Safety
    /// The pointers are aligned and valid for as long as the ring lives, `descriptors` for `size` entries, and nobody else produces.
    pub(crate) unsafe fn new(layout: Layout) -> TransmitRing {
        assert!(layout.size.is_power_of_two());
        let mut ring = TransmitRing {
            layout,
            next: 0,
            taken: 0,
        };
        ring.next = ring.producer().load(Ordering::Relaxed);
        ring.taken = ring.consumer().load(Ordering::Acquire);
        ring
    }

    /// True if `count` more descriptors fit.
    #[inline]
    pub(crate) fn fits(&mut self, count: u32) -> bool {
        if self.room() < count {
            self.taken = self.consumer().load(Ordering::Acquire);
        }
        self.room() >= count
    }

    /// Writes the next descriptor, which the kernel sees from [`TransmitRing::publish`] on; it must fit.
    #[inline]
    pub(crate) fn write(&mut self, descriptor: Descriptor) {
        assert!(self.room() > 0, "the caller asked whether it fits");
        let index = (self.next & (self.layout.size - 1)) as usize;
        // SAFETY: the mask keeps the index inside the ring, and the kernel reads no entry that is not published.
        unsafe { self.layout.descriptors.add(index).write(descriptor) };
        self.next = self.next.wrapping_add(1);
    }

    /// Shows the kernel all that was written.
    #[inline]
    pub(crate) fn publish(&mut self) {
        self.producer().store(self.next, Ordering::Release);
    }

    /// How many descriptors the kernel has not taken yet.
    #[inline]
    pub(crate) fn waiting(&mut self) -> u32 {
        self.taken = self.consumer().load(Ordering::Acquire);
        self.next.wrapping_sub(self.taken)
    }

    /// True if the kernel sends only when told.
    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        // SAFETY: valid and aligned by the contract of `new`; the kernel writes it at any time, hence atomic.
        let flags = unsafe { AtomicU32::from_ptr(self.layout.flags) };
        flags.load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    #[inline]
    fn room(&self) -> u32 {
        self.layout.size - self.next.wrapping_sub(self.taken)
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: as in `needs_wakeup`.
        unsafe { AtomicU32::from_ptr(self.layout.producer) }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `needs_wakeup`.
        unsafe { AtomicU32::from_ptr(self.layout.consumer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Anonymous memory in place of the kernel's mapping; positions start just before they wrap.
    struct Memory {
        words: Box<[u32; 3]>,
        descriptors: Box<[Descriptor; 4]>,
    }

    const START: u32 = u32::MAX - 1;

    fn memory() -> Memory {
        Memory {
            words: Box::new([START, START, 0]),
            descriptors: Box::default(),
        }
    }

    fn ring(memory: &mut Memory) -> (TransmitRing, Layout) {
        let words = memory.words.as_mut_ptr();
        let layout = Layout {
            producer: words,
            consumer: words.wrapping_add(1),
            flags: words.wrapping_add(2),
            descriptors: memory.descriptors.as_mut_ptr(),
            size: 4,
        };
        // SAFETY: `memory` outlives the ring in each test.
        (unsafe { TransmitRing::new(layout) }, layout)
    }

    fn descriptor(address: u64) -> Descriptor {
        Descriptor {
            address,
            length: 1,
            options: 0,
        }
    }

    #[test]
    fn fills_wraps_and_empties() {
        let mut memory = memory();
        let (mut ring, layout) = ring(&mut memory);
        for address in 0..4 {
            assert!(ring.fits(1));
            ring.write(descriptor(address));
        }
        assert!(!ring.fits(1));
        // SAFETY: the test plays the kernel, on its own memory.
        unsafe {
            assert_eq!(
                layout.producer.read(),
                START,
                "nothing is seen before it is published"
            );
            ring.publish();
            assert_eq!(layout.producer.read(), START.wrapping_add(4));
            assert_eq!(ring.waiting(), 4);
            layout.consumer.write(START.wrapping_add(3));
        }
        assert!(ring.fits(3) && !ring.fits(4));
        assert_eq!(ring.waiting(), 1);
        ring.write(descriptor(9));
        ring.publish();
        assert_eq!(
            memory.descriptors[2],
            descriptor(9),
            "the fifth lies where the first lay"
        );
    }

    #[test]
    fn says_when_the_kernel_wants_to_be_told() {
        let mut memory = memory();
        let (ring, layout) = ring(&mut memory);
        assert!(!ring.needs_wakeup());
        // SAFETY: the test plays the kernel, on its own memory.
        unsafe { layout.flags.write(NEED_WAKEUP) };
        assert!(ring.needs_wakeup());
    }
}
