//! What compiling makes of a cluster, by rows of the behaviours and against naive evaluators.

mod build;
mod naive;
mod order;
mod policies;
mod services;
mod topology;
mod view;
mod world;
