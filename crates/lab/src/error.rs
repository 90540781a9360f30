//! Why a lab did not do what it was asked.

use std::io;
use std::path::PathBuf;

use podway_cni::WireError;
use podway_cni::agent::AgentError;
use podway_host::{NamespaceError, NetlinkError};

/// Why a lab did not do what it was asked, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifests are not usable; one line for each problem.
    #[error("{0}")]
    Manifests(String),
    /// A lab is there.
    #[error("a lab is up, or what is left of one; take it down with `podway lab down`")]
    Exists,
    /// No lab is there.
    #[error("no lab is up; start one with `podway lab up DIR`, such as config/lab")]
    NoLab,
    /// There is no such pod or node.
    #[error(
        "the lab has no {0}; `podway lab status` lists its nodes (node:NAME) and pods (NAMESPACE/NAME)"
    )]
    NoTarget(String),
    /// A pod is bound to a node that the manifests don't have.
    #[error(
        "pod {pod}: its nodeName {node} is not a Node of the manifests; add the Node or correct the name"
    )]
    NoNode {
        /// The pod.
        pod: String,
        /// The node that it names.
        node: String,
    },
    /// A wire has two ends.
    #[error(
        "an underlay of one wire joins two nodes, and the manifests have {0}; leave `--underlay wire` out"
    )]
    NotTwo(usize),
    /// The API server is in the world outside.
    #[error(
        "an underlay of one wire has no world outside, where the API server would be; leave `--underlay wire` or `--source kubernetes` out"
    )]
    NoWorld,
    /// Nothing to run.
    #[error("no command is given; write it after `--`")]
    NoCommand,
    /// A namespace can't be used.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The underlay can't be made.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A pod can't be wired.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A file of the lab can't be read or written.
    #[error("{}: {source}; the lab keeps its files there and needs root", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A command can't be run.
    #[error("{name}: cannot run {program}: {source}; is it installed and in PATH?")]
    Start {
        /// What it is for.
        name: String,
        /// The program.
        program: String,
        /// What went wrong.
        source: io::Error,
    },
    /// A process ended, or took too long.
    #[error("{name}: {what}; its log ends with: {last}")]
    NotReady {
        /// The process.
        name: String,
        /// What it did not do.
        what: String,
        /// The last line of its log.
        last: String,
    },
    /// A process survives SIGKILL.
    #[error(
        "process {pid} does not end; see what it waits for in /proc/{pid}/stack, then repeat `podway lab down`"
    )]
    Stuck {
        /// The process.
        pid: i32,
    },
    /// Nodes can't reach an API server.
    #[error("no node has an InternalIP, so that none reaches an API server; give nodes addresses")]
    NoAddress,
    /// A real API server did not start, or did not take what the manifests say.
    #[error("API server: {0}")]
    ApiServer(String),
    /// A node's agent refused.
    #[error("node {node}: {source}")]
    Agent {
        /// The node.
        node: String,
        /// What it said.
        source: AgentError,
    },
    /// A server can't be offered.
    #[error("cannot serve on {address} port {port}: {source}; choose another --port or --bind")]
    Serve {
        /// The address.
        address: std::net::IpAddr,
        /// The port.
        port: u16,
        /// What went wrong.
        source: io::Error,
    },
}

impl Error {
    /// The exit code of a command that ends with this: 2 for bad input, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Manifests(_)
            | Error::NoTarget(_)
            | Error::NoNode { .. }
            | Error::NotTwo(_)
            | Error::NoWorld
            | Error::NoCommand => 2,
            Error::Exists
            | Error::NoLab
            | Error::Namespace(_)
            | Error::Netlink(_)
            | Error::Wire(_)
            | Error::File { .. }
            | Error::Start { .. }
            | Error::NotReady { .. }
            | Error::Stuck { .. }
            | Error::NoAddress
            | Error::ApiServer(_)
            | Error::Agent { .. }
            | Error::Serve { .. } => 1,
        }
    }
}
