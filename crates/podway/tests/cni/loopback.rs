//! The plugin `loopback`, beside the one that is Debian's (containernetworking-plugins).

use std::path::Path;

use serde_json::{Value, json};

use crate::place::{PLUGIN, Place, said, sh};

const DEBIANS: &str = "/usr/lib/cni/loopback";

/// What runtimes hand over, which have no configuration for it.
fn network(version: &str) -> Value {
    json!({"cniVersion": version, "name": "cni-loopback", "type": "loopback"})
}

#[test]
fn c1_c3_c6_loopback_starts_lo_and_says_what_the_reference_says() {
    if !podway_needs::root() {
        return;
    }
    let place = Place::new("loopback", "10.244.1.0/24", 2);
    let run = |plugin: &str, command, pod, network: &Value| {
        let child = place.spawn_plugin(Path::new(plugin), command, pod, network);
        said(child.wait_with_output().expect("it ends"))
    };
    let newest = network("1.1.0");
    let (code, text) = run(PLUGIN, "CHECK", 0, &newest).error();
    assert_eq!((code, &*text), (104, "lo is down in the container"));
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let mut ours = run(PLUGIN, "ADD", 0, &network(version)).result();
        let reference = run(DEBIANS, "ADD", 1, &network(version)).result();
        let sandbox = ours["interfaces"][0]["sandbox"].take();
        assert_eq!(sandbox, json!(place.netns(0)));
        ours["interfaces"][0]["sandbox"] = json!(place.netns(1));
        for (index, family) in ["4", "6"].iter().enumerate() {
            // The reference forgets it.
            let said = ours["ips"][index].as_object_mut().expect("an address");
            let said = said.remove("version");
            assert_eq!(said, (version < "1.0.0").then(|| json!(family)));
        }
        assert_eq!(ours, reference, "{version}");
    }
    for address in ["127.0.0.1", "::1"] {
        let text = sh(&place.pod(0), &format!("ping -c 1 -W 1 {address}"));
        assert!(text.contains("1 received"), "{text}");
    }
    let mut chained = newest.clone();
    chained["prevResult"] = json!({"cniVersion": "1.1.0", "ips": []});
    let passed = run(PLUGIN, "ADD", 0, &chained).result();
    assert_eq!(passed, chained["prevResult"]);
    for command in ["CHECK", "STATUS", "GC", "DEL", "DEL"] {
        run(PLUGIN, command, 0, &newest).done();
    }
    run(PLUGIN, "DEL", 9, &newest).done();
    let (code, _) = run(PLUGIN, "ADD", 9, &newest).error();
    assert_eq!(code, 4, "without a namespace");
    assert_eq!(place.records().len(), 0, "it keeps none");
}
