//! What a source of facts hands over at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use podway_intent::Change;
use tokio::time::Instant;

use crate::Problem;

/// What leads from the last state of a source to the one now, and what is wrong with the latter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes; none from a directory while something is wrong, for then its last state stays in force.
    pub changes: Vec<Change>,
    /// Everything that is wrong now; empty once it is mended.
    pub problems: Vec<Problem>,
    /// How many objects of which kinds are not as they are written, or not read at all.
    pub not_as_written: BTreeMap<&'static str, usize>,
    /// When each change came in that a source told of as an event.
    pub received: Vec<Instant>,
    /// The resource versions up to which kinds are known; a directory has none.
    pub versions: BTreeMap<&'static str, String>,
    /// Whether there is a whole cluster yet.
    pub standing: Standing,
    /// Where the facts are from.
    pub facts: Facts,
}

/// Where a source's facts are from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Facts {
    /// The source has told of them since the agent started.
    #[default]
    Told,
    /// From disk, as they were known at that time: some kinds were not told of since.
    Kept(SystemTime),
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Facts::Told => f.write_str("from the source"),
            Facts::Kept(written) => {
                let time = Timestamp::try_from(*written).unwrap_or(Timestamp::UNIX_EPOCH);
                write!(f, "from disk, of {}", time.strftime("%Y-%m-%dT%H:%M:%SZ"))
            }
        }
    }
}

/// Whether a source has told of the whole cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Some is missing: what is known must not be put in force.
    Partial,
    /// It has, and tells of changes now.
    #[default]
    Whole,
}
