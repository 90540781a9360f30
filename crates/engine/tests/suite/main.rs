//! The engine, by bytes in and bytes out: two nodes with compiled tables and the wire between them.
#![allow(missing_docs)]

mod answers;
mod direct;
mod direct_sizes;
mod flows;
mod fragments;
mod fuzz;
mod hosts;
mod joining;
mod lives;
mod outside;
mod own;
mod partial;
mod path;
mod path_mtus;
mod policies;
mod portless;
mod refusals;
mod restart;
mod routes;
mod segment_sizes;
mod world;
