//! What compiling makes of a cluster, by rows of the behaviours and against naive evaluators.

mod build;
mod cluster_policies;
mod frontends;
mod naive;
mod naive_tiers;
mod order;
mod own_side;
mod policies;
mod services;
mod tier_world;
mod topology;
mod view;
mod world;
