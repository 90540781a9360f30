//! Labs of real agents, as root: real sockets, real clients, killed agents, changed manifests.

mod bench;
mod changes;
mod churn;
mod deaths;
mod matrix;
mod services;
mod world;
