//! What keeps the agent from its work while it starts.

/// Before the source has told of the whole cluster: nothing is in force, and questions are answered.
pub(super) const UNKNOWN: &str =
    "the cluster is not known yet: the source has not told of all kinds of objects";
/// And once the cluster is known.
pub(super) const CLOSED: &str = "the agent starts: not all ports are open yet";
