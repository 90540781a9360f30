//! Session affinity with real clients: who comes again has the same server, until that is gone or the time is over (S14).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::bench::{Lab, eventually};
use crate::world::{copy, up_from};

/// Addresses of the world, of each family: so many that they don't all get the same server by chance.
const CLIENTS: u16 = 16;
/// How often each client asks in a row.
const TIMES: usize = 4;

/// A web server that says its name, which is its argument.
const SERVER: &str = "          import http.server, socket, sys
          class Named(http.server.BaseHTTPRequestHandler):
              def do_GET(self):
                  self.send_response(200)
                  self.end_headers()
                  self.wfile.write(sys.argv[1].encode() + b' ')
          class Server(http.server.ThreadingHTTPServer):
              address_family = socket.AF_INET6
          Server(('::', 8080), Named).serve_forever()
";

/// Three servers on two nodes, of which one may serve nobody, behind two services that differ in how long they remember.
fn manifests(gone: Option<&str>) -> String {
    let mut text = String::new();
    for (name, node) in [("red", "node1"), ("green", "node2"), ("blue", "node2")] {
        let app = if gone == Some(name) { "none" } else { "sticky" };
        let _ = write!(
            text,
            "---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: {app} }} }}
spec:
  nodeName: {node}
  containers:
    - name: http
      command:
        - python3
        - -c
        - |
{SERVER}        - {name}
      ports: [{{ name: http, containerPort: 8080 }}]
"
        );
    }
    for (name, last, timeout_s) in [("sticky", 70, 10_800), ("brief", 71, 1)] {
        let _ = write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{ name: {name} }}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  clusterIPs: [10.96.0.{last}, \"fd96::{last}\"]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {{ clientIP: {{ timeoutSeconds: {timeout_s} }} }}
  selector: {{ app: sticky }}
  ports: [{{ name: http, port: 80, targetPort: http, nodePort: 300{last} }}]
status: {{ loadBalancer: {{ ingress: [{{ ip: 203.0.113.{last} }}, {{ ip: \"2001:db8::{last}\" }}] }} }}
"
        );
    }
    text
}

/// The names that a client is told, one for each connection.
fn told(lab: &Lab, from: &str, source: Option<&str>, server: &str) -> Vec<String> {
    let url = format!("http://{server}/");
    let mut curl = vec!["curl", "--silent", "--max-time", "5"];
    curl.extend(source.iter().flat_map(|source| ["--interface", source]));
    curl.extend([url.as_str(); TIMES]);
    let output = lab.exec(from, &curl);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The one server that a client has.
fn one(lab: &Lab, from: &str, source: Option<&str>, server: &str) -> String {
    let names = told(lab, from, source, server);
    assert_eq!(names.len(), TIMES, "{from} {source:?} {server}: {names:?}");
    let first = names[0].clone();
    let same = names.iter().all(|name| *name == first);
    assert!(same, "{from} {source:?} {server}: {names:?}");
    first
}

/// The world's addresses, and where they dial a service whose address ends so.
fn outside(last: u16) -> Vec<(String, String)> {
    let clients = (0..CLIENTS).flat_map(|number| {
        let odd = number % 2 == 1;
        let four = match odd {
            true => format!("192.168.50.1:300{last}"),
            false => format!("203.0.113.{last}"),
        };
        let six = match odd {
            true => format!("[fd50::1]:300{last}"),
            false => format!("[2001:db8::{last}]"),
        };
        [
            (format!("192.168.50.{}", 100 + number), four),
            (format!("fd50::1:{number}"), six),
        ]
    });
    clients.collect()
}

/// Every client's server, by where the client dials it from.
fn all(lab: &Lab, last: u16) -> BTreeMap<String, String> {
    let mut servers = BTreeMap::new();
    for pod in ["default/client", "default/other", "default/remote"] {
        for server in [format!("10.96.0.{last}"), format!("[fd96::{last}]")] {
            servers.insert(format!("{pod} {server}"), one(lab, pod, None, &server));
        }
    }
    for (source, server) in outside(last) {
        let had = one(lab, "world", Some(&source), &server);
        servers.insert(source, had);
    }
    servers
}

#[test]
fn s14_clients_keep_their_server_until_it_goes_or_the_time_is_over() {
    if !podway_needs::root() {
        return;
    }
    let directory = copy("affinity");
    let sticky = directory.join("sticky.yaml");
    fs::write(&sticky, manifests(Some("red"))).expect("written");
    let lab = up_from(&directory);
    for (source, _) in outside(70) {
        let address = match source.contains(':') {
            true => format!("{source}/64"),
            false => format!("{source}/24"),
        };
        let add = ["ip", "address", "add", &address, "dev", "eth0"];
        match source.contains(':') {
            true => lab.must("world", &[&add[..], &["nodad"]].concat()),
            false => lab.must("world", &add),
        };
    }

    let before = all(&lab, 70);
    let briefly = all(&lab, 71);
    for four in [true, false] {
        let of_family = before.iter().filter(|(at, _)| four != at.contains("::"));
        let names: BTreeSet<&String> = of_family.map(|(_, name)| name).collect();
        assert_eq!(names.len(), 2, "clients are spread: {before:?}");
    }

    fs::write(&sticky, manifests(None)).expect("written");
    let red = lab.address("default/red", |ip| !ip.contains(':'));
    for node in ["node1", "node2"] {
        let known = || lab.show(node, "services").to_string().contains(&red);
        assert!(eventually(Duration::from_secs(10), known), "red serves");
    }
    sleep(Duration::from_secs(2));
    let later = all(&lab, 71);
    assert!(later.values().any(|name| name == "red"), "{later:?}");
    assert!(briefly.values().all(|name| name != "red"), "{briefly:?}");
    assert_eq!(before, all(&lab, 70), "remembered for three hours");

    let gone = before["default/client 10.96.0.70"].clone();
    fs::write(&sticky, manifests(Some(&gone))).expect("written");
    let left = eventually(Duration::from_secs(10), || {
        !told(&lab, "default/client", None, "10.96.0.70").contains(&gone)
            && !told(&lab, "default/remote", None, "10.96.0.70").contains(&gone)
    });
    assert!(left, "{gone} is left");
    let after = all(&lab, 70);
    for (client, had) in before {
        let has = &after[&client];
        match had == gone {
            true => assert_ne!(*has, gone, "{client} moves"),
            false => assert_eq!(*has, had, "{client} stays"),
        }
    }
    drop(lab);
    fs::remove_dir_all(directory).expect("removed");
}
