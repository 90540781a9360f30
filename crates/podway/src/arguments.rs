//! The command line.

use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use podway_intent::Tunnel;
use podway_lab::Target;

use crate::config::values::node_name;
use crate::show::Topic;

/// Carries the packets of a Kubernetes node in userspace.
///
/// podway moves pod and service traffic with AF_XDP: services, network policies and the VXLAN tunnel between nodes are
/// done by pinned worker threads. Try it with `podway lab up config/lab`, which makes a cluster of network namespaces
/// on this machine and touches nothing else.
#[derive(Debug, Parser)]
#[command(name = "podway", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What podway can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of a node (as root) until it is told to stop.
    Run(Run),
    /// Make and use a cluster of network namespaces on this machine (as root).
    #[command(subcommand)]
    Lab(Lab),
    /// Say what becomes of a packet, by running it through the real engine; needs neither root nor a kernel.
    Explain(Explain),
    /// Ask a running agent what it knows.
    Show(Show),
    /// Say what policies let through, or write policies for what was let through; needs neither root nor a kernel.
    #[command(subcommand)]
    Policy(Policy),
    /// The CNI plugin, by which a container runtime has its pods wired.
    #[command(subcommand)]
    Cni(Cni),
}

/// What `podway cni` can do.
#[derive(Debug, Subcommand)]
pub enum Cni {
    /// Put podway-cni, which lies next to this program, and its configuration where the container runtime looks for
    /// them.
    Install {
        /// The runtime's directory of plugins.
        #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
        bin_dir: PathBuf,
        /// The runtime's directory of networks.
        #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
        conf_dir: PathBuf,
        /// The agent's socket, as it is called where the runtime runs.
        #[arg(long, value_name = "PATH", default_value = "/run/podway/podway.sock")]
        socket: PathBuf,
        /// Where the plugin keeps its records, as `cni_state` of the agent's configuration has it.
        #[arg(long, value_name = "DIR", default_value = podway_cni::STATE_DIRECTORY)]
        state_dir: PathBuf,
    },
}

/// Arguments of `podway run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The configuration (TOML); config/podway.toml documents every key.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The node's name, where nodes share a configuration: counts before its `node`.
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub node: Option<String>,
}

/// Arguments of `podway show`.
#[derive(Debug, Args)]
pub struct Show {
    /// What to show.
    pub topic: Topic,
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// The agent's socket.
    #[arg(long, value_name = "PATH", default_value = "/run/podway/podway.sock")]
    pub socket: PathBuf,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for people.
    #[default]
    Table,
    /// One JSON value, stable in its keys.
    Json,
}

/// Arguments of `podway explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// The cluster: a directory of manifests, or one file.
    #[arg(long, value_name = "DIR|FILE")]
    pub manifests: PathBuf,
    /// The node whose dataplane is asked.
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// Which nodes' packets go through the tunnel, as the agents are told: `vxlan`, `direct` or `auto`. Other nodes count as
    /// being in one of the uplink's subnets.
    #[arg(long, value_name = "WHICH", default_value_t)]
    pub tunnel: Tunnel,
    /// One packet, as in {"ingress":"pod:shop/client","src":"10.244.1.9","sport":40000,"dst":"10.96.0.10","dport":80,"protocol":"tcp"}.
    #[arg(
        long,
        value_name = "JSON",
        required_unless_present = "packets",
        conflicts_with = "packets"
    )]
    pub packet: Option<String>,
    /// A file with a packet in each line; `-` reads standard input.
    #[arg(long, value_name = "FILE.jsonl")]
    pub packets: Option<PathBuf>,
}

/// What `podway policy` can do.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Say which pod reaches which at which port, or what differs from other manifests (and then exit with 1).
    Check {
        /// The cluster: a directory of manifests, or one file.
        #[arg(long, value_name = "DIR|FILE")]
        manifests: PathBuf,
        /// The manifests as they were: only what differs from them is printed.
        #[arg(long, value_name = "DIR|FILE")]
        against: Option<PathBuf>,
        /// How to show it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Write NetworkPolicies that allow the flows that agents have seen, and nothing else.
    Suggest {
        /// The cluster: a directory of manifests, or one file.
        #[arg(long, value_name = "DIR|FILE")]
        manifests: PathBuf,
        /// What `podway show flows -o json` printed; give one of each node.
        #[arg(long, value_name = "FILE", required = true)]
        flows: Vec<PathBuf>,
        /// Isolate pods without any flow, too.
        #[arg(long)]
        all: bool,
    },
}

