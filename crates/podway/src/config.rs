//! The agent's configuration: a TOML file whose every value is legal once it is read.

#[cfg(test)]
mod tests;
pub(crate) mod values;

use std::fmt;
use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use podway_engine::{Existing, Timeouts as FlowTimeouts};
use podway_intent::Tunnel;
use serde::Deserialize;

use self::values::{
    directory, facts, flows, frames, health_address, host_interface, node, pod_mtu, ranges,
    seconds, snat_ports, socket, some_ranges, source, taint, tunnel, tunnel_port, uplink, vni,
    workers,
};

/// The ports that clusters give to services of type NodePort unless told otherwise.
const NODE_PORTS: (u16, u16) = (30_000, 32_767);

/// What `podway run` is told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's name, as its Node object has it; empty until the command line gives it.
    #[serde(default, deserialize_with = "node")]
    pub node: String,
    /// What describes the cluster.
    #[serde(deserialize_with = "source")]
    pub source: Source,
    /// How the API server is reached; without it, as a pod of the cluster does.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    /// The file that keeps what the API server said last; without it, one beside the socket.
    #[serde(default, deserialize_with = "facts")]
    pub facts: Option<PathBuf>,
    /// The key of the taint that is removed from the Node once tables are in force.
    #[serde(default = "default_startup_taint", deserialize_with = "taint")]
    pub startup_taint: String,
    /// The device that leads to the other nodes; without it, the one of the default route.
    #[serde(default, deserialize_with = "uplink")]
    pub uplink: Option<String>,
    /// The admin socket.
    #[serde(default = "default_socket", deserialize_with = "socket")]
    pub socket: PathBuf,
    /// Where the CNI plugin records the pods that it wired.
    #[serde(default = "default_cni_state")]
    pub cni_state: PathBuf,
    /// How many worker threads there are, 1 to 64.
    #[serde(default = "default_workers", deserialize_with = "workers")]
    pub workers: usize,
    /// The cores that workers are pinned to, one each; empty: the agent chooses.
    #[serde(default)]
    pub cores: Vec<usize>,
    /// The MTU of pods' devices, in bytes.
    #[serde(default = "default_pod_mtu", deserialize_with = "pod_mtu")]
    pub pod_mtu: u32,
    /// How long a path is taken to be as narrow as a router said, in seconds after it last did.
    #[serde(default = "default_path_mtu_lifetime", deserialize_with = "seconds")]
    pub path_mtu_lifetime: u32,
    /// How many flows the table holds.
    #[serde(default = "default_flows", deserialize_with = "flows")]
    pub flows: usize,
    /// Packet buffers of 4 KiB for each worker, a power of two.
    #[serde(default = "default_frames", deserialize_with = "frames")]
    pub frames: u32,
    /// The name of the host's end of the pair that joins the node with the dataplane.
    #[serde(
        default = "default_host_interface",
        deserialize_with = "host_interface"
    )]
    pub host_interface: String,
    /// Where the kernel's settings are, writable: runtimes mount a container's own read-only.
    #[serde(default = "default_proc_sys", deserialize_with = "directory")]
    pub proc_sys: PathBuf,
    /// The ranges that cluster IPs come from, where the cluster has no ServiceCIDRs that say so.
    #[serde(default, deserialize_with = "some_ranges")]
    pub service_ranges: Option<Vec<IpNet>>,
    /// Ranges of the node's addresses that answer node ports; none: its first address of each family.
    #[serde(default, deserialize_with = "ranges")]
    pub node_port_addresses: Vec<IpNet>,
    /// Ranges that external IPs of services may be in; none: there are no external IPs (CVE-2020-8554).
    #[serde(default, deserialize_with = "ranges")]
    pub allowed_external_ips: Vec<IpNet>,
    /// Ranges outside of the cluster to which pods send with their own addresses.
    #[serde(default, deserialize_with = "ranges")]
    pub masquerade_exempt: Vec<IpNet>,
    /// The first and last source port of what leaves under the node's address.
    #[serde(default = "default_snat_ports", deserialize_with = "snat_ports")]
    pub snat_ports: (u16, u16),
    /// What a change of policy means for flows that were allowed before it.
    #[serde(default)]
    pub existing_connections: ExistingConnections,
    /// Where `/healthz` and `/livez` are answered.
    #[serde(
        default = "default_health_address",
        deserialize_with = "health_address"
    )]
    pub health_address: SocketAddr,
    /// Which nodes' packets go through the tunnel.
    #[serde(default, deserialize_with = "tunnel")]
    pub tunnel: Tunnel,
    /// The tunnel.
    #[serde(default)]
    pub vxlan: Vxlan,
    /// How long idle flows are kept.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// What a change of policy means for flows that were allowed before it (N12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExistingConnections {
    /// They are judged again, and stop at once if they are no longer allowed.
    #[default]
    Judge,
    /// They go on for as long as they live.
    Keep,
}

