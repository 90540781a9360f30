//! Pods: a node and addresses for each.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostIP, Node, Pod, PodIP};
use podway_intent::{PodNetwork, PodPhase};

use crate::complete::{Cluster, choose};
use crate::convert::{node_into, pod_into};
use crate::fields::Family;
use crate::object::{is_stored, title};
use crate::problem::Findings;
use crate::{Place, Problem};

/// Binds every pod to a node and gives it addresses of the node's ranges, one of each family.
pub(super) fn complete(cluster: &mut Cluster) {
    let mut pods = std::mem::take(&mut cluster.pods);
    // Given addresses first: nothing chosen may be one of them.
    for (pod, place) in &pods {
        claim(pod, place, cluster);
    }
    for (pod, place) in &mut pods {
        if let Err(problem) = place_pod(pod, place, cluster) {
            cluster.problems.push(problem);
        }
    }
    cluster.pods = pods;
}

/// Binds the pod, the `index`th of its owner's, unless it is bound or no node is right for it.
pub(super) fn schedule(pod: &mut Pod, owner: &str, index: usize, nodes: &[(Node, Place)]) {
    let spec = pod.spec.get_or_insert_default();
    if spec.node_name.as_ref().is_some_and(|name| !name.is_empty()) {
        return;
    }
    let wanted = spec.node_selector.clone().unwrap_or_default();
    let is_right = |node: &&Node| {
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
        !unschedulable
            && wanted
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
    };
    // Rendezvous order: one more node takes its share of owners and leaves the others where they are.
    let names = nodes.iter().map(|(node, _)| node).filter(is_right);
    let mut names: Vec<&String> = names
        .filter_map(|node| node.metadata.name.as_ref())
        .collect();
    names.sort_by_cached_key(|name| (choose::hash(&format!("{owner} on {name}")), *name));
    if let Some(turn) = index.checked_rem(names.len()) {
        spec.node_name = Some(names[turn].clone());
    }
}

/// Claims what a pod's manifest gives; nobody keeps an address from others once it is over.
fn claim(pod: &Pod, place: &Place, cluster: &mut Cluster) {
    let title = title("Pod", &pod.metadata);
    let converted = pod_into(pod, &mut Findings::new(title.clone(), place));
    if converted.network == PodNetwork::Host || converted.phase != PodPhase::Alive {
        return;
    }
    for address in converted.addresses {
        let Err(message) = cluster.claims.take_given(address, &title, place) else {
            continue;
        };
        match is_stored(&pod.metadata) {
            // Between two of its updates, a cluster may say so.
            true => tracing::warn!(pod = title, "{message}"),
            false => cluster
                .problems
                .push(place.problem(&title, "status.podIPs", message)),
        }
    }
}

fn place_pod(pod: &mut Pod, place: &Place, cluster: &mut Cluster) -> Result<(), Problem> {
    let title = title("Pod", &pod.metadata);
    let problem = |field: &str, message: String| place.problem(&title, field, message);
    let converted = pod_into(pod, &mut Findings::new(title.clone(), place));
    let given = converted.addresses;
    if given.is_empty() && is_stored(&pod.metadata) {
        // Its cluster hasn't bound or started it yet.
        return Ok(());
    }
    if let (Some(first), None) = (given.first(), &converted.node) {
        pod.spec.get_or_insert_default().node_name = node_of(*first, &cluster.nodes);
    }
    schedule(pod, &title, 0, &cluster.nodes);
    if converted.phase == PodPhase::Ended {
        return Ok(());
    }
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let node = cluster
        .nodes
        .iter()
        .find(|(node, _)| node.metadata.name == node_name);
    let Some(node) = node.map(|(node, at)| node_into(node, &mut Findings::new(String::new(), at)))
    else {
        return match (given.is_empty(), node_name) {
            (false, _) => Ok(()),
            (true, None) => {
                let message = "no Node can run it: add a Node with the labels of spec.nodeSelector";
                Err(problem("spec.nodeSelector", message.to_owned()))
            }
            (true, Some(name)) => {
                let message = format!("there is no Node {name}: add it, or leave nodeName out");
                Err(problem("spec.nodeName", message))
            }
        };
    };
    let addresses = match converted.network {
        PodNetwork::Host => one_of_each_family(&node.addresses),
        // Other networks' addresses need not be of the node's ranges.
        PodNetwork::Own if !given.is_empty() => given,
        PodNetwork::Own if node.pod_ranges.is_empty() => {
            tracing::warn!(pod = title, node = %node.name, "no address: its node has no pod range");
            return Ok(());
        }
        PodNetwork::Own => {
            let mut addresses = Vec::new();
            for range in &node.pod_ranges {
                let is_free = |address: IpAddr| cluster.claims.is_free(address);
                let Some(address) = choose::address(&title, range, is_free) else {
                    let message = format!("{range} of Node {} is full: give it more", node.name);
                    return Err(problem("", message));
                };
                cluster.claims.take(address, &title);
                addresses.push(address);
            }
            addresses
        }
    };
    fill(pod, &addresses, &node.addresses);
    Ok(())
}

fn one_of_each_family(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first = |family| {
        let mut of_family = addresses
            .iter()
            .filter(move |one| Family::of(**one) == family);
        of_family.next().copied()
    };
    [Family::V4, Family::V6]
        .into_iter()
        .filter_map(first)
        .collect()
}

/// The node whose pod ranges an address is of.
fn node_of(address: IpAddr, nodes: &[(Node, Place)]) -> Option<String> {
    let found = nodes.iter().find(|(node, place)| {
        let node = node_into(node, &mut Findings::new(String::new(), place));
        node.pod_ranges.iter().any(|range| range.contains(&address))
    });
    found.and_then(|(node, _)| node.metadata.name.clone())
}

fn fill(pod: &mut Pod, addresses: &[IpAddr], host: &[IpAddr]) {
    let status = pod.status.get_or_insert_default();
    status.phase.get_or_insert_with(|| "Running".to_owned());
    status.pod_ip = addresses.first().map(IpAddr::to_string);
    let pod_ips = addresses.iter().map(|address| PodIP {
        ip: address.to_string(),
    });
    status.pod_ips = Some(pod_ips.collect());
    status.host_ip = host.first().map(IpAddr::to_string);
    let host_ips = host.iter().map(|address| HostIP {
        ip: address.to_string(),
    });
    status.host_ips = Some(host_ips.collect());
}
