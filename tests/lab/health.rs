//! Health is answered on the ports that are for it, whatever control waits for (S6, S7).

use std::time::Duration;

use crate::bench::{eventually, unprivileged};

#[test]
fn s6_s7_health_is_answered_on_the_ports_that_are_for_it() {
    if unprivileged() {
        return;
    }
    let directory = crate::world::copy("health");
    let lab = crate::world::up_from(&directory);
    let status = |node: &str, port_and_path: &str| {
        let url = format!("http://{node}:{port_and_path}");
        let curl = [
            "curl",
            "--silent",
            "--max-time",
            "2",
            "--write-out",
            "%{http_code}",
            &url,
        ];
        String::from_utf8_lossy(&lab.exec("world", &curl).stdout).into_owned()
    };
    let there = |text: String, code: &str, part: &str| {
        assert!(text.ends_with(code) && text.contains(part), "{text}");
    };
    let service = r#""service":{"name":"web-local","namespace":"default"}"#;
    there(status("192.168.50.2", "30090/"), "200", service);
    there(
        status("192.168.50.2", "30090/"),
        "200",
        r#""localEndpoints":1"#,
    );
    there(
        status("192.168.50.1", "30090/"),
        "503",
        r#""localEndpoints":0"#,
    );
    there(status("[fd50::2]", "30090/"), "200", service);
    for node in ["192.168.50.1", "[fd50::2]"] {
        there(status(node, "10256/healthz"), "200", "\"problems\":[]");
        there(status(node, "10256/livez"), "200", "\"problems\":[]");
    }
    let nodes = directory.join("nodes.yaml");
    let text = std::fs::read_to_string(&nodes).expect("nodes");
    let tainted = text.replacen(
        "spec:\n",
        "spec:\n  taints: [{ key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule }]\n",
        1,
    );
    std::fs::write(&nodes, tainted).expect("written");
    let fails = eventually(Duration::from_secs(5), || {
        status("192.168.50.1", "10256/healthz").ends_with("503")
    });
    assert!(fails, "{}", status("192.168.50.1", "10256/healthz"));
    there(status("192.168.50.1", "10256/livez"), "200", "");
    there(status("192.168.50.2", "10256/healthz"), "200", "");
    drop(lab);
    std::fs::remove_dir_all(directory).expect("removed");
}
