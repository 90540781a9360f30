//! The cluster of services (tests/manifests/services), and the world outside with its routes to it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bench::{Lab, root};

/// Brings the cluster of services up, with routes from the world to the balancer's addresses by way of node1.
pub(crate) fn up() -> Lab {
    up_from(&root().join("tests/manifests/services"))
}

/// The same from a copy of its manifests that may change.
pub(crate) fn up_from(manifests: &Path) -> Lab {
    up_with(manifests, &[])
}

/// The same with more arguments.
pub(crate) fn up_with(manifests: &Path, more: &[&str]) -> Lab {
    let external = [
        "--external-ips",
        "198.51.100.0/24",
        "--external-ips",
        "2001:db8:1::/48",
    ];
    let lab = Lab::up_with(manifests, &[&external, more].concat());
    for (range, node) in [
        ("203.0.113.0/24", "192.168.50.1"),
        ("198.51.100.0/24", "192.168.50.1"),
        ("2001:db8::/32", "fd50::1"),
    ] {
        lab.must("world", &["ip", "route", "add", range, "via", node]);
    }
    lab
}

/// A directory of one test, with a copy of the manifests.
pub(crate) fn copy(test: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("podway-test-{test}-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    for file in fs::read_dir(root().join("tests/manifests/services")).expect("manifests") {
        let file = file.expect("an entry");
        fs::copy(file.path(), directory.join(file.file_name())).expect("a copy");
    }
    directory
}
