//! CHECK: whether a container's network is as it was made.

use std::net::IpAddr;

use ipnet::IpNet;
use podway_host::{Namespace, NetlinkError, Network, Seen};
use serde_json::{Value, json};

use super::config::Config;
use super::environment::Container;
use super::error::{CniError, Code, PATIENCE};
use crate::agent::{ask, mac_of, mac_text, network};
use crate::{Record, State};

/// Nothing if the container's network is as ADD made it; what later plugins added, or moved to tables of their own, is
/// theirs (C3).
pub(super) fn check(container: &Container, config: &Config) -> Result<(), CniError> {
    let Some(previous) = &config.previous else {
        let text = "prevResult is missing: CHECK compares with what ADD said";
        return Err(CniError::new(Code::Config, text));
    };
    let wired = &container.wired;
    let Some(record) = State::at(&config.state).find(wired)? else {
        return different(format!(
            "container {} was never added, or was deleted",
            wired.container
        ));
    };
    let told = told_addresses(previous);
    let is_told = |address: &IpAddr| told.iter().any(|(it, _)| it == address);
    if let Some(address) = record.addresses.iter().find(|it| !is_told(it)) {
        return different(format!(
            "prevResult lacks the container's address {address}"
        ));
    }
    let gateways: Vec<IpAddr> = told
        .iter()
        .filter(|(address, _)| record.addresses.contains(address))
        .filter_map(|(_, gateway)| *gateway)
        .collect();
    let node = network(&config.socket, PATIENCE)?;
    let seen = look(container)?;
    is_same_link(&record, &seen)?;
    has_routes(&record, &seen, &told_routes(previous, &gateways))?;
    for gateway in gateways {
        if let Some(mac) = mac_of(&node.gateway_mac)
            && !seen.neighbours.contains(&(gateway, mac))
        {
            return different(format!(
                "{} has lost its gateway's Ethernet address: {gateway} is at {}",
                wired.device, node.gateway_mac
            ));
        }
    }
    is_attached(&record, config)
}

fn different<T>(text: String) -> Result<T, CniError> {
    Err(CniError::new(Code::Different, text))
}

/// The addresses of a result and their gateways; what is no address is not ours.
fn told_addresses(result: &Value) -> Vec<(IpAddr, Option<IpAddr>)> {
    let ips = result["ips"].as_array().into_iter().flatten();
    let address = |ip: &Value| {
        let (address, _) = ip["address"].as_str()?.split_once('/')?;
        let gateway = ip["gateway"].as_str().and_then(|it| it.parse().ok());
        Some((address.parse().ok()?, gateway))
    };
    ips.filter_map(address).collect()
}

/// A route by one of our gateways, as a result tells it: versions before 1.1.0 leave the MTU out.
struct ToldRoute {
    destination: IpNet,
    gateway: IpAddr,
    mtu: Option<u64>,
}

fn told_routes(result: &Value, gateways: &[IpAddr]) -> Vec<ToldRoute> {
    let routes = result["routes"].as_array().into_iter().flatten();
    let route = |route: &Value| {
        Some(ToldRoute {
            destination: route["dst"].as_str()?.parse().ok()?,
            gateway: route["gw"].as_str()?.parse().ok()?,
            mtu: route["mtu"].as_u64(),
        })
    };
    let routes = routes.filter_map(route);
    routes.filter(|it| gateways.contains(&it.gateway)).collect()
}

fn look(container: &Container) -> Result<Seen, CniError> {
    let namespace = Namespace::open(&container.netns)?;
    let device = container.wired.device.as_str();
    let seen = Network::of(&namespace, async |pod: Network| {
        pod.seen(pod.index(device)?).await
    });
    match seen {
        Err(NetlinkError::NoLink(_)) => {
            different(format!("there is no interface {device} in the container"))
        }
        seen => Ok(seen?),
    }
}

fn is_same_link(record: &Record, seen: &Seen) -> Result<(), CniError> {
    let device = &record.wired.device;
    let mac = seen.mac.map(mac_text).unwrap_or_default();
    if mac != record.mac {
        return different(format!(
            "{device} has the Ethernet address {mac} instead of {}",
            record.mac
        ));
    }
    let mut addresses = record.addresses.iter();
    match addresses.find(|it| !seen.addresses.contains(it)) {
        Some(address) => different(format!("{device} has lost its address {address}")),
        None => Ok(()),
    }
}

fn has_routes(record: &Record, seen: &Seen, told: &[ToldRoute]) -> Result<(), CniError> {
    let device = &record.wired.device;
    for route in told {
        let is_it = |it: &&podway_host::Route| {
            it.destination == route.destination && it.gateway == Some(route.gateway)
        };
        let found: Vec<_> = seen.routes.iter().filter(is_it).collect();
        let ToldRoute {
            destination,
            gateway,
            mtu,
        } = route;
        let covers = |it: &&podway_host::Route| {
            it.destination.contains(&route.destination) && it.gateway == Some(route.gateway)
        };
        if found.is_empty() && seen.elsewhere.iter().any(|it| covers(&it)) {
            continue;
        }
        if found.is_empty() {
            return different(format!(
                "{device} has lost its route to {destination} by {gateway}"
            ));
        }
        let size = |it: &podway_host::Route| it.mtu.map(|mtu| u64::from(mtu.bytes()));
        if mtu.is_some() && !found.iter().any(|it| size(it) == *mtu) {
            let mtu = mtu.unwrap_or_default();
            return different(format!(
                "the route to {destination} by {gateway} of {device} has lost its MTU {mtu}"
            ));
        }
    }
    Ok(())
}

fn is_attached(record: &Record, config: &Config) -> Result<(), CniError> {
    let ports = ask(&config.socket, &json!({"show": "ports"}), PATIENCE)?;
    let mut ports = ports.as_array().into_iter().flatten();
    match ports.any(|port| port["interface"] == record.interface.as_str()) {
        true => Ok(()),
        false => different(format!(
            "the agent has no port for {}: restart it, or delete the pod",
            record.interface
        )),
    }
}
