//! Two nodes with nothing but a wire between them.

use std::process::Command;

use crate::bench::{Lab, no_wrong_cell, podway, root};

const WIRE: [&str; 2] = ["--underlay", "wire"];

#[test]
fn two_nodes_on_one_wire_need_no_switch() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up_with(&root().join("config/lab"), &WIRE);
    no_wrong_cell(&lab);
    let world = lab.exec("world", &["true"]);
    assert_eq!(world.status.code(), Some(2));
    let said = String::from_utf8_lossy(&world.stderr).into_owned();
    assert!(said.contains("the lab has no world"), "{said}");
}

#[test]
fn what_one_wire_can_not_join_is_refused() {
    let root = root();
    let manifests = |name: &str| root.join(name).to_str().expect("UTF-8").to_owned();
    let kubernetes = ["--source", "kubernetes"];
    for (manifests, more, says) in [
        (manifests("tests/manifests/apart"), &[][..], "have 3"),
        (manifests("config/lab"), &kubernetes[..], "no world outside"),
    ] {
        let up = [&["lab", "up", &manifests], &WIRE[..], more].concat();
        let output = Command::new(podway()).args(up).output();
        let output = output.expect("podway runs");
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(says), "{said}");
    }
}
