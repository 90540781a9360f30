//! Packets from the wire, and what the program is told to take of them.

use podway_wire::Protocol;
use podway_xsk::Plan;

pub(crate) const NODE4: [u8; 4] = [192, 0, 2, 1];
pub(crate) const POD4: [u8; 4] = [10, 244, 1, 7];
pub(crate) const OTHER4: [u8; 4] = [198, 51, 100, 9];

pub(crate) fn node6() -> [u8; 16] {
    "2001:db8::1"
        .parse::<std::net::Ipv6Addr>()
        .expect("address")
        .octets()
}

pub(crate) fn pod6() -> [u8; 16] {
    "fd00:1::7"
        .parse::<std::net::Ipv6Addr>()
        .expect("address")
        .octets()
}

pub(crate) fn plan() -> Plan {
    Plan {
        local: vec![
            "10.244.1.0/24".parse().expect("range"),
            "10.96.0.0/16".parse().expect("range"),
            "fd00:1::/64".parse().expect("range"),
        ],
        node_addresses: vec![NODE4.into(), node6().into()],
        direct: Vec::new(),
        tunnel_port: Some(4789),
        node_ports: vec![(Protocol::TCP, 30080), (Protocol::UDP, 30053)],
        snat_ports: Some(61000..=61999),
        ..Plan::default()
    }
}

/// An Ethernet header, `tags` of 802.1Q, and `rest`.
pub(crate) fn ethernet(kind: u16, tags: usize, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for _ in 0..tags {
        bytes.extend([0x81, 0x00, 0x00, 0x05]);
    }
    bytes.extend(kind.to_be_bytes());
    bytes.extend(rest);
    bytes
}

