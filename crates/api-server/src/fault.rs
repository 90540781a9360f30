//! Troubles that an API server makes on request.

use std::time::Duration;

/// What goes wrong with answers of a kind, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Answers come in chunks of so many bytes, with a pause before each.
    Slow {
        /// Bytes of a chunk.
        chunk: usize,
        /// The pause.
        pause: Duration,
    },
    /// The connection breaks after so many bytes of an answer's body.
    Reset {
        /// Bytes.
        after: usize,
    },
    /// Every request is answered with this HTTP status.
    Refuse {
        /// The status, such as 503.
        status: u16,
    },
    /// What continues a list is answered with 410, as after a compaction.
    ExpirePages,
    /// Requests are taken and never answered.
    Hang,
}
