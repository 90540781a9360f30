//! Why packets end early: one name, one counter.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a packet was dropped; each has a counter of its own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];

            /// The name that users see.
            pub fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// The packet is shorter than its headers say.
    Truncated = "truncated",
    /// A header contradicts itself or its RFC.
    Malformed = "malformed",
    /// Neither IPv4, IPv6 nor ARP.
    NotIp = "not-ip",
    /// A frame behind a VLAN tag: pods and nodes have none between them.
    VlanTag = "vlan-tag",
    /// The port is not (or no longer) in the tables.
    UnknownPort = "unknown-port",
    /// A UDP datagram over IPv6 without a checksum (RFC 8200, 8.1).
    NoChecksum = "no-checksum",
    /// An address, Ethernet or IP, that is not the sender's own, or is the cluster's and came in where it can't be.
    Spoofed = "spoofed",
    /// A pod that is over, and whose address is another's by now, began something new.
    AddressLost = "address-lost",
    /// A pod sent tunnel traffic to a node.
    PodTunnel = "pod-tunnel",
    /// A tunnel packet from an address that is no peer's.
    UnknownPeer = "unknown-peer",
    /// A tunnel packet with another VNI.
    WrongVni = "wrong-vni",
    /// A tunnel packet whose inner source does not belong to the peer that sent it.
    ForeignSource = "foreign-source",
    /// An ARP or neighbour discovery packet that is not a question for the gateway.
    NeighbourIgnored = "neighbour-ignored",
    /// A tunnel packet marked congested around a packet that can't be (RFC 6040).
    Congestion = "congestion",
    /// A multicast or broadcast packet that nobody here answers.
    Multicast = "multicast",
    /// A fragment of a tunnel packet: outer packets never are fragmented.
    Fragment = "fragment",
    /// A fragment that overlaps another one of its datagram, or comes after one that did (RFC 5722).
    FragmentOverlap = "fragment-overlap",
    /// A fragment of a datagram for which there is no more room.
    FragmentsFull = "fragments-full",
    /// No frame was free for a part of a packet that had to be cut.
    NoFrame = "no-frame",
    /// An IPv6 extension header chain that is too long or that we can't follow.
    ExtensionHeaders = "extension-headers",
    /// The TTL or hop limit ran out; the sender may have been told.
    TtlExpired = "ttl-expired",
    /// No pod has the address.
    NoSuchPod = "no-such-pod",
    /// No route leads to the address.
    NoRoute = "no-route",
    /// A route of the host's of type `blackhole` leads there.
    Blackhole = "blackhole",
    /// The pod is known, but its device isn't attached.
    PodNotAttached = "pod-not-attached",
    /// The Ethernet address of the peer, the gateway or the neighbour is not resolved yet.
    NoNeighbour = "no-neighbour",
    /// The peer is in none of the uplink's subnets, and there is no tunnel to it.
    OffSubnet = "off-subnet",
    /// An address of the service range without a service.
    UnallocatedVip = "unallocated-vip",
    /// A packet to a virtual address that is neither TCP, UDP nor SCTP: nobody answers there.
    VipProtocol = "vip-protocol",
    /// The service drops this packet by its policy.
    ServiceDrop = "service-drop",
    /// The service's source ranges don't allow it.
    SourceRange = "source-range",
    /// The source pod's policies don't allow it.
    EgressDenied = "egress-denied",
    /// The target pod's policies don't allow it.
    IngressDenied = "ingress-denied",
    /// The flow table is full.
    FlowTableFull = "flow-table-full",
    /// Its flow ended just as the packet was to follow it: the next one is decided anew.
    FlowVanished = "flow-vanished",
    /// Too many flows that have not been answered.
    EmbryonicQuota = "embryonic-quota",
    /// Other workers kept taking the keys of this flow while it was to be remembered.
    Contested = "flow-contested",
    /// No source port is left that tells this flow's replies from another's.
    SourcePorts = "source-ports",
    /// Another pod talks to this address by this protocol, which has no ports to tell their answers apart.
    ProtocolTaken = "protocol-taken",
    /// A protocol that can't leave under the node's address: its checksum or its messages hold the sender's.
    NotMasqueradable = "not-masqueradable",
    /// A checksum that its sender left to a device, of a packet too large to complete it.
    UnfinishedChecksum = "unfinished-checksum",
    /// An ICMP error that belongs to no flow of ours.
    UnrelatedIcmp = "unrelated-icmp",
    /// An ICMP error about a packet's size that can't be true: damaged, no smaller than the packet, or than every path.
    ImplausibleMtu = "implausible-mtu",
    /// A router's word that a packet of the tunnel was too big: noted for what goes into the tunnel, and for nobody else.
    TunnelTooBig = "tunnel-too-big",
    /// The packet is larger than where it goes, and can't be fragmented.
    TooBig = "too-big",
    /// No room in the chunk for the headers to push.
    NoHeadroom = "no-headroom",
    /// It called for an ICMP error, but must not be answered, or the rate is used up.
    Unanswered = "unanswered",
}
