//! The clock that flows live by: it counts through suspend and never jumps.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine started (CLOCK_BOOTTIME).
pub(super) fn boot_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// A time in the flow table's milliseconds, which wrap every 49 days.
pub(super) fn flow_ms(boot_ns: u64) -> u32 {
    (boot_ns / 1_000_000) as u32
}
