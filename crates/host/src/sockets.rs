//! The ports that the sockets of the caller's namespace are at, by the kernel's socket diagnostics (sock_diag(7)).

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's enums are not ours, and grow with the kernel"
)]

use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use podway_wire::Protocol;
use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};

/// Which sockets are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sockets {
    /// Those that anybody may send to: TCP's that listen, and all of UDP. Few, whatever the node does.
    Open,
    /// TCP's connections, too.
    All,
}

/// What is asked of the kernel's filter for ports (inet_diag.h).
const INET_DIAG_REQ_BYTECODE: u8 = 1;
const SOURCE_AT_LEAST: u8 = 2;
const SOURCE_AT_MOST: u8 = 3;

/// The protocols and ports of a range at which the caller's namespace has sockets of its own.
pub fn ports_in_use(
    ports: &RangeInclusive<u16>,
    sockets: Sockets,
) -> io::Result<BTreeSet<(Protocol, u16)>> {
    let tcp = match sockets {
        Sockets::Open => StateFlags::LISTEN,
        // What waits for its time to be over needs no packets.
        Sockets::All => StateFlags::all() - StateFlags::TIME_WAIT,
    };
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut found = BTreeSet::new();
    for (number, protocol, states) in [
        (IPPROTO_TCP, Protocol::TCP, tcp),
        (IPPROTO_UDP, Protocol::UDP, StateFlags::all()),
    ] {
        for (family, id) in [
            (AF_INET, SocketId::new_v4()),
            (AF_INET6, SocketId::new_v6()),
        ] {
            let request = InetRequest {
                family,
                protocol: number,
                extensions: ExtensionFlags::empty(),
                states: states.clone(),
                socket_id: id,
            };
            socket.send(&question(request, ports), 0)?;
            answers(&socket, |port| {
                found.insert((protocol, port));
            })?;
        }
    }
    Ok(found)
}

/// The request with the filter behind it, which the library's message has no place for.
fn question(request: InetRequest, ports: &RangeInclusive<u16>) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes.extend(filter(ports));
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes
}

/// From the first to the last port: each test is followed by its number, and goes on by so many bytes if it holds; who jumps
/// over the end is left out.
fn filter(ports: &RangeInclusive<u16>) -> Vec<u8> {
    let step = |code: u8, yes: u8, no: u16| {
        let [low, high] = no.to_ne_bytes();
        [code, yes, low, high]
    };
    let steps = [
        step(SOURCE_AT_LEAST, 8, 20),
        step(0, 0, *ports.start()),
        step(SOURCE_AT_MOST, 8, 12),
        step(0, 0, *ports.end()),
    ];
    let mut attribute = Vec::from(20_u16.to_ne_bytes());
    attribute.extend([INET_DIAG_REQ_BYTECODE, 0]);
    attribute.extend(steps.concat());
    attribute
}

/// Reads answers up to their end.
fn answers(socket: &Socket, mut take: impl FnMut(u16)) -> io::Result<()> {
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let length = (message.header.length as usize).next_multiple_of(4).max(16);
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    take(response.header.socket_id.source_port);
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn r3_listeners_datagram_sockets_and_connections_are_told_by_their_ports() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let datagrams = UdpSocket::bind("[::1]:0").expect("a port");
        let connection = TcpStream::connect(listener.local_addr().expect("bound"));
        let connection = connection.expect("it listens");
        let port = |address: io::Result<std::net::SocketAddr>| address.expect("bound").port();
        let listens = (Protocol::TCP, port(listener.local_addr()));
        let takes = (Protocol::UDP, port(datagrams.local_addr()));
        let connected = (Protocol::TCP, port(connection.local_addr()));
        let open = ports_in_use(&(0..=65_535), Sockets::Open).expect("told");
        assert!(open.contains(&listens) && open.contains(&takes), "{open:?}");
        assert!(!open.contains(&connected), "{open:?}");
        let all = ports_in_use(&(0..=65_535), Sockets::All).expect("told");
        assert!(
            all.is_superset(&[listens, takes, connected].into()),
            "{all:?}"
        );
        let only = ports_in_use(&(connected.1..=connected.1), Sockets::All).expect("told");
        assert_eq!(only, [connected].into(), "the kernel filters");
    }
}
