//! The node agent and its command line: configuration, threads, the node's kernel, the admin socket.

pub mod config;
pub mod node;
