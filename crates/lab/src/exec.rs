//! Runs a command where a pod or a node is, or outside of the cluster.

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::str::FromStr;

use podway_host::Namespace;

use crate::state::State;
use crate::up::search_path;
use crate::{Error, Place};

/// Where a command runs: `NAMESPACE/POD`, `node:NAME` or `world`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A pod as `NAMESPACE/NAME`.
    Pod(String),
    /// A node by name.
    Node(String),
    /// The machine outside of the cluster that is the nodes' default gateway.
    World,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "world" {
            return Ok(Self::World);
        }
        match (text.strip_prefix("node:"), text.split_once('/')) {
            (Some(name), None) if !name.is_empty() => Ok(Self::Node(name.to_owned())),
            (None, Some((namespace, name))) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self::Pod(text.to_owned()))
            }
            _ => Err(format!(
                "`{text}` is neither NAMESPACE/POD nor node:NAME nor world"
            )),
        }
    }
}

pub(crate) fn exec(
    place: &Place,
    target: &Target,
    command: &[String],
) -> Result<Infallible, Error> {
    let [program, arguments @ ..] = command else {
        return Err(Error::NoCommand);
    };
    let state = State::load(place)?;
    let namespace = match target {
        Target::Pod(title) => state.pods.get(title).map(|pod| pod.namespace.clone()),
        Target::Node(name) => state.nodes.get(name).map(|node| node.namespace.clone()),
        Target::World => Some(place.world()).filter(|world| place.namespaces().contains(world)),
    };
    let namespace = namespace.ok_or_else(|| {
        Error::NoTarget(match target {
            Target::Pod(title) => format!("pod {title}"),
            Target::Node(name) => format!("node {name}"),
            Target::World => "world".to_owned(),
        })
    })?;
    Namespace::named(&namespace)?.enter()?;
    let source = Command::new(program)
        .args(arguments)
        .env("PATH", search_path(place))
        .exec();
    Err(Error::Start {
        name: namespace,
        program: program.clone(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_pods_or_nodes() {
        assert_eq!("shop/web-0".parse(), Ok(Target::Pod("shop/web-0".into())));
        assert_eq!("world".parse(), Ok(Target::World));
        assert_eq!("node:node1".parse(), Ok(Target::Node("node1".into())));
        for wrong in ["web-0", "node:", "/web", "shop/", "node:a/b"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
