//! Health is answered on the ports that are for it, whatever control waits for (S6, S7).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use podway_cni::agent::{AgentError, ask};
use podway_host::Namespace;
use serde_json::json;

use crate::bench::{Lab, eventually, lost_nothing};
use crate::deaths::{kill, kill_agent, restart};

#[test]
fn s6_s7_health_is_answered_on_the_ports_that_are_for_it() {
    if !podway_needs::root() {
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

/// The kernel's lock for links, which every call about devices waits for; free again after 20 s at most.
struct Held(Child);

impl Held {
    fn take() -> Held {
        let mut holder = Command::new("python3")
            .args(["-c", include_str!("holds_rtnl.py"), "20"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let output = holder.stdout.take().expect("piped");
        let mut said = String::new();
        let _ = BufReader::new(output).read_line(&mut said);
        let held = Held(holder);
        assert_eq!(said, "held\n");
        held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a node's port says to the node itself within kubelet's 5 s; nothing if nobody listens.
fn said(lab: &Lab, node: &str, port_and_path: (u16, &str)) -> String {
    let (port, path) = port_and_path;
    let name = lab.node(node)["namespace"]
        .as_str()
        .expect("a name")
        .to_owned();
    let asked = || -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: it\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let namespace = Namespace::named(&name).expect("there");
    namespace.inside(asked).expect("inside").unwrap_or_default()
}

const DENY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: nobody, namespace: default }
spec: { podSelector: { matchLabels: { app: web } }, policyTypes: [Ingress] }
";

#[test]
fn s6_s7_health_is_answered_and_policies_are_published_while_the_kernel_is_waited_for() {
    if !podway_needs::root() {
        return;
    }
    let directory = crate::world::copy("busy");
    let lab = crate::world::up_from(&directory);
    let node = lab.node("node2");
    let socket = Path::new(node["socket"].as_str().expect("a socket"));
    let endpoints = lab.show("node2", "endpoints");
    let rows = endpoints.as_array().expect("rows");
    let row = rows.iter().find(|row| row["pod"] == "default/web");
    let row = row.expect("it is on node2");
    // To be attached again is to be looked for, and set up once more.
    let attach = json!({"attach": {
        "pod": "default/web", "interface": row["interface"], "mac": row["mac"], "mtu": row["mtu"],
    }});
    let attached = |within| ask(socket, &attach, within);
    let moment = Duration::from_millis(500);
    let web = lab.address("default/web", |address| !address.contains(':'));
    let ping = lab.spawn("default/client", &["ping", "-q", "-i", "0.01", &web]);
    let reaches = || lab.gets("default/client", "http://10.96.0.80/");
    assert!(reaches(), "before");

    let held = Held::take();
    let error = attached(moment).expect_err("the kernel does not say a word");
    assert!(matches!(error, AgentError::Busy { .. }), "{error}");
    for (place, part) in [
        ((10256, "/livez"), "\"problems\":[]"),
        ((10256, "/healthz"), "\"problems\":[]"),
        ((30090, "/"), "\"localEndpoints\":1"),
    ] {
        let text = said(&lab, "node2", place);
        assert!(text.starts_with("HTTP/1.1 200 "), "{place:?}: {text}");
        assert!(text.contains(part), "{place:?}: {text}");
    }
    kill(ping.id() as i32, "-INT");
    let ping = ping.wait_with_output().expect("ping ends");
    let text = String::from_utf8_lossy(&ping.stdout);
    assert!(lost_nothing(&text), "{text}");

    std::fs::write(directory.join("deny.yaml"), DENY).expect("written");
    let denied = eventually(Duration::from_secs(8), || !reaches());
    let error = attached(moment).expect_err("the kernel still does not say a word");
    assert!(matches!(error, AgentError::Busy { .. }), "{error}");
    drop(held);
    assert!(denied, "the policy is in force while the kernel is busy");
    attached(Duration::from_secs(20)).expect("the kernel has its say");
    drop(lab);
    std::fs::remove_dir_all(directory).expect("removed");
}

#[test]
fn s7_an_agent_that_starts_while_the_kernel_is_busy_is_alive_and_not_ready() {
    if !podway_needs::root() {
        return;
    }
    let lab = crate::world::up();
    let says = |path: &str, code: u16| {
        let text = said(&lab, "node2", (10256, path));
        text.starts_with(&format!("HTTP/1.1 {code} "))
    };
    kill_agent(&lab, "node2");
    let held = Held::take();
    let mut again = restart(&lab, "node2");
    let lives = eventually(Duration::from_secs(10), || says("/livez", 200));
    let waits = says("/healthz", 503);
    drop(held);
    let works = eventually(Duration::from_secs(20), || says("/healthz", 200));
    kill(again.id() as i32, "-TERM");
    let stopped = again.wait().expect("it ends");
    assert!(lives && waits, "alive: {lives}, not ready: {waits}");
    assert!(works, "ready once the kernel answers");
    assert!(stopped.success(), "{stopped}");
}
