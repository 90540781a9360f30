//! The CNI plugin, driven as container runtimes drive it, against a real agent (C1-C7). Needs root.

mod chain;
mod churn;
mod failures;
mod flood;
mod life;
mod loopback;
mod place;
mod podman;
