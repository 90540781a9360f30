//! Packets at random, to where services and others are.

use std::net::IpAddr;

use podway_wire::{Content, FlowKey, Frame, Icmp, Parsed, Protocol};

use crate::world::{Dice, ip};

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Pod,
    Host,
    World,
    Peer,
}

/// A packet, as the evaluator sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) origin: Origin,
    pub(crate) source: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) target: IpAddr,
    pub(crate) target_port: u16,
    pub(crate) protocol: Protocol,
}

/// A packet to where services and others are.
pub(crate) fn packet(dice: &mut Dice) -> Packet {
    let v6 = dice.below(4) == 0;
    let origin = dice.of(&[Origin::Pod, Origin::Host, Origin::World, Origin::Peer]);
    let sources: &[&str] = match (origin, v6) {
        (Origin::Pod, false) => &["10.244.1.10"],
        (Origin::Pod, true) => &["fd44:0:0:1::10"],
        (Origin::Host, false) => &["192.168.0.1", "192.168.0.3", "172.16.0.9"],
        (Origin::Host, true) => &["fd50::1", "fdaa::1"],
        (Origin::World, false) => &[
            "203.0.113.7",
            "203.0.113.200",
            "198.51.100.2",
            "192.168.0.2",
        ],
        (Origin::World, true) => &["fdbb::7"],
        (Origin::Peer, false) => &["10.244.2.10", "192.168.0.2"],
        (Origin::Peer, true) => &["fd44:0:0:2::10", "fd50::2"],
    };
    let targets: &[&str] = match v6 {
        false => &[
            "10.96.0.1",
            "10.96.0.1",
            "10.96.0.2",
            "10.96.0.2",
            "10.96.0.3",
            "10.96.0.9",
            "198.51.100.1",
            "198.51.100.2",
            "198.51.100.3",
            "192.168.0.1",
            "192.168.0.1",
            "192.168.0.3",
            "192.168.0.3",
            "192.168.0.2",
            "8.8.8.8",
            "10.244.1.11",
            "10.244.2.11",
            "203.0.113.50",
            "10.244.1.77",
        ],
        true => &[
            "fd96::1",
            "fd96::2",
            "fd96::3",
            "fd96::9",
            "fdee::1",
            "fdee::2",
            "fd50::1",
            "fd44:0:0:2::11",
        ],
    };
    let target = ip(dice.of(targets));
    let node = target.to_string().starts_with("192.168.") || target == ip("fd50::1");
    let ports: &[u16] = match node {
        true => &[30_000, 30_000, 30_001, 30_001, 30_002, 80],
        false => &[80, 80, 80, 80, 81, 81, 30_000],
    };
    let (tcp, udp) = (Protocol::TCP, Protocol::UDP);
    Packet {
        origin,
        source: ip(dice.of(sources)),
        source_port: 1_024 + dice.below(60_000) as u16,
        target,
        target_port: dice.of(ports),
        protocol: dice.of(&[
            tcp,
            tcp,
            tcp,
            tcp,
            tcp,
            udp,
            udp,
            Protocol::SCTP,
            Protocol(47),
        ]),
    }
}

impl Packet {
    /// What the engine reads of it.
    pub(crate) fn parsed(&self) -> Parsed {
        thread_local! {
            static SHAPES: [Parsed; 2] = [shape(4), shape(6)];
        }
        let shape = SHAPES.with(|shapes| shapes[usize::from(self.source.is_ipv6())]);
        Parsed {
            key: FlowKey {
                source: self.source.into(),
                target: self.target.into(),
                source_port: if self.protocol.has_ports() {
                    self.source_port
                } else {
                    0
                },
                target_port: if self.protocol.has_ports() {
                    self.target_port
                } else {
                    0
                },
                protocol: self.protocol,
            },
            icmp: Icmp::No,
            ..shape
        }
    }
}

fn shape(version: u8) -> Parsed {
    let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
    let builder = match version {
        4 => builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
        _ => builder.ipv6([0xfd; 16], [0xfc; 16], 64),
    };
    let mut bytes = Vec::new();
    builder
        .udp(1, 2)
        .write(&mut bytes, &[0; 8])
        .expect("a packet");
    let length = bytes.len();
    let frame = Frame::new(&mut bytes, 0, length, 0).expect("a frame");
    match Parsed::frame(&frame) {
        Ok(Content::Ip(parsed)) => parsed,
        other => panic!("{other:?}"),
    }
}
