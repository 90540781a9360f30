//! How a NIC's sockets are to be bound, and why not better: what its driver says that it can, and what the link needs.

use std::fmt;

use crate::attach::Mode;
use crate::kernel::Bound;

/// What the driver of a device can do for XDP, as the kernel says (netdev's `xdp-features` and `xdp-zc-max-segs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Bits of `enum netdev_xdp_act`.
    pub features: u64,
    /// Buffers of one packet in zero-copy, at most.
    pub segments: u32,
}

/// NETDEV_XDP_ACT_XSK_ZEROCOPY.
const ZERO_COPY: u64 = 1 << 3;
/// What is in front of a packet in its buffer (XDP_PACKET_HEADROOM), and its Ethernet header with a tag, in bytes.
const IN_FRONT: u32 = 256 + 14 + 4;
/// Bytes of a chunk of packet memory.
const CHUNK: u32 = 4096;
/// The largest IP packet of a link whose packets are one buffer each, in bytes.
pub const SINGLE_BUFFER_MTU: u32 = CHUNK - IN_FRONT;

/// Why a port is not bound the next better way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The program is not in the driver, so that no buffer of the driver's reaches a socket; with the kernel's reason.
    Generic(String),
    /// The driver has no zero-copy.
    NoZeroCopy,
    /// Its zero-copy takes packets of one buffer, and the link's are larger.
    LargeMtu(u32),
    /// Its zero-copy takes packets of one buffer, which is all that this link needs.
    SingleBuffer,
    /// The kernel refused what the driver says that it can.
    Refused(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Generic(reason) => write!(
                f,
                "the XDP program is not in the driver ({reason}), and packets are copied after the stack made them"
            ),
            Why::NoZeroCopy => f.write_str("the driver has no zero-copy for AF_XDP"),
            Why::LargeMtu(mtu) => write!(
                f,
                "the driver's zero-copy takes packets of one buffer, and an MTU of {mtu} needs more: set it to {SINGLE_BUFFER_MTU} or less for zero-copy"
            ),
            Why::SingleBuffer => write!(
                f,
                "the driver's zero-copy takes packets of one buffer, up to an MTU of {SINGLE_BUFFER_MTU}"
            ),
            Why::Refused(reason) => write!(f, "the kernel refused zero-copy: {reason}"),
        }
    }
}

/// How to bind a device's sockets, and why not better.
pub fn choose(mode: Mode, can: Capabilities, mtu: u32) -> (Bound, Option<Why>) {
    match mode {
        // The kernel would grant zero-copy, and nothing would ever be received.
        Mode::Generic => (Bound::Copy, None),
        Mode::Native if can.features & ZERO_COPY == 0 => (Bound::Copy, Some(Why::NoZeroCopy)),
        Mode::Native if can.segments > 1 => (Bound::ZeroCopy, None),
        Mode::Native if mtu > SINGLE_BUFFER_MTU => (Bound::Copy, Some(Why::LargeMtu(mtu))),
        Mode::Native => (Bound::ZeroCopySingle, Some(Why::SingleBuffer)),
    }
}

impl Bound {
    /// The largest IP packet that passes a socket that is bound so, in bytes.
    pub fn largest(self) -> u32 {
        match self {
            Bound::Copy | Bound::ZeroCopy => u32::from(u16::MAX),
            Bound::ZeroCopySingle => SINGLE_BUFFER_MTU,
        }
    }

    /// Whether its packet memory is its own, beside that of the worker's other sockets.
    pub fn has_own_memory(self) -> bool {
        match self {
            Bound::Copy => false,
            Bound::ZeroCopySingle | Bound::ZeroCopy => true,
        }
    }

    /// As users see it.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Copy => "copy",
            Bound::ZeroCopySingle => "zero-copy single",
            Bound::ZeroCopy => "zero-copy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(features: u64, segments: u32) -> Capabilities {
        Capabilities { features, segments }
    }

    #[test]
    fn nic2_generic_xdp_is_never_asked_for_zero_copy_whatever_the_driver_says() {
        for segments in [0, 1, 17] {
            let (bound, _) = choose(Mode::Generic, driver(u64::MAX, segments), 1500);
            assert_eq!(bound, Bound::Copy);
        }
    }

    #[test]
    fn nic4_a_packet_that_the_link_takes_is_one_that_the_binding_carries() {
        for features in [0, ZERO_COPY, u64::MAX] {
            for segments in [0, 1, 2, 17] {
                for mtu in [
                    1280,
                    1500,
                    SINGLE_BUFFER_MTU,
                    SINGLE_BUFFER_MTU + 1,
                    9000,
                    65535,
                ] {
                    for mode in [Mode::Native, Mode::Generic] {
                        let (bound, _) = choose(mode, driver(features, segments), mtu);
                        assert!(bound.largest() >= mtu, "{bound:?} at {mtu}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_the_driver_can_is_used_and_what_it_can_not_is_said() {
        let of = |can, mtu| choose(Mode::Native, can, mtu);
        assert_eq!(of(driver(7, 0), 1500), (Bound::Copy, Some(Why::NoZeroCopy)));
        assert_eq!(
            of(driver(ZERO_COPY, 1), 1500),
            (Bound::ZeroCopySingle, Some(Why::SingleBuffer))
        );
        assert_eq!(
            of(driver(ZERO_COPY, 1), 9000),
            (Bound::Copy, Some(Why::LargeMtu(9000)))
        );
        assert_eq!(of(driver(ZERO_COPY, 17), 9000), (Bound::ZeroCopy, None));
    }
}
