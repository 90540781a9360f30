//! Where a table's slots are: in memory of its own, or in memory that it was lent, which may outlive the process.
#![allow(unsafe_code)]

use std::ops::Deref;
use std::ptr::NonNull;

use crate::slot::Slot;

/// All slots of a table.
pub(crate) struct Slots {
    all: NonNull<[Slot]>,
    memory: Memory,
}

enum Memory {
    Own,
    #[cfg(not(loom))]
    Lent,
}

// SAFETY: `all` is a slice of atomics that lives as long as this value; nothing else is behind it.
unsafe impl Send for Slots {}
// SAFETY: as above: whatever threads do to atomics at once is defined.
unsafe impl Sync for Slots {}

impl Slots {
    /// So many new ones.
    pub(crate) fn own(count: usize) -> Slots {
        let slots: Box<[Slot]> = (0..count).map(|_| Slot::new()).collect();
        Slots {
            all: NonNull::from(Box::leak(slots)),
            memory: Memory::Own,
        }
    }

    /// Those in this memory, whatever it holds; `None` if it does not begin and end with a slot.
    #[cfg(not(loom))]
    pub(crate) fn lent(memory: &'static [crate::sync::AtomicU64]) -> Option<Slots> {
        // SAFETY: a slot is nothing but atomics without padding (its size is asserted), so that any bits are one.
        let (before, slots, after) = unsafe { memory.align_to::<Slot>() };
        (before.is_empty() && after.is_empty()).then(|| Slots {
            all: NonNull::from(slots),
            memory: Memory::Lent,
        })
    }

    /// Where they are.
    pub(crate) fn memory(&self) -> NonNull<[u8]> {
        bytes(self)
    }
}

/// The bytes that a slice takes.
pub(crate) fn bytes<T>(slice: &[T]) -> NonNull<[u8]> {
    NonNull::slice_from_raw_parts(NonNull::from(slice).cast(), size_of_val(slice))
}

impl Deref for Slots {
    type Target = [Slot];

    #[inline(always)]
    fn deref(&self) -> &[Slot] {
        // SAFETY: `all` came from a leaked box that is freed in `drop`, or from a 'static slice.
        unsafe { self.all.as_ref() }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        match self.memory {
            // SAFETY: `own` leaked this box, and nobody else frees it.
            Memory::Own => drop(unsafe { Box::from_raw(self.all.as_ptr()) }),
            #[cfg(not(loom))]
            Memory::Lent => {}
        }
    }
}
