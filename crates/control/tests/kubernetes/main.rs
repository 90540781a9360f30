//! An API server is followed, whatever it does: against one of ours that makes trouble, and against a real one.

mod announces;
mod bench;
mod closes;
mod follows;
mod keeps;
mod memory;
mod real;
mod troubles;
