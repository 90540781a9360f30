//! What a runtime is told of a container's network, in the shape of the version that it asked in.

use std::net::IpAddr;

use ipnet::IpNet;
use podway_host::far_mtu;
use serde_json::{Value, json};

use super::config::Config;
use super::version::Version;
use crate::Record;
use crate::agent::NodeNetwork;
use crate::wire::gateway;

/// The result of ADD.
pub(super) fn result(config: &Config, record: &Record, netns: &str, node: &NodeNetwork) -> Value {
    let version = config.version;
    let mut interfaces = [
        json!({"name": record.interface}),
        json!({"name": record.wired.device, "mac": record.mac, "sandbox": netns}),
    ];
    if version >= Version::V1_1_0 {
        interfaces
            .iter_mut()
            .for_each(|it| it["mtu"] = json!(node.pod_mtu));
    }
    let mut ips = Vec::new();
    let mut routes = Vec::new();
    for address in &record.addresses {
        let range = node.pod_ranges.iter().find(|range| range.contains(address));
        let gateway = range.map(|range| gateway(*range));
        let mut ip = ip(version, (*address).into(), INSIDE);
        ip["gateway"] = json!(gateway);
        ips.push(ip);
        let everything = match address {
            IpAddr::V4(_) => "0.0.0.0/0",
            IpAddr::V6(_) => "::/0",
        };
        let next_door = range.map(|range| range.trunc().to_string());
        for (to, mtu) in [
            (next_door.as_deref(), node.pod_mtu),
            (Some(everything), far_mtu(node.pod_mtu, node.tunnel_mtu)),
        ] {
            let mut route = json!({"dst": to, "gw": gateway});
            if version >= Version::V1_1_0 {
                route["mtu"] = json!(mtu);
            }
            routes.push(route);
        }
    }
    json!({
        "cniVersion": version.text(),
        "interfaces": interfaces,
        "ips": ips,
        "routes": routes,
        "dns": config.dns.clone().unwrap_or_else(|| json!({})),
    })
}

/// The index of the container's interface among the interfaces above.
const INSIDE: usize = 1;

/// An address of one of the interfaces of a result.
pub(super) fn ip(version: Version, address: IpNet, interface: usize) -> Value {
    let mut ip = json!({"address": address.to_string(), "interface": interface});
    if version < Version::V1_0_0 {
        ip["version"] = json!(if address.addr().is_ipv4() { "4" } else { "6" });
    }
    ip
}
