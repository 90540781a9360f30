//! ADD: addresses, a wire, and the agent's word that it is in force; all of it or nothing.

use podway_host::{Namespace, Network};
use serde_json::{Value, json};

use super::config::Config;
use super::environment::Container;
use super::error::{CniError, Code, PATIENCE, START_PATIENCE};
use super::remove::tear_down;
use super::result::result;
use crate::agent::{Attach, NodeNetwork, Request, ask, mac_of, network};
use crate::{Phase, PodWiring, Record, State, wire};

/// Gives a container its network.
pub(super) fn add(container: &Container, config: &Config) -> Result<Value, CniError> {
    if config.previous.is_some() {
        let text = "prevResult: podway-cni makes the container's interface: put it first in its list of plugins";
        return Err(CniError::new(Code::Config, text));
    }
    let node_namespace = Namespace::own()?;
    let pod_namespace = Namespace::open(&container.netns)?;
    if pod_namespace.is(&node_namespace) {
        let text = "CNI_NETNS is the node's own network namespace: give the container's";
        return Err(CniError::new(Code::Environment, text));
    }
    let node = network(&config.socket, PATIENCE)?;
    if node.pod_ranges.is_empty() {
        let text =
            "the Node has no pod range yet: give it spec.podCIDRs, or wait until the cluster does";
        return Err(CniError::new(Code::TryAgain, text));
    }
    let state = State::at(&config.state);
    clear(container, config, &state, &pod_namespace)?;
    refuse_second(container, &state)?;

    let record = state.take(
        &container.wired,
        &config.name,
        &container.pod,
        &node.pod_ranges,
    )?;
    let made = make(
        container,
        config,
        &record,
        &node,
        [&node_namespace, &pod_namespace],
    );
    if let Err(error) = made.and_then(|()| Ok(state.finish(&record)?)) {
        // The first error is the one to tell; what can't be taken away now is taken by DEL or GC.
        let _ = tear_down(&record.wired, Some(&record.pod), config);
        return Err(error);
    }
    Ok(result(
        config,
        &record,
        &container.netns.to_string_lossy(),
        &node,
    ))
}

/// Takes away what an ADD of the same container left that died; a finished one's interface is not touched.
fn clear(
    container: &Container,
    config: &Config,
    state: &State,
    pod_namespace: &Namespace,
) -> Result<(), CniError> {
    let device = container.wired.device.as_str();
    let is_there = || nix::net::if_::if_nametoindex(device).is_ok();
    let record = state.find(&container.wired)?;
    if let Some(record) = &record
        && (record.phase == Phase::Adding || !pod_namespace.inside(is_there)?)
    {
        tear_down(&container.wired, Some(&record.pod), config)?;
    }
    match pod_namespace.inside(is_there)? {
        true => {
            let netns = container.netns.display();
            let text = format!(
                "CNI_IFNAME: there is an interface {device} in {netns} already: DEL it first, or give another name"
            );
            Err(CniError::new(Code::Exists, text))
        }
        false => Ok(()),
    }
}

/// A pod has one interface of ours: its address, policies and services are that one's.
fn refuse_second(container: &Container, state: &State) -> Result<(), CniError> {
    let wired = &container.wired;
    let is_other = |it: &Record| {
        it.phase == Phase::Added
            && it.wired.container == wired.container
            && it.wired.device != wired.device
    };
    match state.records()?.into_iter().find(is_other) {
        Some(record) => {
            let text = format!(
                "CNI_IFNAME: the container has {} of podway already, and a pod gets one interface of it: give {} by another plugin",
                record.wired.device, wired.device
            );
            Err(CniError::new(Code::Exists, text))
        }
        None => Ok(()),
    }
}

fn make(
    container: &Container,
    config: &Config,
    record: &Record,
    node: &NodeNetwork,
    [node_namespace, pod_namespace]: [&Namespace; 2],
) -> Result<(), CniError> {
    wire(&PodWiring {
        pod: &record.pod,
        interface: &record.interface,
        device: &container.wired.device,
        node_namespace,
        pod_namespace,
        mac: container.wired.mac(),
        addresses: &record.addresses,
        pod_ranges: &node.pod_ranges,
        gateway_mac: mac_of(&node.gateway_mac),
        queues: node.queues,
        pod_mtu: node.pod_mtu,
        tunnel_mtu: node.tunnel_mtu,
    })?;
    let attach = Request::Attach(Attach {
        pod: record.pod.clone(),
        interface: record.interface.clone(),
        mac: record.mac.clone(),
        mtu: node.pod_mtu,
        addresses: record.addresses.clone(),
    });
    ask(&config.socket, &json!(attach), PATIENCE)?;
    for (namespace, link) in [
        (pod_namespace, &container.wired.device),
        (node_namespace, &record.interface),
    ] {
        Network::of(namespace, async |network: Network| {
            network.started(link, START_PATIENCE).await
        })?;
    }
    Ok(())
}
