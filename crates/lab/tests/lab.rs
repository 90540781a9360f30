//! Whole labs, with agents that let the kernel forward (tests/stand_in.py). Needs root and python3.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use podway_host::Namespace;
use podway_lab::{Error, Outcome, Place, Target, Up, check, down, exec, status, up};
use serde_json::{Value, json};

const CLUSTER: &str = include_str!("manifests/cluster.yaml");
const STAND_IN: &str = include_str!("stand_in.py");

/// A lab of one test, taken down when it ends, and before it begins.
struct Lab {
    options: Up,
    _directory: tempfile::TempDir,
}

impl Lab {
    fn new(test: &str, table: &Value, more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let manifests = directory.path().join("manifests");
        fs::create_dir(&manifests).unwrap();
        fs::write(
            manifests.join("cluster.yaml"),
            format!("{CLUSTER}---\n{more}"),
        )
        .unwrap();
        let executable = directory.path().join("stand_in.py");
        fs::write(&executable, STAND_IN.replace("@TABLE@", &table.to_string())).unwrap();
        fs::set_permissions(&executable, fs::Permissions::from_mode(0o755)).unwrap();

        let place = Place::named(&format!("podway-test-lab-{test}"));
        wait(down(&place)).unwrap();
        let timeout = Duration::from_secs(20);
        let options = Up {
            place,
            executable,
            timeout,
            progress: |_| (),
            ..Up::new(manifests)
        };
        Self {
            options,
            _directory: directory,
        }
    }

    fn place(&self) -> &Place {
        &self.options.place
    }

    fn is_gone(&self) -> bool {
        self.place().namespaces().is_empty() && !self.place().directory().exists()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        wait(down(&self.options.place)).unwrap();
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

/// What the stand-in knows of the cluster.
fn table() -> Value {
    json!({"nodes": {
        "node1": {
            "gateways": ["10.244.1.1/32", "fd44:0:0:1::1/128"],
            "ranges": {"10.244.1.0/24": "192.168.50.1", "fd44:0:0:1::/64": "fd50::1"},
            "pods": {"shop/web": ["10.244.1.2", "fd44:0:0:1::2"]}
        },
        "node2": {
            "gateways": ["10.244.2.1/32", "fd44:0:0:2::1/128"],
            "ranges": {"10.244.2.0/24": "192.168.50.2", "fd44:0:0:2::/64": "fd50::2"},
            "pods": {"ops/echo": ["10.244.2.2", "fd44:0:0:2::2"]}
        }
    }})
}

fn text_inside(place: &Place, target: &str, command: &str) -> String {
    let test = std::env::current_exe().unwrap();
    let output = Command::new(test)
        .args(["--exact", "exec_in_a_child", "--ignored", "--nocapture"])
        .env(
            "PODWAY_TEST_EXEC",
            format!("{} {target} {command}", place.directory().display()),
        )
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap() + &format!("exit {:?}", output.status.code())
}

#[test]
#[ignore = "a child of other tests: it becomes another command"]
fn exec_in_a_child() {
    let Ok(words) = std::env::var("PODWAY_TEST_EXEC") else {
        return;
    };
    let words: Vec<_> = words.splitn(3, ' ').collect();
    let place = Place::named(Path::new(words[0]).file_name().unwrap().to_str().unwrap());
    let target: Target = words[1].parse().unwrap();
    let command = ["sh", "-c", words[2]].map(str::to_owned);
    panic!("{}", wait(exec(&place, &target, &command)));
}

#[test]
fn a_lab_comes_up_is_dialled_and_leaves_nothing() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::new("whole", &table(), "");
    wait(up(&lab.options)).unwrap();

    let names = lab.place().namespaces();
    let ends = [
        "node-node1",
        "node-node2",
        "pod-ops-echo",
        "pod-shop-web",
        "switch",
        "world",
    ];
    assert_eq!(
        names,
        ends.map(|end| format!("podway-test-lab-whole-{end}"))
    );

    let status = wait(status(lab.place())).unwrap();
    assert!(
        status
            .nodes
            .iter()
            .all(|node| node.agent.as_ref().unwrap().state == "running")
    );
    assert!(
        status
            .pods
            .iter()
            .all(|pod| pod.processes[0].state == "running"),
        "{status}"
    );

    assert_eq!(
        serde_json::to_value(&status).unwrap()["pods"][1]["addresses"],
        json!(["10.244.1.2", "fd44:0:0:1::2"])
    );
    assert!(
        status
            .to_string()
            .contains("shop/web                     node1        10.244.1.2 fd44:0:0:1::2"),
        "{status}"
    );

    let report = wait(check(lab.place())).unwrap();
    // Two pods and two nodes dial two families of two servers.
    assert_eq!((report.cells.len(), report.wrong), (16, 0), "{report}");
    assert!(
        report.cells.iter().all(|cell| cell.seen == Outcome::Open),
        "{report}"
    );

    let said = text_inside(
        lab.place(),
        "shop/web",
        "ip -o -4 address show eth0; command -v podway; exit 7",
    );
    assert!(
        said.contains("inet 10.244.1.2/32") && said.ends_with("exit Some(7)"),
        "{said}"
    );
    assert!(
        said.contains("/run/podway-test-lab-whole/bin/podway"),
        "{said}"
    );
    let said = text_inside(lab.place(), "node:node2", "ip -o address show eth0");
    assert!(
        said.contains("192.168.50.2/24") && said.contains("fd50::2/64"),
        "{said}"
    );
    let colour = format!("/proc/{}/environ", status.pods[0].processes[0].pid);
    assert!(fs::read_to_string(colour).unwrap().contains("COLOUR=green"));

    let processes: Vec<_> = names
        .iter()
        .flat_map(|name| Namespace::named(name).unwrap().processes())
        .collect();
    assert_eq!(processes.len(), 4, "two agents and two servers");
    wait(down(lab.place())).unwrap();
    assert!(lab.is_gone());
    let is_running = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    assert!(!processes.iter().any(is_running));
    wait(down(lab.place())).unwrap();
}

/// The stand-in enforces nothing and has no services: the check must see that.
#[test]
fn a_check_finds_what_is_not_as_the_manifests_say() {
    if !podway_needs::root() {
        return;
    }
    let more = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: ops}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: shop}