/// What `podway lab` can do.
#[derive(Debug, Subcommand)]
pub enum Lab {
    /// Make a cluster from manifests, and return when its servers listen and its tables are in force.
    Up {
        /// The manifests: nodes, pods, services, policies.
        #[arg(value_name = "DIR")]
        manifests: PathBuf,
        /// Where agents learn what the manifests say.
        #[arg(long, value_enum, default_value_t)]
        source: Source,
        /// The MTU of the network between the nodes, in bytes.
        #[arg(long, value_name = "BYTES", default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1350..=65535))]
        underlay_mtu: u32,
        /// The MTU of the pods' devices, in bytes.
        #[arg(long, value_name = "BYTES", default_value_t = 61000, value_parser = clap::value_parser!(u32).range(1280..=65535))]
        pod_mtu: u32,
        /// Which nodes' packets go through the tunnel, as on a node: `vxlan`, `direct` or `auto`.
        #[arg(long, value_name = "WHICH", default_value_t)]
        tunnel: Tunnel,
        /// How the network between the nodes is made.
        #[arg(long, value_enum, default_value_t)]
        underlay: Underlay,
        /// Workers of each agent.
        #[arg(long, value_name = "COUNT", default_value = "1")]
        workers: NonZeroU16,
        /// A device of this machine that is a node's uplink, instead of a wire to the network between the nodes.
        #[arg(long, value_name = "NODE=DEVICE", value_parser = uplink)]
        uplink: Vec<(String, String)>,
        /// How long agents and servers have to get ready.
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        timeout: u16,
        /// A range that external IPs of services may be in; none unless given, as on a node.
        #[arg(long, value_name = "RANGE")]
        external_ips: Vec<IpNet>,
    },
    /// Remove everything that the lab made, after a crash, too.
    Down,
    /// Say what the lab is made of and how it does.
    Status {
        /// How to show it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Run a command in a pod or on a node of the lab; its exit code is passed on.
    Exec {
        /// NAMESPACE/POD or node:NAME.
        #[arg(value_name = "TARGET")]
        target: Target,
        /// The command and its arguments.
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Dial every pod from every pod and through every service, and compare with what the manifests say.
    Check {
        /// How to show it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Be a small server, as a container's command.
    Serve {
        /// What to serve.
        #[arg(value_enum)]
        kind: Serve,
        /// The port to listen on.
        #[arg(long)]
        port: u16,
        /// The address to listen on; `::` takes both families.
        #[arg(long, default_value = "::")]
        bind: std::net::IpAddr,
    },
    /// Be the API server that agents of a lab follow.
    #[command(hide = true)]
    ApiServer {
        /// The manifests.
        #[arg(value_name = "DIR")]
        manifests: PathBuf,
        /// Where to listen; `[::]` takes both families.
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:6443")]
        bind: std::net::SocketAddr,
    },
}

/// Sources of `podway lab up`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Source {
    /// The directory itself, which each agent watches.
    #[default]
    Directory,
    /// An API server in the world outside, which says what the directory says.
    Kubernetes,
}

/// Networks of `podway lab up`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Underlay {
    /// One network that all nodes' addresses are in.
    #[default]
    One,
    /// A network for each /24 and /64 that nodes have addresses in, and the world as the router between them.
    Routed,
    /// A wire between two nodes, and no world outside: what passes it costs the least.
    Wire,
}

/// Servers of `podway lab serve`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Serve {
    /// Sends every datagram back.
    UdpEcho,
    /// Sends every byte back.
    TcpEcho,
}

/// What a bad command line is told, in one line.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let head: Vec<&str> = text
        .lines()
        .take_while(|line| !line.trim().is_empty())
        .map(str::trim)
        .collect();
    let head = head.join(" ");
    let head = head.strip_prefix("error: ").unwrap_or(&head);
    format!("{head}: see `podway --help`")
}

/// A node and the device that is its uplink.
fn uplink(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((node, device)) if !node.is_empty() && !device.is_empty() => {
            Ok((node.to_owned(), device.to_owned()))
        }
        Some(_) | None => Err("give NODE=DEVICE, such as node1=eth1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn bad_usage_is_one_line_that_names_the_flag() {
        for (line, said) in [
            (
                "podway run",
                "the following required arguments were not provided: --config <FILE>: see `podway --help`",
            ),
            (
                "podway show services --soket x",
                "unexpected argument '--soket' found: see `podway --help`",
            ),
            (
                "podway lab up d --tunnel ipip",
                "invalid value 'ipip' for '--tunnel <WHICH>': \"ipip\" is not known: give vxlan, direct or auto: see `podway --help`",
            ),
            (
                "podway lab up d --uplink eth1",
                "invalid value 'eth1' for '--uplink <NODE=DEVICE>': give NODE=DEVICE, such as node1=eth1: see `podway --help`",
            ),
            (
                "podway lab up d --underlay-mtu 9",
                "invalid value '9' for '--underlay-mtu <BYTES>': 9 is not in 1350..=65535: see `podway --help`",
            ),
        ] {
            let error = Arguments::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(one_line(&error), said);
        }
    }
}
