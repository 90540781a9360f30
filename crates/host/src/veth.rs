//! Pairs of devices.

use std::os::fd::AsRawFd;

use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::Namespace;

/// A veth pair that is to be made, by one message, so that its other end is never seen in the wrong namespace.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// The end here.
    pub near: VethEnd<'a>,
    /// The other one.
    pub far: VethEnd<'a>,
    /// The namespace of the far end; without it, both are in one.
    pub into: Option<&'a Namespace>,
    /// Receive and transmit queues of each end.
    pub queues: u32,
    /// MTU in bytes of both; without it, as the kernel does.
    pub mtu: Option<u32>,
}

/// An end of a pair.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its Ethernet address; without it, a random one.
    pub mac: Option<[u8; 6]>,
}

impl Veth<'_> {
    pub(crate) fn message(&self) -> LinkMessage {
        let mut far = self.end(
            LinkMessageBuilder::<LinkUnspec>::new().name(self.far.name),
            self.far,
        );
        if let Some(namespace) = self.into {
            far = far.setns_by_fd(namespace.as_raw_fd());
        }
        self.end(LinkVeth::new(self.near.name, self.far.name), self.near)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far.build())))
            .build()
    }

    fn end<T>(&self, mut link: LinkMessageBuilder<T>, end: VethEnd<'_>) -> LinkMessageBuilder<T> {
        link = link
            .append_extra_attribute(LinkAttribute::NumTxQueues(self.queues))
            .append_extra_attribute(LinkAttribute::NumRxQueues(self.queues));
        if let Some(mac) = end.mac {
            link = link.address(mac.to_vec());
        }
        match self.mtu {
            Some(mtu) => link.mtu(mtu),
            None => link,
        }
    }
}
