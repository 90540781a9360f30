//! Every cell of three clusters: who reaches whom, as the manifests say.

use crate::bench::{Lab, no_wrong_cell, root};

fn no_wrong_cell_in(set: &str) {
    no_wrong_cell_of("tests/manifests", set, &[]);
}

fn no_wrong_cell_of(folder: &str, set: &str, options: &[&str]) {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up_with(&root().join(folder).join(set), options);
    let cells = no_wrong_cell(&lab);
    assert!(cells > 20, "{cells} cells");
}

#[test]
fn every_cell_of_the_plain_cluster_is_as_its_manifests_say() {
    no_wrong_cell_in("plain");
}

#[test]
fn every_cell_of_the_isolated_cluster_is_as_its_manifests_say() {
    no_wrong_cell_in("isolated");
}

#[test]
fn every_cell_of_the_mixed_cluster_is_as_its_manifests_say() {
    no_wrong_cell_in("mixed");
}

#[test]
fn d8_every_cell_is_right_over_an_underlay_of_ipv6_only() {
    no_wrong_cell_in("six");
}

#[test]
fn every_cell_of_the_demo_is_right_with_two_workers_to_a_node() {
    no_wrong_cell_of("config", "lab", &["--workers", "2"]);
}
