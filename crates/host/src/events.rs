//! What the kernel tells of links, neighbours and routes by itself, on a socket of its own: a flood of it overruns that
//! socket's buffer, and must not take the answers to requests along.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;

/// ENOBUFS of errno.h: the socket's buffer was full.
const NO_BUFFERS: i32 = 105;
/// The length of a netlink message's header, and what messages are aligned to.
const HEADER: usize = 16;
const ALIGNMENT: usize = 4;

/// What was heard at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Events in their order.
    Events(Vec<RouteNetlinkMessage>),
    /// There was more than could be taken in: only a look at the kernel says what it is like now.
    TooMuch,
}

/// The kernel's events of one network namespace. What nobody takes is bounded by the socket's buffer.
pub struct KernelEvents {
    socket: TokioSocket,
}

impl KernelEvents {
    /// Listens from now on, in the caller's namespace; needs a tokio runtime.
    pub fn open(groups: &[MulticastGroup]) -> io::Result<KernelEvents> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let groups = groups.iter().map(|group| 1 << (*group as u32 - 1));
        let groups: u32 = groups.fold(0, |all, group: u32| all | group);
        socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
        Ok(KernelEvents { socket })
    }

    /// Waits for what comes next; a call that is dropped loses nothing.
    pub async fn next(&self) -> io::Result<Heard> {
        match self.socket.recv_from_full().await {
            Ok((datagram, _)) => Ok(read(&datagram).map_or(Heard::TooMuch, Heard::Events)),
            Err(error) if error.raw_os_error() == Some(NO_BUFFERS) => Ok(Heard::TooMuch),
            Err(error) => Err(error),
        }
    }
}

/// The messages of a datagram; `None` if one can't be read.
fn read(mut datagram: &[u8]) -> Option<Vec<RouteNetlinkMessage>> {
    let mut events = Vec::new();
    while datagram.len() >= HEADER {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram).ok()?;
        let length = (message.header.length as usize).next_multiple_of(ALIGNMENT);
        if let NetlinkPayload::InnerMessage(event) = message.payload {
            events.push(event);
        }
        datagram = datagram.get(length.max(HEADER)..).unwrap_or_default();
    }
    Some(events)
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::LinkMessage;

    use super::*;

    fn link(index: u32) -> Vec<u8> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewLink(link));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn a_datagram_has_all_its_messages_or_is_not_understood() {
        let both = [link(3), link(4)].concat();
        let events = read(&both).expect("two");
        let index = |event: &RouteNetlinkMessage| {
            let RouteNetlinkMessage::NewLink(link) = event else {
                return None;
            };
            Some(link.header.index)
        };
        let indices: Vec<_> = events.iter().map(index).collect();
        assert_eq!(indices, [Some(3), Some(4)]);
        assert_eq!(read(&both[..both.len() - 4]), None);
        assert_eq!(read(&[]), Some(Vec::new()));
    }
}
