//! Carries a batch of packets from bytes to verdicts.
//!
//! One walk: open (tunnel) → parse → flow (hit, or decide and remember) → edit → verdict. Pure: time is an argument,
//! frames belong to the edge, and every early end is a value.

mod affinity;
mod allowance;
mod count;
mod decide;
mod emit;
mod engine;
mod flow;
mod hits;
mod inherit;
mod judged;
mod observed;
mod packet;
mod parked;
mod path_mtu;
mod reason;
mod reassembly;
mod receive;
mod related;
mod remember;
mod second_look;
mod segment_size;
mod serve;
mod shared;
mod source_port;
mod sums;
mod track;
mod wants;

pub use count::{COUNTERS, Event, counter_names, drop_index, event_index};
pub use decide::{Arrival, Decision, Reply, Stop, decide};
pub use engine::{Engine, Existing, Settings};
pub use flow::Portless;
pub use hits::{Cause, Hits};
pub use observed::Observed;
pub use packet::{BATCH, Batch, MADE, Packet, Parts, Spares, Verdict};
pub use path_mtu::Paths;
pub use reason::DropReason;
pub use remember::{Known, LastHop, Remembered};
pub use serve::{SourceNat, affinity};
pub use shared::{Part, Shared};
pub use track::{Heading, Timeouts, Track};
pub use wants::{Want, Wants};
