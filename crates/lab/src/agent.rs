//! The agents of a lab's nodes: real `podway run` processes, one in each node's namespace.

use std::fs;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use podway_cni::agent::ask;
use podway_host::Namespace;
use serde::Serialize;
use serde_json::{Value, json};

use crate::process::{Recorded, start};
use crate::underlay::Underlay;
use crate::up::{file, not_ready};
use crate::{Error, Up, underlay};

/// An agent that this process started.
pub(crate) struct Agent {
    name: String,
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

/// Where an agent learns of the cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Follows<'a> {
    /// From a directory of manifests.
    Directory(&'a Path),
    /// From the API server of this kubeconfig.
    ApiServer(&'a Path),
}

/// What `podway run` reads.
#[derive(Serialize)]
struct Config<'a> {
    node: &'a str,
    source: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    kubeconfig: Option<&'a Path>,
    uplink: &'a str,
    tunnel: String,
    socket: &'a Path,
    workers: NonZeroU16,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cores: Vec<usize>,
    pod_mtu: u32,
    allowed_external_ips: &'a [IpNet],
}

impl Agent {
    pub(crate) fn start(
        options: &Up,
        follows: Follows<'_>,
        (number, node): (usize, &str),
    ) -> Result<(Self, Recorded), Error> {
        let place = &options.place;
        let (socket, log, path) = (
            place.socket(node),
            place.agent_log(node),
            place.config(node),
        );
        let (source, kubeconfig) = match follows {
            Follows::Directory(directory) => (directory, None),
            Follows::ApiServer(kubeconfig) => (Path::new("kubernetes"), Some(kubeconfig)),
        };
        let config = Config {
            node,
            source,
            kubeconfig,
            uplink: underlay::UPLINK,
            tunnel: options.tunnel.to_string(),
            socket: &socket,
            workers: options.workers,
            cores: match options.underlay {
                Underlay::Wire => cores(number, options.workers),
                // Else a core is left to those who talk, where there are few.
                Underlay::One | Underlay::Routed => Vec::new(),
            },
            pod_mtu: options.pod_mtu,
            allowed_external_ips: &options.external_ips,
        };
        let text = toml::to_string(&config).expect("strings and numbers");
        file(&path, fs::write(&path, text))?;

        let name = format!("agent of {node}");
        let namespace = Namespace::named(&place.node(node))?;
        let mut command = Command::new(&options.executable);
        command.arg("run").arg("--config").arg(&path);
        let (child, process) = start(&name, &namespace, &mut command, &log)?;
        Ok((
            Self {
                name,
                child,
                socket,
                log,
            },
            process,
        ))
    }

    /// Waits until the agent's status is as it should be; an agent answers once its first tables are in force.
    pub(crate) fn await_status(
        &mut self,
        options: &Up,
        not_yet: &str,
        is_ready: impl Fn(&Value) -> bool,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + options.timeout;
        let question = json!({ "show": "status" });
        loop {
            let what = match ask(&self.socket, &question, options.timeout) {
                Ok(status) if is_ready(&status) => return Ok(()),
                Ok(_) => not_yet.to_owned(),
                Err(error) => error.to_string(),
            };
            if let Ok(Some(ended)) = self.child.try_wait() {
                let what = format!("it ended with {ended}");
                return Err(not_ready(options, &self.name, what, &self.log));
            }
            if Instant::now() > deadline {
                return Err(not_ready(options, &self.name, what, &self.log));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The cores of the node with this number, from the last one on: nodes of one machine share them evenly. None, which
/// leaves it to the agent, if a node has more workers than there are cores.
fn cores(number: usize, workers: NonZeroU16) -> Vec<usize> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let workers = usize::from(workers.get());
    if workers > allowed.len() {
        return Vec::new();
    }
    let from_last = allowed.iter().rev().cycle().skip(number * workers);
    from_last.take(workers).map(|core| core.id).collect()
}
