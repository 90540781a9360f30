//! Pods' devices: those that an earlier agent left, and the words in which they are told of.

use podway_cni::State;
use podway_cni::agent::mac_of;
use podway_host::node::{Node, NodeError};
use podway_host::pod_of_alias;
use podway_intent::Name;
use podway_wire::Mac;
use podway_xsk::Mode;

use crate::aim::Wire;
use crate::config::Config;

/// The wires that an earlier agent had: their devices' aliases say whose they are.
pub(super) async fn adopted(node: &Node, config: &Config) -> Result<Vec<Wire>, NodeError> {
    let records = State::at(&config.cni_state).records();
    let records = records.unwrap_or_else(|error| {
        tracing::warn!(%error, "adopted pods have the addresses of their Pod objects");
        Vec::new()
    });
    let mut wires = Vec::new();
    for device in node.pods().await? {
        // What the CNI plugin recorded is more than an alias holds.
        let record = records.iter().find(|it| it.interface == device.name);
        let title = match record {
            Some(record) => record.pod.as_str(),
            None => pod_of_alias(&device.alias).unwrap_or_default(),
        };
        let Ok(pod) = pod_name(title) else {
            tracing::warn!(
                interface = device.name,
                alias = device.alias,
                "not adopted: the alias names no pod"
            );
            continue;
        };
        let recorded = record.and_then(|it| mac_of(&it.mac)).map(Mac);
        wires.push(Wire {
            mac: recorded.unwrap_or_else(|| Mac(podway_cni::pod_mac(&pod.to_string()))),
            mtu: device.mtu,
            addresses: record.map_or(Vec::new(), |it| it.addresses.clone()),
            pod,
            interface: device.name,
            ifindex: device.ifindex,
        });
    }
    Ok(wires)
}

/// A mode as users see it.
pub(super) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Native => "native",
        Mode::Generic => "generic",
    }
}

pub(super) fn pod_name(text: &str) -> Result<Name, String> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(Name {
                namespace: namespace.into(),
                name: name.into(),
            })
        }
        Some(_) | None => Err(format!("pod: {text:?} is no pod: give NAMESPACE/NAME")),
    }
}

pub(super) fn mac(text: &str) -> Result<Mac, String> {
    mac_of(text)
        .map(Mac)
        .filter(|mac| !mac.is_group())
        .ok_or_else(|| {
            format!("mac: {text:?} is no Ethernet address: give one as 02:00:00:00:00:01")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_read_strictly() {
        assert_eq!(pod_name("shop/web").expect("a pod").to_string(), "shop/web");
        for bad in ["web", "/web", "shop/", "a/b/c", ""] {
            let error = pod_name(bad).expect_err(bad);
            assert!(error.ends_with("is no pod: give NAMESPACE/NAME"), "{error}");
        }
        assert_eq!(mac("02:00:00:00:00:Ab"), Ok(Mac([2, 0, 0, 0, 0, 0xab])));
        for bad in [
            "02:00:00:00:00",
            "2:0:0:0:0:1",
            "01:00:00:00:00:01",
            "02:00:00:00:00:0g",
            "02:00:00:00:00:00:00",
        ] {
            assert!(mac(bad).is_err(), "{bad}");
        }
    }
}
