//! CHECK: whether a container's network is as it was made.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::config::Config;
use super::environment::Container;
use super::error::{CniError, Code, PATIENCE};
use crate::agent::{ask, mac_text};
use crate::{Namespace, Record, State};

/// Nothing if the container's network is as ADD made it; what later plugins added is theirs.
pub(super) fn check(container: &Container, config: &Config) -> Result<(), CniError> {
    let Some(previous) = &config.previous else {
        let text = "prevResult is missing: CHECK compares with what ADD said";
        return Err(CniError::new(Code::Config, text));
    };
    let different = |text: String| Err(CniError::new(Code::Different, text));
    let wired = &container.wired;
    let Some(record) = State::at(&config.state).find(wired)? else {
        return different(format!(
            "container {} was never added, or was deleted",
            wired.container
        ));
    };
    let told = told_addresses(previous);
    if let Some(address) = record.addresses.iter().find(|it| !told.contains(it)) {
        return different(format!(
            "prevResult lacks the container's address {address}"
        ));
    }
    let namespace = Namespace::open(&container.netns)?;
    let found = namespace.inside(|| found(&wired.device))?;
    let found = found.map_err(|error| CniError::new(Code::Io, format!("interfaces: {error}")))?;
    if found.mac != Some(record.mac.clone()) {
        return different(match found.mac {
            Some(mac) => format!(
                "{} has the Ethernet address {mac} instead of {}",
                wired.device, record.mac
            ),
            None => format!("there is no interface {} in the container", wired.device),
        });
    }
    if let Some(address) = record
        .addresses
        .iter()
        .find(|it| !found.addresses.contains(it))
    {
        return different(format!("{} has lost its address {address}", wired.device));
    }
    is_attached(&record, config)
}

/// The addresses of a result; what is no address is not ours.
fn told_addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    let address = |ip: &Value| {
        let (address, _) = ip["address"].as_str()?.split_once('/')?;
        address.parse().ok()
    };
    ips.filter_map(address).collect()
}

#[derive(Default)]
struct Found {
    mac: Option<String>,
    addresses: Vec<IpAddr>,
}

fn found(device: &str) -> nix::Result<Found> {
    let mut found = Found::default();
    let all = nix::ifaddrs::getifaddrs()?;
    for entry in all.filter(|entry| entry.interface_name == device) {
        let Some(address) = entry.address else {
            continue;
        };
        if let Some(link) = address.as_link_addr() {
            found.mac = link.addr().map(mac_text);
        }
        let v4 = address.as_sockaddr_in().map(|it| IpAddr::from(it.ip()));
        let v6 = address.as_sockaddr_in6().map(|it| IpAddr::from(it.ip()));
        found.addresses.extend(v4.or(v6));
    }
    Ok(found)
}

fn is_attached(record: &Record, config: &Config) -> Result<(), CniError> {
    let ports = ask(&config.socket, &json!({"show": "ports"}), PATIENCE)?;
    let mut ports = ports.as_array().into_iter().flatten();
    match ports.any(|port| port["interface"] == record.interface.as_str()) {
        true => Ok(()),
        false => {
            let text = format!(
                "the agent has no port for {}: restart it, or delete the pod",
                record.interface
            );
            Err(CniError::new(Code::Different, text))
        }
    }
}
