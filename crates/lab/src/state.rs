//! What `up` leaves for the other commands: a file that is always whole.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use podway_host::{Durability, write_whole};
use serde::{Deserialize, Serialize};

use crate::process::Recorded;
use crate::{Error, Place};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The directory of manifests.
    pub(crate) source: PathBuf,
    /// The API server, if agents follow one.
    pub(crate) api_server: Option<Recorded>,
    /// Nodes by name.
    pub(crate) nodes: BTreeMap<String, NodeState>,
    /// Pods by `NAMESPACE/NAME`.
    pub(crate) pods: BTreeMap<String, PodState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeState {
    pub(crate) namespace: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) agent: Option<Recorded>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodState {
    pub(crate) namespace: String,
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) processes: Vec<Recorded>,
}

impl State {
    pub(crate) fn load(place: &Place) -> Result<Self, Error> {
        let path = place.state();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::NoLab),
            Err(source) => return Err(Error::File { path, source }),
            Ok(text) => text,
        };
        serde_json::from_str(&text).map_err(|error| Error::File {
            path,
            source: error.into(),
        })
    }

    pub(crate) fn save(&self, place: &Place) -> Result<(), Error> {
        let path = place.state();
        let new = path.with_extension("new");
        let bytes = serde_json::to_vec_pretty(self).expect("a JSON value");
        write_whole(&new, &path, &bytes, 0o644, Durability::Process)
            .map_err(|source| Error::File { path, source })
    }

    pub(crate) fn processes(&self) -> Vec<Recorded> {
        let agents = self.nodes.values().filter_map(|node| node.agent.clone());
        let containers = self
            .pods
            .values()
            .flat_map(|pod| pod.processes.iter().cloned());
        let api_server = self.api_server.iter().cloned();
        agents.chain(containers).chain(api_server).collect()
    }
}
