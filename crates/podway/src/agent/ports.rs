//! Devices of the dataplane: how they come and go.

use std::collections::BTreeMap;
use std::net::IpAddr;

use podway_cni::State;
use podway_cni::agent::{Attach, Detach, mac_of};
use podway_intent::{Attachment, Change, Key, Name};
use podway_tables::{PortId, PortKind};
use podway_wire::Mac;
use podway_xsk::{Bind, Mode};
use serde_json::{Value, json};

use super::{Agent, AgentError};
use podway_host::node::Device;
use podway_host::pod_of_alias;

/// The uplink's port.
pub(super) const UPLINK: PortId = PortId(0);
/// The host's port.
pub(super) const HOST: PortId = PortId(1);

/// The ports that are open.
pub(super) struct Ports {
    limit: u16,
    pods: BTreeMap<Name, PodPort>,
    /// How the XDP program runs, by port.
    modes: BTreeMap<PortId, Mode>,
    uplink_ifindex: u32,
    host_ifindex: u32,
}

/// What a pod's device is told apart by.
struct Wire {
    mac: Mac,
    mtu: u32,
    addresses: Vec<IpAddr>,
}

/// A pod's device.
#[derive(Clone, Debug)]
pub(super) struct PodPort {
    pub(super) port: PortId,
    pub(super) interface: String,
    ifindex: u32,
}

impl Ports {
    pub(super) fn new(limit: u16, uplink: &Device, host: &Device) -> Ports {
        Ports {
            limit,
            pods: BTreeMap::new(),
            modes: BTreeMap::new(),
            uplink_ifindex: uplink.ifindex,
            host_ifindex: host.ifindex,
        }
    }

    /// The pods' ports.
    pub(super) fn pods(&self) -> impl Iterator<Item = (&Name, &PodPort)> {
        self.pods.iter()
    }

    /// How the XDP program runs on a port; `None` if it isn't open.
    pub(super) fn mode(&self, port: PortId) -> Option<Mode> {
        self.modes.get(&port).copied()
    }

    /// The lowest id that nobody has.
    fn free(&self) -> Option<PortId> {
        let is_taken = |id: u16| self.pods.values().any(|pod| pod.port == PortId(id));
        (HOST.0 + 1..self.limit)
            .find(|id| !is_taken(*id))
            .map(PortId)
    }
}

impl Agent {
    /// Closes a device by the XDP program, then has every worker serve its queue of it; all or nothing.
    pub(super) async fn open_port(
        &mut self,
        port: PortId,
        kind: PortKind,
        interface: &str,
        bind: Bind,
    ) -> Result<(), AgentError> {
        self.health.stamp();
        let attachment = self.redirect.attach(interface, kind, port)?;
        for worker in &self.workers {
            if let Err(error) = worker.add_port(port, interface, bind).await {
                self.close_port(port, interface).await?;
                return Err(error.into());
            }
        }
        self.ports.modes.insert(port, attachment.mode);
        tracing::info!(
            port = port.0,
            interface,
            mode = mode_name(attachment.mode),
            "port open"
        );
        Ok(())
    }

    async fn close_port(&mut self, port: PortId, interface: &str) -> Result<(), AgentError> {
        self.health.stamp();
        self.ports.modes.remove(&port);
        for worker in &self.workers {
            worker.remove_port(port).await?;
        }
        self.redirect.detach(interface)?;
        Ok(())
    }

    /// Takes a pod's wire up; it is in force when this returns.
    pub(super) async fn attach(&mut self, attach: Attach) -> Result<Value, String> {
        let pod = pod_name(&attach.pod)?;
        let mac = mac(&attach.mac)?;
        if !(1280..=65535).contains(&attach.mtu) {
            let mtu = attach.mtu;
            return Err(format!("mtu: {mtu} is out of range: give 1280 to 65535"));
        }
        let interface = &attach.interface;
        let device = self.node.device(interface).await.map_err(text)?;
        let device = device.ok_or_else(|| {
            format!("interface: there is no device {interface} on this node: wire the pod first")
        })?;
        if [&self.node.uplink().name, &self.config.host_interface].contains(&interface)
            || device.ifindex == self.node.dataplane().ifindex
        {
            return Err(format!("interface: {interface} is not a pod's device"));
        }
        let wire = Wire {
            mac,
            mtu: attach.mtu,
            addresses: attach.addresses,
        };
        self.attach_device(&pod, &device, wire)
            .await
            .map_err(text)?;
        self.node.raise(device.ifindex).await.map_err(text)?;
        let port = self.ports.pods[&pod].port;
        tracing::info!(%pod, port = port.0, interface, "pod attached");
        Ok(json!({
            "port": port.0,
            "mode": self.ports.mode(port).map(mode_name),
            "sequence": self.compiled.snapshot.sequence,
        }))
    }

    async fn attach_device(
        &mut self,
        pod: &Name,
        device: &Device,
        wire: Wire,
    ) -> Result<(), AgentError> {
        let same = |known: &PodPort| known.ifindex == device.ifindex;
        if self.ports.pods.get(pod).is_some_and(|known| !same(known)) {
            self.release(pod).await?;
        }
        let port = match self.ports.pods.get(pod) {
            Some(known) => known.port,
            None => {
                let port = self.ports.free().ok_or(AgentError::Full)?;
                self.open_port(port, PortKind::Pod(None), &device.name, Bind::Copy)
                    .await?;
                let known = PodPort {
                    port,
                    interface: device.name.clone(),
                    ifindex: device.ifindex,
                };
                self.ports.pods.insert(pod.clone(), known);
                port
            }
        };
        self.apply(Change::Attachment(Attachment {
            pod: pod.clone(),
            port,
            mac: wire.mac,
            mtu: wire.mtu,
            addresses: wire.addresses,
        }));
        self.publish().await
    }