impl ExistingConnections {
    /// The same as the engine takes it.
    pub fn of_flows(self) -> Existing {
        match self {
            ExistingConnections::Judge => Existing::Judge,
            ExistingConnections::Keep => Existing::Keep,
        }
    }
}

/// What describes the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory of manifests.
    Directory(PathBuf),
    /// The cluster's API server.
    Kubernetes,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Directory(path) => path.display().fmt(f),
            Source::Kubernetes => f.write_str("kubernetes"),
        }
    }
}

/// How long idle flows are kept, in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// TCP before both sides were heard.
    #[serde(deserialize_with = "seconds")]
    pub syn: u32,
    /// TCP between the handshake and the first FIN.
    #[serde(deserialize_with = "seconds")]
    pub established: u32,
    /// TCP after one side's FIN.
    #[serde(deserialize_with = "seconds")]
    pub half_closed: u32,
    /// TCP after both sides' FINs; `fin` was its name before one of them was told from both.
    #[serde(deserialize_with = "seconds", alias = "fin")]
    pub closed: u32,
    /// TCP after an RST.
    #[serde(deserialize_with = "seconds")]
    pub rst: u32,
    /// UDP that was not answered.
    #[serde(deserialize_with = "seconds")]
    pub udp_one_way: u32,
    /// UDP that was.
    #[serde(deserialize_with = "seconds")]
    pub udp: u32,
    /// Echo.
    #[serde(deserialize_with = "seconds")]
    pub icmp: u32,
    /// Everything else.
    #[serde(deserialize_with = "seconds")]
    pub other: u32,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let engine = FlowTimeouts::default();
        Timeouts {
            syn: engine.syn_ms / 1_000,
            established: engine.established_ms / 1_000,
            half_closed: engine.half_closed_ms / 1_000,
            closed: engine.closed_ms / 1_000,
            rst: engine.rst_ms / 1_000,
            udp_one_way: engine.udp_one_way_ms / 1_000,
            udp: engine.udp_ms / 1_000,
            icmp: engine.icmp_ms / 1_000,
            other: engine.other_ms / 1_000,
        }
    }
}

impl Timeouts {
    /// The same as the engine takes them.
    pub fn of_flows(&self) -> FlowTimeouts {
        FlowTimeouts {
            syn_ms: self.syn * 1_000,
            established_ms: self.established * 1_000,
            half_closed_ms: self.half_closed * 1_000,
            closed_ms: self.closed * 1_000,
            rst_ms: self.rst * 1_000,
            udp_one_way_ms: self.udp_one_way * 1_000,
            udp_ms: self.udp * 1_000,
            icmp_ms: self.icmp * 1_000,
            other_ms: self.other * 1_000,
        }
    }
}

/// The VXLAN tunnel (RFC 7348), equal on all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vxlan {
    /// UDP port.
    #[serde(deserialize_with = "tunnel_port")]
    pub port: u16,
    /// Network identifier, 24 bits.
    #[serde(deserialize_with = "vni")]
    pub vni: u32,
}

impl Default for Vxlan {
    fn default() -> Vxlan {
        Vxlan { port: 4789, vni: 1 }
    }
}

/// Why a configuration is refused: file, line, key and remedy in one line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error(
        "{path}: {problem}: give the configuration's path with --config, as in config/podway.toml"
    )]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        problem: String,
    },
    /// A key is wrong or missing.
    #[error("{path}:{line}: {problem}")]
    Wrong {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The key, what is wrong with it and what would be right.
        problem: String,
    },
}

impl Config {
    /// Reads the file; errors name file, line and key. A node named here is another than the file's.
    pub fn read(path: &Path, node: Option<&str>) -> Result<Config, ConfigError> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            path: name.clone(),
            problem: error.kind().to_string(),
        })?;
        parse(&name, &text, node)
    }
}

