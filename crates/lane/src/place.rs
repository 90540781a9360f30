//! What the owner knows of a slot besides what is in it.

use crate::slot::{COUNT_WORDS, Ticket};

/// A slot's place in the owner's book.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// Nobody reads it: it may be written.
    Free,
    /// It was written, and may have been revoked since.
    Taken(Tenant),
    /// It was revoked by then, and a program may still be at it.
    Retired {
        /// Whose it was, for what is counted until the end; `None` of what an earlier owner left.
        tenant: Option<Tenant>,
        /// When it was found revoked.
        since_ns: u64,
    },
}

/// Whose a slot is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tenant {
    /// The owner's name for the flow.
    pub(crate) token: u64,
    /// The slot itself.
    pub(crate) ticket: Ticket,
    /// The other direction's.
    pub(crate) partner: Ticket,
    /// Which pod's quota it counts against.
    pub(crate) charged: u16,
    /// How much of the slot's counts is reported already.
    pub(crate) reported: [u64; COUNT_WORDS],
}
