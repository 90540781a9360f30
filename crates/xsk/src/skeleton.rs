//! What the build makes of the XDP program: how it is loaded, and the types of its maps.
#![allow(
    missing_docs,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    unreachable_pub,
    unused_qualifications,
    dead_code
)]

include!(concat!(env!("OUT_DIR"), "/redirect.skel.rs"));
