//! Every cell of three clusters: who reaches whom, as the manifests say.

use crate::bench::{Lab, root, unprivileged};

fn no_wrong_cell(set: &str) {
    no_wrong_cell_of("tests/manifests", set, &[]);
}

fn no_wrong_cell_of(folder: &str, set: &str, options: &[&str]) {
    if unprivileged() {
        return;
    }
    let lab = Lab::up_with(&root().join(folder).join(set), options);
    let report = lab.check();
    let cells = report["cells"].as_array().expect("cells");
    let wrong: Vec<_> = cells
        .iter()
        .filter(|cell| cell["expected"] != cell["seen"])
        .collect();
    assert!(cells.len() > 20, "{} cells", cells.len());
    assert_eq!((report["wrong"].as_u64(), &wrong), (Some(0), &Vec::new()));
    println!("{set}: {} cells", cells.len());
}

#[test]
fn every_cell_of_the_plain_cluster_is_as_its_manifests_say() {
    no_wrong_cell("plain");
}

#[test]
fn every_cell_of_the_isolated_cluster_is_as_its_manifests_say() {
    no_wrong_cell("isolated");
}

#[test]
fn every_cell_of_the_mixed_cluster_is_as_its_manifests_say() {
    no_wrong_cell("mixed");
}

#[test]
fn d8_every_cell_is_right_over_an_underlay_of_ipv6_only() {
    no_wrong_cell("six");
}

#[test]
fn every_cell_of_the_demo_is_right_with_two_workers_to_a_node() {
    no_wrong_cell_of("config", "lab", &["--workers", "2"]);
}
