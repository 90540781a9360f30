//! Moves frames between kernel rings and batches; loads and reconciles the XDP program.
#![allow(unsafe_code)]

mod attach;
mod carry;
mod claims;
mod close;
mod edge;
mod entries;
mod error;
mod frames;
mod join;
mod kernel;
mod mapping;
mod members;
mod nic;
mod opening;
mod own;
mod parts;
mod plan;
mod pool;
mod port;
mod redirect;
mod ring;
mod said;
mod shelf;
mod skeleton;
mod sleep;

pub use attach::Mode;
pub use claims::Claims;
pub use edge::{WorkerEdge, WorkerSettings};
pub use error::{LoadError, PortError, RedirectError};
pub use kernel::{Bound, CHUNK};
pub use mapping::{map_words, use_huge_pages};
pub use members::Bind;
pub use nic::{
    Capabilities, Channels, Feature, Nic, Offload, Place, Refused, SINGLE_BUFFER_MTU, Setting,
    Spread, Wants, Why, capabilities, choose,
};
pub use opening::{Opened, Opening};
pub use plan::Plan;
pub use port::{KernelStatistics, PortStatistics};
pub use redirect::{Adopted, Attachment, Redirect, RedirectSettings, Sockets};
pub use sleep::Waker;