    /// Lets go of a pod's wire; one that is not there is fine.
    pub(super) async fn detach(&mut self, detach: &Detach) -> Result<Value, String> {
        let pod = pod_name(&detach.pod)?;
        let is_meant = |known: &PodPort| match &detach.interface {
            Some(interface) => known.interface == *interface,
            None => true,
        };
        let is_there = self.ports.pods.get(&pod).is_some_and(is_meant);
        if is_there {
            self.release(&pod).await.map_err(text)?;
        }
        Ok(json!({ "detached": is_there }))
    }

    async fn release(&mut self, pod: &Name) -> Result<(), AgentError> {
        let Some(known) = self.ports.pods.remove(pod) else {
            return Ok(());
        };
        self.apply(Change::Gone(Key::Attachment(pod.clone())));
        self.publish().await?;
        self.close_port(known.port, &known.interface).await?;
        tracing::info!(%pod, port = known.port.0, "pod detached");
        Ok(())
    }

    /// Takes up the devices that an earlier agent had: their aliases say whose they are.
    pub(super) async fn adopt_pods(&mut self) -> Result<(), AgentError> {
        let records = State::at(&self.config.cni_state).records();
        let records = records.unwrap_or_else(|error| {
            tracing::warn!(%error, "adopted pods have the addresses of their Pod objects");
            Vec::new()
        });
        for device in self.node.pods().await? {
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
            let wire = Wire {
                mac: recorded.unwrap_or_else(|| Mac(podway_cni::pod_mac(&pod.to_string()))),
                mtu: device.mtu,
                addresses: record.map_or(Vec::new(), |it| it.addresses.clone()),
            };
            match self.attach_device(&pod, &device, wire).await {
                Ok(()) => tracing::info!(%pod, interface = device.name, "pod adopted"),
                // The device stays closed; one pod's fault is not all pods' fault.
                Err(error) => {
                    tracing::error!(%pod, %error, "pod not adopted");
                    continue;
                }
            }
            if let Err(error) = self.node.raise(device.ifindex).await {
                tracing::error!(%pod, %error, "the pod's device is down");
            }
        }
        Ok(())
    }

    /// Lets go of pods whose devices are gone.
    pub(super) async fn forget_vanished(&mut self) {
        if self.ports.pods.is_empty() {
            return;
        }
        let devices = match self.node.devices().await {
            Ok(devices) => devices,
            Err(error) => {
                tracing::warn!(%error, "devices are not known");
                return;
            }
        };
        let is_listed = |known: &PodPort| devices.iter().any(|it| it.ifindex == known.ifindex);
        let missing: Vec<(Name, PodPort)> = self
            .ports
            .pods()
            .filter(|(_, known)| !is_listed(known))
            .map(|(pod, known)| (pod.clone(), known.clone()))
            .collect();
        for (pod, known) in missing {
            // A list may miss a device while others come and go.
            let device = self.node.device(&known.interface).await;
            if device.is_ok_and(|it| it.is_some_and(|it| it.ifindex == known.ifindex)) {
                continue;
            }
            tracing::warn!(%pod, "the pod's device is gone");
            if let Err(error) = self.release(&pod).await {
                tracing::error!(%pod, %error, "the pod's port is not closed");
            }
        }
    }

    /// Opens the uplink and the host's port anew if their devices were replaced.
    pub(super) async fn follow_devices(&mut self, uplink: &Device) {
        if uplink.ifindex != self.ports.uplink_ifindex
            && self
                .reopen(UPLINK, PortKind::Uplink, &uplink.name, Bind::ZeroCopy)
                .await
        {
            self.ports.uplink_ifindex = uplink.ifindex;
        }
        let host = self.node.dataplane().clone();
        if host.ifindex != self.ports.host_ifindex
            && self
                .reopen(HOST, PortKind::Host, &host.name, Bind::Copy)
                .await
        {
            self.ports.host_ifindex = host.ifindex;
        }
    }

    /// True if the port is open again; if not, the next look tries again.
    async fn reopen(&mut self, port: PortId, kind: PortKind, interface: &str, bind: Bind) -> bool {
        tracing::warn!(port = port.0, interface, "the device was replaced");
        let reopened = async {
            self.close_port(port, interface).await?;
            self.open_port(port, kind, interface, bind).await
        };
        match reopened.await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(port = port.0, %error, "the port is closed");
                false
            }
        }
    }
}

/// A mode as users see it.
pub(super) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Native => "native",
        Mode::Generic => "generic",
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn pod_name(text: &str) -> Result<Name, String> {
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

fn mac(text: &str) -> Result<Mac, String> {
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

    #[test]
    fn port_ids_are_the_lowest_free_ones_up_to_the_limit() {
        let device = Device {
            ifindex: 7,
            name: String::new(),
            mac: Mac::default(),
            mtu: 1500,
            alias: String::new(),
        };
        let mut ports = Ports::new(4, &device, &device);
        let mut take = |name: &str| {
            let port = ports.free()?;
            let pod = pod_name(name).expect("a pod");
            let known = PodPort {
                port,
                interface: String::new(),
                ifindex: 9,
            };
            ports.pods.insert(pod, known);
            Some(port.0)
        };
        assert_eq!(
            (take("a/a"), take("a/b"), take("a/c")),
            (Some(2), Some(3), None)
        );
        ports.pods.remove(&pod_name("a/a").expect("a pod"));
        assert_eq!(ports.free(), Some(PortId(2)));
    }
}
