//! Where the table is: arrays of words, of our own or lent by whoever mapped them from the kernel.

use std::ops::Deref;

use crate::generations::GENERATIONS;
use crate::hash::SECRETS;
use crate::slot::{COUNT_WORDS, SLOT_WORDS};
use crate::sync::AtomicU64;

/// Slots of a bucket; a key may be in two of them. Four lose no key worth counting at half load, two lose 2 %.
pub(crate) const WAYS: usize = if cfg!(loom) { 1 } else { 4 };

/// A hash has 16 bits for each bucket.
const LARGEST: usize = WAYS << 16;

/// Word of `control`: until when slots hold, in ns of the kernel's monotonic clock; 0 closes the lane.
pub(crate) const HOLD_UNTIL: usize = 0;

/// First of the hash's secrets in `control`.
pub(crate) const FIRST_SECRET: usize = 1;

/// How many slots a table has: a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    slots: usize,
}

impl Shape {
    /// So many slots; `None` unless that is a power of two of at least a bucket and not more than the hash can tell apart.
    pub fn new(slots: usize) -> Option<Shape> {
        (slots.is_power_of_two() && (WAYS..=LARGEST).contains(&slots)).then_some(Shape { slots })
    }

    /// The slots.
    pub fn slots(self) -> usize {
        self.slots
    }

    /// Words of each array: slots, counts, generations, control.
    pub fn words(self) -> [usize; 4] {
        [
            self.slots * SLOT_WORDS,
            self.slots * COUNT_WORDS,
            GENERATIONS,
            FIRST_SECRET + SECRETS,
        ]
    }
}

/// The four arrays of a table.
pub struct Memory {
    pub(crate) shape: Shape,
    pub(crate) slots: Words,
    pub(crate) counts: Words,
    pub(crate) generations: Words,
    pub(crate) control: Words,
}

impl Memory {
    /// Memory of our own, all 0.
    pub fn own(shape: Shape) -> Memory {
        let [slots, counts, generations, control] = shape.words().map(Words::own);
        Memory {
            shape,
            slots,
            counts,
            generations,
            control,
        }
    }

    /// Memory that others see, too, whatever it holds, in the order of [`Shape::words`]; `None` if an array is too short.
    #[cfg(not(loom))]
    pub fn lent(shape: Shape, arrays: [&'static [AtomicU64]; 4]) -> Option<Memory> {
        let words = shape.words();
        let long_enough = arrays
            .iter()
            .zip(words)
            .all(|(array, words)| array.len() >= words);
        let [slots, counts, generations, control] = arrays.map(Words::Lent);
        long_enough.then_some(Memory {
            shape,
            slots,
            counts,
            generations,
            control,
        })
    }
}

/// One array.
pub(crate) enum Words {
    Own(Box<[AtomicU64]>),
    #[cfg(not(loom))]
    Lent(&'static [AtomicU64]),
}

impl Words {
    fn own(count: usize) -> Words {
        Words::Own((0..count).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        match self {
            Words::Own(words) => words,
            #[cfg(not(loom))]
            Words::Lent(words) => words,
        }
    }
}