/// An IPv4 packet with `options` words of padding and the given fragment field.
pub(crate) fn ipv4(
    target: [u8; 4],
    protocol: u8,
    fragment: u16,
    options: usize,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![0x45 + options as u8, 0];
    bytes.extend(((20 + options * 4 + payload.len()) as u16).to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(OTHER4);
    bytes.extend(target);
    bytes.extend(vec![1; options * 4]);
    bytes.extend(payload);
    bytes
}

/// An IPv6 packet whose payload begins with the headers of `chain`: (type, its bytes with the next type at 0).
pub(crate) fn ipv6(
    target: [u8; 16],
    chain: &[(u8, Vec<u8>)],
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut body = Vec::new();
    for (place, (_, header)) in chain.iter().enumerate() {
        let next = chain.get(place + 1).map_or(protocol, |(kind, _)| *kind);
        let at = body.len();
        body.extend(header);
        body[at] = next;
    }
    body.extend(payload);
    let first = chain.first().map_or(protocol, |(kind, _)| *kind);
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend([first, 64]);
    bytes.extend(pod6());
    bytes.extend(target);
    bytes.extend(body);
    bytes
}

/// Ports, a length and a checksum: enough for UDP, and the start of TCP and SCTP.
pub(crate) fn transport(source: u16, target: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(target.to_be_bytes());
    bytes.extend([0, 30, 0, 0]);
    bytes.extend([0; 22]);
    bytes
}

pub(crate) fn icmp(kind: u8, identifier: u16, quoted: &[u8]) -> Vec<u8> {
    icmp_of((kind, 0), identifier, quoted)
}

/// ICMP of a type and a code.
fn icmp_of((kind, code): (u8, u8), identifier: u16, quoted: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(identifier.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(quoted);
    bytes
}

pub(crate) fn options_header() -> Vec<u8> {
    vec![0, 0, 1, 4, 0, 0, 0, 0]
}

pub(crate) fn fragment_header(offset_and_more: u16) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend(offset_and_more.to_be_bytes());
    bytes.extend([0, 0, 0, 9]);
    bytes
}

/// Packets from the wire, what they are, and the counter that moves; `Some` if they are ours.
pub(crate) fn from_the_wire() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let v4 = |rest: Vec<u8>| ethernet(0x0800, 0, &rest);
    let v6 = |rest: Vec<u8>| ethernet(0x86dd, 0, &rest);
    let (tcp, udp, sctp) = (6, 17, 132);
    let to_tunnel = transport(5000, 4789);
    let to_peer = (50000, 4789);
    let quoted4 =
        |protocol, (source, target)| ipv4(OTHER4, protocol, 0x4000, 0, &transport(source, target));
    let quoted6 =
        |protocol, (source, target)| ipv6(pod6(), &[], protocol, &transport(source, target));
    let needed = |quoted: &[u8]| icmp_of((3, 4), 0, quoted);
    let hop = |count| {
        (0..count)
            .map(|_| (60, options_header()))
            .collect::<Vec<_>>()
    };
    vec![
        ("VXLAN", v4(ipv4(NODE4, udp, 0, 0, &to_tunnel)), "tunnel"),
        (
            "VXLAN behind IP options",
            v4(ipv4(NODE4, udp, 0, 10, &to_tunnel)),
            "tunnel",
        ),
        (
            "VXLAN behind a VLAN tag",
            ethernet(0x0800, 1, &ipv4(NODE4, udp, 0, 0, &to_tunnel)),
            "uplink-pass",
        ),
        (
            "VXLAN behind two tags",
            ethernet(0x86dd, 2, &ipv6(node6(), &[], udp, &to_tunnel)),
            "uplink-pass",
        ),
        (
            "a node port behind 8 tags",
            ethernet(0x0800, 8, &ipv4(NODE4, tcp, 0, 0, &transport(1, 30080))),
            "uplink-pass",
        ),
        (
            "behind 9 tags",
            ethernet(0x0800, 9, &ipv4(NODE4, tcp, 0, 0, &transport(5000, 22))),
            "uplink-tagged",
        ),
        (
            "to a pod behind a tag",
            ethernet(0x0800, 1, &ipv4(POD4, tcp, 0, 0, &transport(5000, 80))),
            "uplink-tagged",
        ),
        (
            "to a service behind two tags",
            ethernet(
                0x0800,
                2,
                &ipv4([10, 96, 3, 3], udp, 0, 0, &transport(1, 2)),
            ),
            "uplink-tagged",
        ),
        (
            "to a pod over IPv6 behind 8 tags",
            ethernet(0x86dd, 8, &ipv6(pod6(), &[], tcp, &transport(5000, 80))),
            "uplink-tagged",
        ),
        (
            "ARP behind a tag",
            ethernet(0x0806, 1, &[0; 28]),
            "uplink-pass",
        ),
        (
            "VXLAN over IPv6",
            v6(ipv6(node6(), &[], udp, &to_tunnel)),
            "tunnel",
        ),
        (
            "VXLAN behind 8 headers",
            v6(ipv6(node6(), &hop(8), udp, &to_tunnel)),
            "tunnel",
        ),
        (
            "VXLAN behind 9 headers",
            v6(ipv6(node6(), &hop(9), udp, &to_tunnel)),
            "uplink-unread",
        ),
        (
            "VXLAN behind AH",
            v6(ipv6(
                node6(),
                &[(51, vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
                udp,
                &to_tunnel,
            )),
            "tunnel",
        ),
        (
            "VXLAN, first fragment",
            v4(ipv4(NODE4, udp, 0x2000, 0, &to_tunnel)),
            "tunnel",
        ),
        (
            "a later fragment",
            v4(ipv4(NODE4, udp, 0x2004, 0, &to_tunnel)),
            "uplink-pass",
        ),
        (
            "the last fragment",
            v4(ipv4(NODE4, udp, 0x0004, 0, &to_tunnel)),
            "uplink-pass",
        ),
        (
            "VXLAN over IPv6, first fragment",
            v6(ipv6(node6(), &[(44, fragment_header(1))], udp, &to_tunnel)),
            "tunnel",
        ),
        (
            "a later IPv6 fragment",
            v6(ipv6(
                node6(),
                &[(44, fragment_header(0x101))],
                udp,
                &to_tunnel,
            )),
            "uplink-pass",
        ),
        (
            "VXLAN to another node",
            v4(ipv4(OTHER4, udp, 0, 0, &to_tunnel)),
            "uplink-pass",
        ),
        (
            "TCP to the tunnel's port",
            v4(ipv4(NODE4, tcp, 0, 0, &to_tunnel)),
            "uplink-pass",
        ),
        (
            "SSH to the node",
            v4(ipv4(NODE4, tcp, 0, 0, &transport(5000, 22))),
            "uplink-pass",
        ),
        (
            "SSH to the node over IPv6",
            v6(ipv6(node6(), &[], tcp, &transport(5000, 22))),
            "uplink-pass",
        ),
        (
            "to a pod",
            v4(ipv4(POD4, tcp, 0, 0, &transport(5000, 80))),
            "local",
        ),
        (
            "to a pod, a later fragment",
            v4(ipv4(POD4, tcp, 0x0004, 0, &[])),
            "local",
        ),
        (
            "to a pod over IPv6",
            v6(ipv6(pod6(), &hop(9), tcp, &[])),
            "local",
        ),
        (
            "to a service",
            v4(ipv4([10, 96, 3, 3], sctp, 0, 0, &transport(1, 2))),
            "local",
        ),
        (
            "to a node port",
            v4(ipv4(NODE4, tcp, 0, 0, &transport(5000, 30080))),
            "node-port",
        ),
        (
            "to that port by UDP",
            v4(ipv4(NODE4, udp, 0, 0, &transport(5000, 30080))),
            "uplink-pass",
        ),
        (
            "to a node port over IPv6",
            v6(ipv6(node6(), &[], udp, &transport(5000, 30053))),
            "node-port",
        ),
        (
            "to a node port of another node",
            v4(ipv4(OTHER4, tcp, 0, 0, &transport(5000, 30080))),
            "uplink-pass",
        ),
        (
            "an answer to masqueraded TCP",
            v4(ipv4(NODE4, tcp, 0, 0, &transport(443, 61000))),
            "snat",
        ),
        (
            "the last masquerading port",
            v4(ipv4(NODE4, sctp, 0, 0, &transport(443, 61999))),
            "snat",
        ),
        (
            "one after the last",
            v4(ipv4(NODE4, tcp, 0, 0, &transport(443, 62000))),
            "uplink-pass",
        ),
        (
            "ping to the node",
            v4(ipv4(NODE4, 1, 0, 0, &icmp(8, 61500, &[]))),
            "uplink-pass",
        ),
        (
            "an answer to a masqueraded ping",
            v4(ipv4(NODE4, 1, 0, 0, &icmp(0, 61500, &[]))),
            "snat",
        ),
        (
            "an answer to the node's own ping",
            v4(ipv4(NODE4, 1, 0, 0, &icmp(0, 77, &[]))),
            "uplink-pass",
        ),
        (
            "ICMPv6 answer to a masqueraded ping",
            v6(ipv6(node6(), &[], 58, &icmp(129, 61500, &[]))),
            "snat",
        ),
        (
            "an error about masqueraded TCP",
            v4(ipv4(
                NODE4,
                1,
                0,
                0,
                &icmp(3, 0, &ipv4(OTHER4, tcp, 0, 1, &transport(61007, 443))),
            )),
            "snat",
        ),
        (
            "an error about a node port's answer",
            v4(ipv4(
                NODE4,
                1,
                0,
                0,
                &icmp(11, 0, &ipv4(OTHER4, tcp, 0, 0, &transport(30080, 443))),
            )),
            "node-port",
        ),
        (
            "an error about the node's own TCP",
            v4(ipv4(
                NODE4,
                1,
                0,
                0,
                &icmp(3, 0, &ipv4(OTHER4, tcp, 0, 0, &transport(40000, 443))),
            )),
            "uplink-pass",
        ),
        (
            "host unreachable about our tunnel",
            v4(ipv4(NODE4, 1, 0, 0, &icmp(3, 0, &quoted4(udp, to_peer)))),
            "uplink-pass",
        ),
        (
            "time exceeded about our tunnel",
            v4(ipv4(
                NODE4,
                1,
                0,
                0,
                &icmp_of((11, 4), 0, &quoted4(udp, to_peer)),
            )),
            "uplink-pass",
        ),
        (
            "R6: fragmentation needed about our tunnel",
            v4(ipv4(NODE4, 1, 0, 0, &needed(&quoted4(udp, to_peer)))),
            "tunnel-error",
        ),
        (
            "R6: fragmentation needed about our tunnel behind IP options",
            v4(ipv4(
                NODE4,
                1,
                0,
                3,
                &needed(&ipv4(OTHER4, udp, 0x4000, 2, &transport(50000, 4789))),
            )),
            "tunnel-error",
        ),
        (
            "R6: fragmentation needed about our tunnel, of a masquerading source port",
            v4(ipv4(NODE4, 1, 0, 0, &needed(&quoted4(udp, (61007, 4789))))),
            "tunnel-error",
        ),
        (
            "R6: fragmentation needed about our tunnel that quotes no more than ports",
            v4(ipv4(
                NODE4,
                1,
                0,
                0,
                &needed(&ipv4(OTHER4, udp, 0, 0, &transport(50000, 4789)[..4])),
            )),
            "tunnel-error",
        ),
        (
            "R6: fragmentation needed about our tunnel, to another node",
            v4(ipv4(OTHER4, 1, 0, 0, &needed(&quoted4(udp, to_peer)))),
            "uplink-pass",
        ),
        (
            "R6: fragmentation needed about masqueraded TCP",
            v4(ipv4(NODE4, 1, 0, 0, &needed(&quoted4(tcp, (61007, 4789))))),
            "snat",
        ),
        (
            "R6: fragmentation needed about the node's own TCP to that port",
            v4(ipv4(NODE4, 1, 0, 0, &needed(&quoted4(tcp, to_peer)))),
            "uplink-pass",
        ),
        (
            "R6: packet too big about our tunnel",
            v6(ipv6(node6(), &[], 58, &icmp(2, 0, &quoted6(udp, to_peer)))),
            "tunnel-error",
        ),
        (
            "R6: packet too big about our tunnel behind headers",
            v6(ipv6(
                node6(),
                &hop(2),
                58,
                &icmp(2, 0, &quoted6(udp, to_peer)),
            )),
            "tunnel-error",
        ),
        (
            "no route about our tunnel over IPv6",
            v6(ipv6(node6(), &[], 58, &icmp(1, 0, &quoted6(udp, to_peer)))),
            "uplink-pass",
        ),
        (
            "R6: packet too big about the node's own datagrams",
            v6(ipv6(
                node6(),
                &[],
                58,
                &icmp(2, 0, &quoted6(udp, (40000, 53))),
            )),
            "uplink-pass",
        ),
        (
            "an error from the tunnel's port",
            v4(ipv4(
                NODE4,
                1,
                0,
                0,
                &icmp(3, 0, &ipv4(OTHER4, udp, 0, 0, &transport(4789, 4789))),
            )),
            "uplink-pass",
        ),
        (
            "packet too big for masqueraded UDP",
            v6(ipv6(
                node6(),
                &[],
                58,
                &icmp(2, 0, &ipv6(pod6(), &[], udp, &transport(61007, 53))),
            )),
            "snat",
        ),
        (
            "an error that quotes nothing",
            v4(ipv4(NODE4, 1, 0, 0, &icmp(3, 0, &[]))),
            "uplink-unread",
        ),
        ("ARP", ethernet(0x0806, 0, &[0; 28]), "uplink-pass"),
        (
            "an IPv4 header cut short",
            v4(vec![0x45; 19]),
            "uplink-unread",
        ),
        (
            "an IPv4 header that claims 4 words",
            v4(vec![0x44; 24]),
            "uplink-unread",
        ),
        (
            "IPv6 by type, not by version",
            v6(vec![0x45; 40]),
            "uplink-unread",
        ),
        (
            "UDP without ports",
            v4(ipv4(NODE4, udp, 0, 0, &[1])),
            "uplink-unread",
        ),
        (
            "a tag and nothing after it",
            ethernet(0x8100, 0, &[0, 5]),
            "uplink-unread",
        ),
        (
            "an IPv6 header that leads nowhere",
            v6(ipv6(node6(), &[(0, vec![0, 255])], udp, &[])),
            "uplink-unread",
        ),
    ]
}
