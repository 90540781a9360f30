//! Brings a lab up: switch, nodes, the world outside, agents, pods, servers, in this order.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use podway_cni::agent::{Attach, Request, ask, mac_text, network};
use podway_cni::{PodWiring, host_interface, pod_mac, wire};
use podway_host::Namespace;
use podway_intent::Tunnel;

use crate::agent::{Agent, Follows};
use crate::cluster::{Cluster, Container, Network, Node, Pod, Protocol};
use crate::process::{Recorded, listeners, start};
use crate::state::{NodeState, PodState, State};
use crate::underlay::Underlay;
use crate::{Error, Place, api, down, lent, underlay};

/// How much of a log is shown when something fails, in lines.
const LOG_LINES: usize = 12;

/// Where the agents of a lab learn of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// From the directory of manifests.
    #[default]
    Directory,
    /// From an API server in the world outside, which says what the directory says.
    Kubernetes,
}

/// What a lab is made from.
#[derive(Clone, Debug)]
pub struct Up {
    /// The directory of manifests.
    pub directory: PathBuf,
    /// Where agents learn what it says.
    pub source: Source,
    /// Its names.
    pub place: Place,
    /// The program whose `run --config FILE` is a node's agent.
    pub executable: PathBuf,
    /// MTU of the network between the nodes, in bytes.
    pub underlay_mtu: u32,
    /// MTU of the pods' wires, in bytes.
    pub pod_mtu: u32,
    /// Which nodes' packets go through the tunnel.
    pub tunnel: Tunnel,
    /// How the network between the nodes is made.
    pub underlay: Underlay,
    /// Workers of each agent, and queues of each wire.
    pub workers: NonZeroU16,
    /// Devices of the machine that are nodes' uplinks, by node, instead of wires to the network between the nodes.
    pub uplinks: BTreeMap<String, String>,
    /// Ranges that external IPs of services may be in.
    pub external_ips: Vec<IpNet>,
    /// How long agents and servers have to get ready.
    pub timeout: Duration,
    /// Is told what is being done.
    pub progress: fn(&str),
}

impl Up {
    /// A lab of these manifests with the usual names and numbers, whose agents are this program.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            source: Source::default(),
            place: Place::default(),
            executable: env::current_exe().unwrap_or_else(|_| PathBuf::from("podway")),
            underlay_mtu: 1_500,
            pod_mtu: 61_000,
            tunnel: Tunnel::default(),
            underlay: Underlay::default(),
            workers: NonZeroU16::MIN,
            uplinks: BTreeMap::new(),
            external_ips: Vec::new(),
            timeout: Duration::from_secs(30),
            progress: |line| eprintln!("{line}"),
        }
    }
}

pub(crate) fn up(options: &Up) -> Result<(), Error> {
    let cluster = Cluster::load(&options.directory)?;
    match (options.underlay, options.source, &cluster.nodes[..]) {
        (Underlay::Wire, Source::Kubernetes, _) => return Err(Error::NoWorld),
        (Underlay::Wire, Source::Directory, [_, _]) => {}
        (Underlay::Wire, Source::Directory, nodes) => return Err(Error::NotTwo(nodes.len())),
        (Underlay::One | Underlay::Routed, _, _) => {}
    }
    if let Some(name) = options
        .uplinks
        .keys()
        .find(|name| cluster.node(name).is_none())
    {
        return Err(Error::NoTarget(format!("node:{name}")));
    }
    for pod in &cluster.pods {
        if cluster.node(&pod.node).is_none() {
            return Err(Error::NoNode {
                pod: pod.title(),
                node: pod.node.clone(),
            });
        }
    }
    claim(&options.place)?;
    let made = make(options, &cluster);
    if made.is_err() {
        (options.progress)("that failed: taking the lab down");
        // What failed first is what the user needs to hear.
        let _ = down::down(&options.place);
    }
    made
}

/// Makes the lab's directory, which only one lab can do.
fn claim(place: &Place) -> Result<(), Error> {
    if !place.namespaces().is_empty() {
        return Err(Error::Exists);
    }
    match fs::create_dir(place.directory()) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Error::Exists),
        made => file(place.directory(), made),
    }
}

