//! podway as it is used: a lab of two nodes with agents of their own.

use std::env;

use anyhow::{Context, ensure};
use podway_host::Namespace;
use podway_lab::{Place as Names, Underlay, Up};

use super::{Place, Pods, Setting};
use crate::follow::runtime;
use crate::wire::Turn;

/// What all that is the lab's begins with.
pub(crate) const LAB: &str = "podway-bench-lab";
const MANIFESTS: &str = "\
apiVersion: v1
kind: Namespace
metadata: { name: bench }
---
apiVersion: v1
kind: Node
metadata: { name: node1 }
spec: { podCIDRs: [10.244.1.0/24] }
---
apiVersion: v1
kind: Node
metadata: { name: node2 }
spec: { podCIDRs: [10.244.2.0/24] }
";

/// A lab that is up; dropping it takes it down.
pub(crate) struct Lab {
    pub(crate) names: Names,
    _manifests: tempfile::TempDir,
}

impl Lab {
    /// Brings a lab up whose pods are idle: by node and name, all in one namespace.
    pub(crate) fn up(pods: &[(&str, String)], setting: Setting) -> anyhow::Result<Lab> {
        let folder = tempfile::tempdir().context("a folder for manifests")?;
        let mut text = MANIFESTS.to_owned();
        for (node, name) in pods {
            text += &format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: bench }}\nspec:\n  nodeName: {node}\n  containers: [{{ name: idle, command: [sleep, infinity] }}]\n"
            );
        }
        std::fs::write(folder.path().join("bench.yaml"), text)?;
        let executable = env::current_exe().context("where this program is")?;
        // A test is a directory below the programs.
        let directories = executable.ancestors().skip(1).take(2);
        let mut programs = directories.map(|directory| directory.join("podway"));
        let podway = programs.find(|program| program.is_file());
        let mut up = Up::new(folder.path());
        up.place = Names::named(LAB);
        up.executable = podway.context("no `podway` beside this program: build the workspace")?;
        // As the peers have it.
        up.underlay = Underlay::Wire;
        up.underlay_mtu = setting.underlay_mtu;
        up.pod_mtu = setting.pod_mtu;
        up.progress = |_| ();
        let lab = Lab {
            names: up.place.clone(),
            _manifests: folder,
        };
        runtime()?
            .block_on(podway_lab::up(&up))
            .context("the lab")?;
        Ok(lab)
    }

    /// What it is made of.
    pub(crate) fn status(&self) -> anyhow::Result<podway_lab::Status> {
        Ok(runtime()?.block_on(podway_lab::status(&self.names))?)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // What stays is taken away before the next bed is made.
        if let Ok(runtime) = runtime() {
            let _ = runtime.block_on(podway_lab::down(&self.names));
        }
    }
}

/// A client and a server on one node, and a server on another.
pub(super) fn pods(_turn: &Turn, setting: Setting) -> anyhow::Result<Pods> {
    let pods = [("node1", "client"), ("node1", "near"), ("node2", "far")];
    let lab = Lab::up(&pods.map(|(node, name)| (node, name.to_owned())), setting)?;
    let status = lab.status()?;
    let pod = |name: &str| {
        let full = format!("bench/{name}");
        let pod = status.pods.iter().find(|pod| pod.name == full);
        let pod = pod.with_context(|| format!("the lab has no pod {name}"))?;
        ensure!(!pod.addresses.is_empty(), "pod {name} has no address");
        let namespace = Namespace::named(&pod.namespace)?;
        Ok::<_, anyhow::Error>((namespace, pod.addresses[0].to_string()))
    };
    let server = |place, name| pod(name).map(|(namespace, address)| (place, namespace, address));
    let servers = vec![
        server(Place::SameNode, "near")?,
        server(Place::AcrossNodes, "far")?,
    ];
    Ok(Pods {
        client: pod("client")?.0,
        servers,
        _carrier: Box::new(lab),
    })
}
