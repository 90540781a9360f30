//! Labs of real agents, as root: real sockets, real clients, killed agents, changed manifests.

mod affinity;
mod bad_wire;
mod bench;
mod changes;
mod churn;
mod clients;
mod datagrams;
mod deaths;
mod direct;
mod flood;
mod health;
mod host_side;
mod kubernetes;
mod lives;
mod matrix;
mod path_mtus;
mod policies;
mod routes;
mod services;
mod shaper;
mod storage;
mod transfers;
mod uplinks;
mod window;
mod wire;
mod world;