fn make(options: &Up, cluster: &Cluster) -> Result<(), Error> {
    let place = &options.place;
    let source = file(&options.directory, fs::canonicalize(&options.directory))?;
    for directory in [place.directory().join("log"), place.programs()] {
        file(&directory, fs::create_dir(&directory))?;
    }
    let program = place.programs().join("podway");
    file(
        &program,
        std::os::unix::fs::symlink(&options.executable, &program),
    )?;

    let mut lab = Lab {
        options,
        state: State {
            source,
            ..State::default()
        },
        agents: Vec::new(),
    };
    lab.state.save(place)?;
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    (options.progress)(&format!("making {}", count(cluster.nodes.len(), "node")));
    lab.make_nodes(cluster)?;
    (options.progress)(&format!("wiring {}", count(cluster.pods.len(), "pod")));
    let servers = lab.make_pods(cluster)?;
    (options.progress)(&format!(
        "waiting for {}",
        count(servers.len(), "container")
    ));
    lab.await_servers(servers)?;
    (options.progress)("waiting for tables");
    lab.await_tables()?;
    (options.progress)("the lab is up: `podway lab status`, `podway lab check`, `podway lab down`");
    Ok(())
}

/// A lab in the making.
struct Lab<'a> {
    options: &'a Up,
    state: State,
    agents: Vec<Agent>,
}

/// A container that was started, and what it is to listen on.
struct Server {
    name: String,
    namespace: String,
    log: PathBuf,
    child: Child,
    ports: Vec<(Protocol, u16)>,
}