spec: {clusterIP: 10.96.0.9, selector: {app: none}, ports: [{port: 80}]}
"#;
    let lab = Lab::new("wrong", &table(), more);
    wait(up(&lab.options)).unwrap();

    let report = wait(check(lab.place())).unwrap();

    let wrong: Vec<_> = report
        .cells
        .iter()
        .filter(|cell| cell.seen != cell.expected)
        .collect();
    assert_eq!(report.wrong, wrong.len());
    let policed = wrong.iter().filter(|cell| cell.to == "ops/echo");
    let from: Vec<_> = policed
        .map(|cell| (cell.from.as_str(), cell.expected, cell.seen))
        .collect();
    let (closed, open) = (Outcome::Closed, Outcome::Open);
    // Not from itself, nor from its node; both families.
    assert_eq!(
        from,
        [
            ("shop/web", closed, open),
            ("shop/web", closed, open),
            ("node:node1", closed, open),
            ("node:node1", closed, open)
        ]
    );
    let served: Vec<_> = wrong
        .iter()
        .filter(|cell| cell.to == "service:shop/nobody")
        .collect();
    assert_eq!(served.len(), 4, "{report}");
    assert!(served.iter().all(|cell| cell.expected == Outcome::Refused));
    assert_eq!(wrong.len(), 8, "{report}");
}

#[test]
fn a_pod_on_its_nodes_network_runs_there() {
    if !podway_needs::root() {
        return;
    }
    let more = r#"
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: ops}
spec:
  hostNetwork: true
  nodeName: node2
  containers:
  - name: server
    image: podway
    command: [podway, lab, serve, udp-echo, --port, "7778"]
    ports: [{containerPort: 7778, protocol: UDP}]
"#;
    let lab = Lab::new("host", &table(), more);
    wait(up(&lab.options)).unwrap();

    let status = wait(status(lab.place())).unwrap();
    let pod = status
        .pods
        .iter()
        .find(|pod| pod.name == "ops/host")
        .unwrap();
    assert_eq!(pod.namespace, status.nodes[1].namespace);
    let report = wait(check(lab.place())).unwrap();
    // It is a server for two pods and two nodes in two families, and no client of its own.
    assert_eq!((report.cells.len(), report.wrong), (24, 0), "{report}");
}

#[test]
fn a_program_that_is_not_there_is_named() {
    if !podway_needs::root() {
        return;
    }
    let more = r#"
apiVersion: v1
kind: Pod
metadata: {name: broken, namespace: ops}
spec:
  hostNetwork: true
  nodeName: node2
  containers: [{name: server, image: none, command: [no-such-program]}]
"#;
    let lab = Lab::new("absent", &table(), more);

    let error = wait(up(&lab.options)).unwrap_err().to_string();

    assert!(
        error.starts_with("ops/broken server: cannot run no-such-program: "),
        "{error}"
    );
    assert!(lab.is_gone());
}

#[test]
fn a_second_lab_is_refused_and_the_first_stays() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::new("twice", &table(), "");
    wait(up(&lab.options)).unwrap();

    assert!(matches!(wait(up(&lab.options)), Err(Error::Exists)));

    assert_eq!(lab.place().namespaces().len(), 6);
}

#[test]
fn a_lab_whose_agent_ends_says_why_and_leaves_nothing() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::new(
        "refuse",
        &json!({"refuse": "no BTF: boot another kernel"}),
        "",
    );

    let error = wait(up(&lab.options)).unwrap_err().to_string();

    assert!(
        error.contains("agent of node1: it ended with exit status: 3"),
        "{error}"
    );
    assert!(error.contains("no BTF: boot another kernel"), "{error}");
    assert!(lab.is_gone());
}

#[test]
fn down_finds_a_lab_whose_maker_died() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::new("crash", &table(), "");
    let place = lab.place();
    fs::create_dir(place.directory()).unwrap();
    fs::write(place.directory().join("state.json"), "half a sta").unwrap();
    let namespace = Namespace::create(&place.node("node1")).unwrap();
    // The mount point of a namespace that was never mounted.
    fs::write(Path::new("/run/netns").join(place.node("node2")), "").unwrap();
    // One that ignores SIGTERM, and a child that it starts anew.
    let stubborn = "trap '' TERM; while :; do sleep 0.2; done";
    let start = || Command::new("sh").args(["-c", stubborn]).spawn().unwrap();
    let mut child = namespace.inside(start).unwrap();

    wait(down(place)).unwrap();

    assert!(lab.is_gone());
    assert!(namespace.processes().is_empty());
    child.wait().unwrap();
}

#[test]
fn without_a_lab_commands_say_so() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::new("none", &table(), "");
    assert!(matches!(wait(status(lab.place())), Err(Error::NoLab)));
    assert!(matches!(wait(check(lab.place())), Err(Error::NoLab)));
}
