//! A node in a network namespace with a real agent, and containers' namespaces; the plugin is driven as runtimes do.

use std::cell::RefCell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use podway_cni::agent::ask;
use podway_cni::{Phase, Record, State, Wired};
use podway_host::Namespace;
use serde_json::{Value, json};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const PODWAY: &str = env!("CARGO_BIN_EXE_podway");
pub(crate) const PLUGIN: &str = env!("CARGO_BIN_EXE_podway-cni");

/// A node of one test, gone when dropped.
pub(crate) struct Place {
    name: String,
    pub(crate) folder: tempfile::TempDir,
    pods: Vec<String>,
}

/// An agent that runs; killed when dropped.
pub(crate) struct Agent(Child);

impl Agent {
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the plugin said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) exit: Option<i32>,
    pub(crate) text: String,
}

impl Said {
    pub(crate) fn value(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    pub(crate) fn result(&self) -> Value {
        assert_eq!(self.exit, Some(0), "{}", self.text);
        self.value()
    }

    pub(crate) fn done(&self) {
        assert_eq!((self.exit, &*self.text), (Some(0), ""));
    }

    /// The code and the sentence.
    pub(crate) fn error(&self) -> (u64, String) {
        let value = self.value();
        assert_ne!(self.exit, Some(0), "{value}");
        let text = value["msg"].as_str().expect("a sentence").to_owned();
        (value["code"].as_u64().expect("a code"), text)
    }
}

impl Place {
    /// A node with these pod ranges and `pods` pods `shop/pod-N`, whose namespaces are there.
    pub(crate) fn new(test: &str, ranges: &str, pods: usize) -> Place {
        let name = format!("podway-test-cni-{test}");
        let pods = (0..pods).map(|number| format!("{name}-{number}")).collect();
        let place = Place {
            name,
            folder: tempfile::tempdir().expect("a folder"),
            pods,
        };
        place.remove();
        let node = Namespace::create(&place.name).expect("a node");
        place.sh("ip link set lo up && ip link add eth0 type veth peer name wire0 && ip link set eth0 up && ip link set wire0 up && ip address add 192.168.50.1/24 dev eth0 && ip address add fd50::1/64 dev eth0 nodad");
        drop(node);
        for pod in &place.pods {
            Namespace::create(pod).expect("a pod's namespace");
        }
        let source = place.path("cluster");
        fs::create_dir(&source).expect("made");
        fs::write(source.join("cluster.yaml"), place.cluster(ranges)).expect("written");
        let config = format!(
            "node = \"n1\"\nsource = {source:?}\nuplink = \"eth0\"\nsocket = {:?}\ncni_state = {:?}\nframes = 8192\nflows = 4096\n",
            place.socket(),
            place.path("state"),
        );
        fs::write(place.path("podway.toml"), config).expect("written");
        place
    }

    fn cluster(&self, ranges: &str) -> String {
        let node = format!(
            "kind: Node\napiVersion: v1\nmetadata: {{ name: n1 }}\nspec: {{ podCIDRs: [{ranges}] }}\nstatus: {{ addresses: [{{ type: InternalIP, address: 192.168.50.1 }}, {{ type: InternalIP, address: \"fd50::1\" }}] }}\n"
        );
        let pod = |number: usize| {
            // The last of the range, so that what the plugin gives is something else.
            let address = 253 - number;
            format!(
                "---\nkind: Pod\napiVersion: v1\nmetadata: {{ name: pod-{number}, namespace: shop }}\nspec: {{ nodeName: n1, containers: [{{ name: c, image: none }}] }}\nstatus: {{ podIPs: [{{ ip: 10.244.1.{address} }}] }}\n"
            )
        };
        let fits = ranges.contains("/24");
        let pods = (0..self.pods.len()).filter(|_| fits).map(pod);
        node + &pods.collect::<String>()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("podway.sock")
    }

    pub(crate) fn netns(&self, pod: usize) -> PathBuf {
        Path::new("/run/netns").join(&self.pods[pod])
    }

    pub(crate) fn pod(&self, pod: usize) -> Namespace {
        Namespace::named(&self.pods[pod]).expect("a pod's namespace")
    }

    pub(crate) fn pods(&self) -> usize {
        self.pods.len()
    }

    pub(crate) fn node(&self) -> Namespace {
        Namespace::named(&self.name).expect("the node")
    }

    /// Starts the agent, again if it gives up as a kubelet would, and waits until its tables are in force.
    pub(crate) fn start(&self) -> Agent {
        let agent = RefCell::new(self.spawn_agent());
        self.until("in force", || {
            let ended = agent.borrow_mut().0.try_wait().expect("a child");
            if ended.is_some() {
                let log = fs::read_to_string(self.path("log")).unwrap_or_default();
                println!("the agent gave up: {}", log.lines().last().unwrap_or("?"));
                agent.replace(self.spawn_agent());
            }
            let status = self.ask(&json!({"show": "status"}));
            status.is_some_and(|status| status["in_force"] == true)
        });
        agent.into_inner()
    }