impl Config {
    /// The ranges that cluster IPs come from, where the cluster does not say so.
    pub fn service_ranges(&self) -> Vec<IpNet> {
        self.service_ranges
            .clone()
            .unwrap_or_else(default_service_ranges)
    }

    /// The file that keeps what the API server said last.
    pub fn facts_path(&self) -> PathBuf {
        let beside = || self.socket.with_extension("facts");
        self.facts.clone().unwrap_or_else(beside)
    }
}

fn parse(path: &str, text: &str, node: Option<&str>) -> Result<Config, ConfigError> {
    let wrong = |line: usize, problem: String| ConfigError::Wrong {
        path: path.to_owned(),
        line,
        problem,
    };
    let mut config: Config = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text[..start].matches('\n').count();
        let key = key_of(text.lines().nth(line).unwrap_or_default());
        let message = error.message().replace('\n', " ");
        match key {
            Some(key) if !message.contains(" field `") => {
                wrong(line + 1, format!("{key}: {message}"))
            }
            Some(_) | None => wrong(line + 1, message),
        }
    })?;
    if let Some(name) = node {
        name.clone_into(&mut config.node);
    }
    if config.node.is_empty() {
        let problem = "node: is missing: give the Node object's name here, or with --node";
        return Err(wrong(1, problem.to_owned()));
    }
    if !config.cores.is_empty() && config.cores.len() != config.workers {
        let line = line_of(text, "cores");
        let (cores, workers) = (config.cores.len(), config.workers);
        return Err(wrong(
            line,
            format!("cores: {cores} cores for {workers} workers: list one core for each worker"),
        ));
    }
    if config.kubeconfig.is_some() && config.source != Source::Kubernetes {
        return Err(wrong(
            line_of(text, "kubeconfig"),
            "kubeconfig: is for source = \"kubernetes\" only: remove it, or change `source`"
                .to_owned(),
        ));
    }
    if let Some(what) = reserved(&config) {
        let (first, last) = config.snat_ports;
        return Err(wrong(
            line_of(text, "snat_ports"),
            format!(
                "snat_ports: {first}-{last} overlaps {what}: give ports that nobody else uses, as in \"61000-65535\""
            ),
        ));
    }
    Ok(config)
}

/// F10: what of the ports that are known to be others' the masquerading ports overlap.
fn reserved(config: &Config) -> Option<String> {
    let (first, last) = config.snat_ports;
    let overlaps = |(other_first, other_last)| first <= other_last && other_first <= last;
    let tunnel = config.vxlan.port;
    if overlaps(NODE_PORTS) {
        return Some("the node ports, 30000-32767".to_owned());
    }
    if overlaps((tunnel, tunnel)) {
        return Some(format!("the tunnel's port {tunnel}"));
    }
    let health = config.health_address.port();
    overlaps((health, health)).then(|| format!("the port of `health_address`, {health}"))
}

/// The key that a line gives a value, or the table that it begins.
fn key_of(line: &str) -> Option<&str> {
    if let Some(table) = line.trim().strip_prefix('[') {
        return table.strip_suffix(']');
    }
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    (!key.starts_with('#')).then_some(key)
}

fn line_of(text: &str, key: &str) -> usize {
    text.lines()
        .position(|line| key_of(line) == Some(key))
        .map_or(1, |index| index + 1)
}

fn default_socket() -> PathBuf {
    PathBuf::from("/run/podway/podway.sock")
}

fn default_cni_state() -> PathBuf {
    PathBuf::from(podway_cni::STATE_DIRECTORY)
}

fn default_startup_taint() -> String {
    "node.podway.dev/not-ready".to_owned()
}

fn default_proc_sys() -> PathBuf {
    PathBuf::from("/proc/sys")
}

fn default_workers() -> usize {
    1
}

pub(crate) fn default_snat_ports() -> (u16, u16) {
    (61_000, 65_535)
}

fn default_health_address() -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, 10_256))
}

/// RFC 1191, 6.3; RFC 8201, 4.
fn default_path_mtu_lifetime() -> u32 {
    600
}

fn default_pod_mtu() -> u32 {
    61000
}

fn default_flows() -> usize {
    262_144
}

fn default_frames() -> u32 {
    16384
}

fn default_host_interface() -> String {
    "podway-host".to_owned()
}

pub(crate) fn default_service_ranges() -> Vec<IpNet> {
    ["10.96.0.0/16", "fd96::/112"]
        .iter()
        .map(|text| text.parse().expect("a range"))
        .collect()
}
