//! The host's kernel: namespaces, links, addresses, routes and neighbours, settings and offloads, and files that are there
//! as a whole. Whoever wants something of the kernel asks here; nothing else speaks netlink.

mod events;
mod look;
mod namespace;
mod netlink;
pub mod node;
mod offload;
mod whole;

pub use events::{Heard, KernelEvents};
pub use look::Seen;
pub use namespace::{Namespace, NamespaceError};
pub use netlink::{NetlinkError, Network, PathMtu, Route};
pub use offload::checksum_in_software;
pub use whole::{Durability, write_whole};
