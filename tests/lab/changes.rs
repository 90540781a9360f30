//! Manifests that change while a lab runs.

use std::fs;
use std::time::Duration;

use crate::bench::{Lab, eventually, root};

const DENY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: nobody, namespace: shop }
spec: { podSelector: { matchLabels: { app: catalog } }, policyTypes: [Ingress] }
";

#[test]
fn a_changed_file_is_in_force_without_a_restart_and_a_broken_one_is_not() {
    if !podway_needs::root() {
        return;
    }
    let directory = std::env::temp_dir().join(format!("podway-test-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    for file in fs::read_dir(root().join("config/lab")).expect("config/lab") {
        let file = file.expect("an entry");
        fs::copy(file.path(), directory.join(file.file_name())).expect("a copy");
    }
    let lab = Lab::up(&directory);
    let open = || lab.gets("shop/client", "http://10.96.0.20/");
    assert!(open());

    let policies = directory.join("policies.yaml");
    let before = fs::read_to_string(&policies).expect("policies");
    // The file loses the rule that lets clients in.
    fs::write(&policies, DENY).expect("written");
    assert!(
        eventually(Duration::from_secs(5), || !open()),
        "the new policy is in force"
    );

    fs::write(&policies, "kind: NetworkPolicy\nspec: [").expect("written");
    let told = eventually(Duration::from_secs(5), || {
        lab.show("node1", "status")
            .to_string()
            .contains("policies.yaml")
    });
    assert!(
        told,
        "the status names the broken file: {}",
        lab.show("node1", "status")
    );
    assert!(!open(), "the last good state stays in force");

    fs::write(&policies, before).expect("written");
    assert!(
        eventually(Duration::from_secs(5), open),
        "the mended file is in force"
    );
    drop(lab);
    fs::remove_dir_all(directory).expect("removed");
}