    fn spawn_agent(&self) -> Agent {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .expect("a log");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, PODWAY, "run", "--config"]);
        let child = command.arg(self.path("podway.toml")).stderr(log).spawn();
        Agent(child.expect("the agent starts"))
    }

    pub(crate) fn ask(&self, request: &Value) -> Option<Value> {
        ask(&self.socket(), request, PATIENCE).ok()
    }

    pub(crate) fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            if began.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.path("log")).unwrap_or_default();
                let end = log.len().saturating_sub(8_000);
                panic!("not {what} within 60 s; the agent's log:\n{}", &log[end..]);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What a shell on the node prints.
    pub(crate) fn sh(&self, line: &str) -> String {
        sh(&self.node(), line)
    }

    /// The network's configuration of that version with more fields.
    pub(crate) fn network(&self, version: &str, more: Value) -> Value {
        let mut network = json!({
            "cniVersion": version,
            "name": "podway",
            "type": "podway-cni",
            "socket": self.socket(),
            "stateDir": self.path("state"),
        });
        let fields = network.as_object_mut().expect("an object");
        fields.extend(more.as_object().cloned().unwrap_or_default());
        network
    }

    /// The plugin on its way, for the container of a pod.
    pub(crate) fn spawn(&self, command: &str, pod: usize, network: &Value) -> Child {
        self.spawn_plugin(Path::new(PLUGIN), command, pod, network)
    }

    /// Some plugin on its way, for the container of a pod.
    pub(crate) fn spawn_plugin(
        &self,
        plugin: &Path,
        command: &str,
        pod: usize,
        network: &Value,
    ) -> Child {
        self.spawn_for("eth0", plugin, command, pod, network)
    }

    fn spawn_for(
        &self,
        device: &str,
        plugin: &Path,
        command: &str,
        pod: usize,
        network: &Value,
    ) -> Child {
        let netns = self.pods.get(pod).map(|_| self.netns(pod));
        let run = || {
            Command::new(plugin)
                .env("CNI_COMMAND", command)
                .env("CNI_CONTAINERID", container(pod))
                .env("CNI_NETNS", netns.unwrap_or_default())
                .env("CNI_IFNAME", device)
                .env("CNI_PATH", "/opt/cni/bin")
                .env(
                    "CNI_ARGS",
                    format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=pod-{pod}"),
                )
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("the plugin starts")
        };
        let mut child = self.node().inside(run).expect("on the node");
        let input = network.to_string();
        // A plugin that was killed, or refuses its variables, reads nothing.
        let _ = child
            .stdin
            .take()
            .expect("piped")
            .write_all(input.as_bytes());
        child
    }

    /// What the plugin says.
    pub(crate) fn run(&self, command: &str, pod: usize, network: &Value) -> Said {
        said(
            self.spawn(command, pod, network)
                .wait_with_output()
                .expect("it ends"),
        )
    }

    /// What the plugin says to a request for another interface than the first.
    pub(crate) fn run_for(&self, device: &str, command: &str, pod: usize, network: &Value) -> Said {
        let child = self.spawn_for(device, Path::new(PLUGIN), command, pod, network);
        said(child.wait_with_output().expect("it ends"))
    }

    pub(crate) fn add(&self, pod: usize) -> Said {
        self.run("ADD", pod, &self.network("1.1.0", Value::Null))
    }

    pub(crate) fn delete(&self, pod: usize) -> Said {
        self.run("DEL", pod, &self.network("1.1.0", Value::Null))
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        State::at(self.path("state")).records().expect("readable")
    }

    /// True if the last ADD of a pod's container got to its end.
    pub(crate) fn is_added(&self, pod: usize) -> bool {
        let wired = Wired {
            container: container(pod),
            device: "eth0".to_owned(),
        };
        let record = State::at(self.path("state"))
            .find(&wired)
            .expect("readable");
        record.is_some_and(|record| record.phase == Phase::Added)
    }

    /// Host ends of pods' wires on the node.
    pub(crate) fn wires(&self) -> usize {
        self.sh("ip -o link").matches(": pw").count()
    }

    /// The agent's ports but the uplink's and the host's.
    pub(crate) fn ports(&self) -> usize {
        let ports = self.ask(&json!({"show": "ports"})).expect("an answer");
        ports.as_array().expect("rows").len() - 2
    }

    /// Nothing of any pod is left in the kernel or on disk.
    pub(crate) fn is_clean(&self) {
        assert_eq!((self.wires(), self.records().len()), (0, 0));
        for pod in 0..self.pods() {
            let text = sh(&self.pod(pod), "ip -o link; ip route; ip -6 route");
            assert!(!text.contains("eth0"), "{text}");
        }
    }

    fn remove(&self) {
        for name in self.pods.iter().chain([&self.name]) {
            Namespace::remove(name).expect("removed");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.remove();
    }
}

pub(crate) fn said(output: Output) -> Said {
    Said {
        exit: output.status.code(),
        text: String::from_utf8(output.stdout).expect("text"),
    }
}

pub(crate) fn container(pod: usize) -> String {
    format!("c0ffee-{pod}")
}

/// What a shell in a namespace prints.
pub(crate) fn sh(namespace: &Namespace, line: &str) -> String {
    let run = || {
        Command::new("sh")
            .args(["-c", line])
            .output()
            .expect("a shell")
    };
    let output = namespace.inside(run).expect("inside");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
