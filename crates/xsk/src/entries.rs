//! Keys and values of the program's maps: what redirect.h says, in the types that the build makes of it.

use std::net::IpAddr;
use std::ptr;
use std::slice;

use ipnet::IpNet;
use podway_engine::Portless;
use podway_tables::{PortId, PortKind};
use podway_wire::{Addr, Protocol};

use crate::skeleton::types;

/// A key or value of a map, as the kernel takes it.
///
/// # Safety
/// It is plain data without gaps between its fields.
pub(crate) unsafe trait Entry: Sized {
    /// Its bytes.
    fn bytes(&self) -> Vec<u8> {
        // SAFETY: the bytes are this value's, and all of them are its fields' by the trait's contract.
        unsafe { slice::from_raw_parts(ptr::from_ref(self).cast(), size_of::<Self>()) }.to_vec()
    }
}

/// Types that are written field by field here: the build fails where C has others, or a gap between two.
macro_rules! entries {
    ($($entry:ident { $($field:ident),* })*) => { $(
        const _: () = {
            // SAFETY: zeroes are a value of integers.
            let types::$entry { $($field),* } = unsafe { std::mem::zeroed() };
            let fields = 0 $(+ size_of_val(&$field))*;
            assert!(size_of::<types::$entry>() == fields, "a gap between fields");
        };

        // SAFETY: what is above would not compile.
        unsafe impl Entry for types::$entry {}
    )* };
}

entries! {
    address { bytes }
    node_port { port, protocol, reserved }
    own_port { address, port, protocol, reserved }
    port { kind, index, reserved }
    portless { peer, protocol, reserved }
    prefix4 { length, address }
    prefix6 { length, address }
    settings { tunnel_port, snat_first, snat_last, reserved, host_ifindex }
}

/// Value of a device.
pub(crate) fn port(kind: PortKind, port: PortId) -> Vec<u8> {
    let kind = match kind {
        PortKind::Uplink => types::port_kind::PORT_UPLINK,
        PortKind::Host => types::port_kind::PORT_HOST,
        PortKind::Pod(_) => types::port_kind::PORT_POD,
    };
    let index = port.0;
    let reserved = 0;
    types::port {
        kind,
        index,
        reserved,
    }
    .bytes()
}

/// Key of a range.
pub(crate) fn prefix(net: &IpNet) -> Vec<u8> {
    let length = u32::from(net.prefix_len());
    match net.network() {
        IpAddr::V4(ip) => {
            let address = ip.octets();
            types::prefix4 { length, address }.bytes()
        }
        IpAddr::V6(ip) => {
            let address = ip.octets();
            types::prefix6 { length, address }.bytes()
        }
    }
}

/// Key of an address.
pub(crate) fn address(ip: IpAddr) -> Vec<u8> {
    of_address(ip).bytes()
}

fn of_address(ip: IpAddr) -> types::address {
    let bytes = Addr::from(ip).octets();
    types::address { bytes }
}

/// Key of a service's port at any of the node's addresses.
pub(crate) fn node_port(protocol: Protocol, port: u16) -> Vec<u8> {
    types::node_port {
        port,
        protocol: protocol.0,
        ..Default::default()
    }
    .bytes()
}

/// Key of a port at one address of the node.
pub(crate) fn own_port((ip, protocol, port): &(IpAddr, Protocol, u16)) -> Vec<u8> {
    types::own_port {
        address: of_address(*ip),
        port: *port,
        protocol: protocol.0,
        ..Default::default()
    }
    .bytes()
}

/// Key of a flow without ports.
pub(crate) fn portless(flow: &Portless) -> Vec<u8> {
    types::portless {
        peer: flow.peer.octets(),
        protocol: flow.protocol.0,
        ..Default::default()
    }
    .bytes()
}