impl Lab<'_> {
    fn make_nodes(&mut self, cluster: &Cluster) -> Result<(), Error> {
        match self.options.underlay {
            Underlay::Wire => self.wire_nodes(cluster)?,
            Underlay::One | Underlay::Routed => self.switch_nodes(cluster)?,
        }
        match self.options.source {
            Source::Directory => {}
            Source::Kubernetes => self.start_api_server(cluster)?,
        }
        // Agents look for their peers at once, and find them only if all are wired.
        for (number, node) in cluster.nodes.iter().enumerate() {
            self.start_agent(number, node)?;
        }
        for agent in &mut self.agents {
            let what = "its first tables are not in force";
            agent.await_status(self.options, what, |status| status["in_force"] != false)?;
        }
        Ok(())
    }

    /// Makes two nodes and a wire between them.
    fn wire_nodes(&self, cluster: &Cluster) -> Result<(), Error> {
        let nodes = [&cluster.nodes[0], &cluster.nodes[1]];
        let namespace = |node: &Node| Namespace::create(&self.options.place.node(&node.name));
        let [one, other] = [namespace(nodes[0])?, namespace(nodes[1])?];
        let [near, far] =
            nodes.map(|node| self.options.underlay.with_prefixes(node, &cluster.nodes));
        let wire = self.wire(0, self.options.workers);
        underlay::join_two([(&one, &near), (&other, &far)], wire)?;
        Ok(())
    }

    /// Makes the switch, and the nodes and the world at it.
    fn switch_nodes(&self, cluster: &Cluster) -> Result<(), Error> {
        let place = &self.options.place;
        let switch = Namespace::create(&place.switch())?;
        underlay::make_switch(&switch)?;
        for (number, node) in cluster.nodes.iter().enumerate() {
            let namespace = Namespace::create(&place.node(&node.name))?;
            let addresses = self.options.underlay.with_prefixes(node, &cluster.nodes);
            if let Some(device) = self.options.uplinks.get(&node.name) {
                lent::lend(device, &namespace, self.options.underlay_mtu, &addresses)?;
                continue;
            }
            let wire = self.wire(number, self.options.workers);
            underlay::join(&switch, &namespace, wire, &addresses)?;
        }
        let world = Namespace::create(&place.world())?;
        let wire = self.wire(cluster.nodes.len(), NonZeroU16::MIN);
        let outside = self.options.underlay.of_world(&cluster.nodes);
        underlay::join(&switch, &world, wire, &outside)?;
        match self.options.underlay {
            Underlay::One | Underlay::Wire => {}
            Underlay::Routed => underlay::forward(&world)?,
        }
        let lent = |node: &&Node| self.options.uplinks.contains_key(&node.name);
        for node in cluster.nodes.iter().filter(|node| !lent(node)) {
            let namespace = Namespace::named(&place.node(&node.name))?;
            let is_near = |ip: &&IpNet| node.addresses.iter().any(|address| ip.contains(address));
            let gateways: Vec<_> = outside.iter().filter(is_near).copied().collect();
            underlay::lead_out(&namespace, &gateways)?;
        }
        Ok(())
    }

    fn wire(&self, number: usize, queues: NonZeroU16) -> underlay::Wire {
        underlay::Wire {
            number,
            queues,
            mtu: self.options.underlay_mtu,
        }
    }

    /// Waits until each node's tables are in force and lead to each peer.
    fn await_tables(&mut self) -> Result<(), Error> {
        for agent in &mut self.agents {
            let what = "its tables are not in force, or a peer's next hop is unknown";
            agent.await_status(self.options, what, |status| {
                let peers = status["peers"].as_array().into_iter().flatten();
                let unknown = peers.filter(|peer| peer["next_hop"].is_null()).count();
                status["in_force"] != false && unknown == 0
            })?;
        }
        Ok(())
    }

    /// Starts the API server and says to each node's agent where it is.
    fn start_api_server(&mut self, cluster: &Cluster) -> Result<(), Error> {
        let place = &self.options.place;
        let outside = self.options.underlay.of_world(&cluster.nodes);
        for node in &cluster.nodes {
            let path = place.kubeconfig(&node.name);
            let text = api::kubeconfig(node, &outside)?;
            file(&path, fs::write(&path, text))?;
        }
        self.state.api_server = Some(api::start(self.options, &self.state.source)?);
        self.state.save(place)
    }

    fn start_agent(&mut self, number: usize, node: &Node) -> Result<(), Error> {
        let place = &self.options.place;
        let kubeconfig = place.kubeconfig(&node.name);
        let follows = match self.options.source {
            Source::Directory => Follows::Directory(&self.state.source),
            Source::Kubernetes => Follows::ApiServer(&kubeconfig),
        };
        let (agent, process) = Agent::start(self.options, follows, (number, &node.name))?;
        self.agents.push(agent);
        let node_state = NodeState {
            namespace: place.node(&node.name),
            addresses: node.addresses.clone(),
            agent: Some(process),
        };
        self.state.nodes.insert(node.name.clone(), node_state);
        self.state.save(place)
    }

    fn make_pods(&mut self, cluster: &Cluster) -> Result<Vec<Server>, Error> {
        let place = &self.options.place;
        let mut servers = Vec::new();
        for pod in &cluster.pods {
            let node = cluster.node(&pod.node).expect("was checked");
            let namespace = match pod.network {
                Network::Host => Namespace::named(&place.node(&node.name))?,
                Network::Own => self.wire_pod(pod, node)?,
            };
            let mut processes = Vec::new();
            for container in &pod.containers {
                let (server, process) = self.start_container(pod, container, &namespace)?;
                servers.extend(server);
                processes.extend(process);
            }
            let namespace = self.namespace_of(pod);
            let pod_state = PodState {
                namespace,
                node: pod.node.clone(),
                addresses: pod.addresses.clone(),
                processes,
            };
            self.state.pods.insert(pod.title(), pod_state);
            self.state.save(place)?;
        }
        Ok(servers)
    }

    fn namespace_of(&self, pod: &Pod) -> String {
        match pod.network {
            Network::Own => self.options.place.pod(&pod.namespace, &pod.name),
            Network::Host => self.options.place.node(&pod.node),
        }
    }

    fn wire_pod(&self, pod: &Pod, node: &Node) -> Result<Namespace, Error> {
        let options = self.options;
        let title = pod.title();
        let refused = |source| Error::Agent {
            node: node.name.clone(),
            source,
        };
        let socket = options.place.socket(&node.name);
        let network = network(&socket, options.timeout).map_err(refused)?;
        let node_namespace = Namespace::named(&options.place.node(&node.name))?;
        let pod_namespace = Namespace::create(&self.namespace_of(pod))?;
        let interface = host_interface(&title);
        let wiring = PodWiring {
            pod: &title,
            interface: &interface,
            device: "eth0",
            node_namespace: &node_namespace,
            pod_namespace: &pod_namespace,
            mac: pod_mac(&title),
            addresses: &pod.addresses,
            pod_ranges: &node.pod_ranges,
            gateway_mac: None,
            queues: options.workers,
            pod_mtu: options.pod_mtu,
            tunnel_mtu: network.tunnel_mtu,
        };
        wire(&wiring)?;
        let mac = mac_text(wiring.mac);
        let attach = Request::Attach(Attach {
            pod: title,
            interface,
            mac,
            mtu: options.pod_mtu,
            addresses: Vec::new(),
        });
        ask(&socket, &attach, options.timeout).map_err(refused)?;
        Ok(pod_namespace)
    }

    fn start_container(
        &self,
        pod: &Pod,
        container: &Container,
        namespace: &Namespace,
    ) -> Result<(Option<Server>, Option<Recorded>), Error> {
        let place = &self.options.place;
        let name = format!("{} {}", pod.title(), container.name);
        let [program, arguments @ ..] = container.command.as_slice() else {
            (self.options.progress)(&format!(
                "{name}: no command, so nothing runs (images are not used)"
            ));
            return Ok((None, None));
        };
        let log = place.container_log(&pod.title(), &container.name);
        let mut command = Command::new(program);
        command.args(arguments).env("PATH", search_path(place));
        command.envs(
            container
                .environment
                .iter()
                .map(|(key, value)| (key, value)),
        );
        if let Some(directory) = &container.directory {
            command.current_dir(directory);
        }
        let (child, process) = start(&name, namespace, &mut command, &log)?;
        let ports = container
            .ports
            .iter()
            .map(|port| (port.protocol, port.number))
            .collect();
        let namespace = self.namespace_of(pod);
        Ok((
            Some(Server {
                name,
                namespace,
                log,
                child,
                ports,
            }),
            Some(process),
        ))
    }

    /// Waits until each container listens on the ports that it declares.
    fn await_servers(&self, servers: Vec<Server>) -> Result<(), Error> {
        let deadline = Instant::now() + self.options.timeout;
        for mut server in servers {
            let namespace = Namespace::named(&server.namespace)?;
            loop {
                let listeners = listeners(&namespace)?;
                let silent = server.ports.iter().find(|&&(protocol, port)| {
                    // The kernel may lack SCTP, and has no such table for it.
                    protocol != Protocol::Sctp
                        && !listeners
                            .iter()
                            .any(|l| (l.protocol, l.port) == (protocol, port))
                });
                let Some((protocol, port)) = silent else {
                    break;
                };
                let what = format!("it does not listen on its containerPort {port} ({protocol:?})");
                if let Ok(Some(ended)) = server.child.try_wait() {
                    let what = format!("{what}: it ended with {ended}");
                    return Err(not_ready(self.options, &server.name, what, &server.log));
                }
                if Instant::now() > deadline {
                    return Err(not_ready(self.options, &server.name, what, &server.log));
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

/// PATH as the lab's commands have it: `podway` is this program.
pub(crate) fn search_path(place: &Place) -> OsString {
    let mut path = place.programs().into_os_string();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
    path
}

/// Shows the end of a log, which goes with the lab, and names what is not ready.
pub(crate) fn not_ready(options: &Up, name: &str, what: String, log: &Path) -> Error {
    let log = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        (options.progress)(&format!("{name}: {line}"));
    }
    let last = lines.last().copied().unwrap_or("(nothing)").to_owned();
    Error::NotReady {
        name: name.to_owned(),
        what,
        last,
    }
}

pub(crate) fn file<T>(path: &Path, result: std::io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}
