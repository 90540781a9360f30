//! The node agent and its command line: configuration, threads, workers, the admin socket.

pub mod agent;
pub mod aim;
pub mod arguments;
pub mod config;
pub mod explain;
pub mod lab;
pub mod policy;
pub mod show;
