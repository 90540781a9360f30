//! The host's kernel: namespaces, links, addresses, routes and neighbours, settings and offloads, and files that are there
//! as a whole. Whoever wants something of the kernel asks here; nothing else speaks netlink.

mod alias;
mod ask;
mod boot;
mod events;
mod fnv;
mod look;
mod mtu;
mod namespace;
mod netlink;
pub mod node;
mod offload;
pub mod router;
mod sockets;
pub mod sysctl;
mod veth;
mod whole;

pub use alias::{pod_alias, pod_of_alias};
pub use ask::NetlinkError;
pub use boot::{boot_id, boot_number};
pub use events::{Heard, KernelEvents};
pub use fnv::fnv64;
pub use look::Seen;
pub use mtu::{PathMtu, far_mtu, tunnel_mtu};
pub use namespace::{Namespace, NamespaceError};
pub use netlink::{Network, Route};
pub use sockets::{Sockets, ports_in_use};
pub use sysctl::SettingError;
pub use veth::{Veth, VethEnd};
pub use whole::{Durability, write_whole};
