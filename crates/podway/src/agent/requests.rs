//! What the CNI plugin asks for, and is answered once it is in force.

use podway_cni::agent::{Attach, Detach, Response};
use podway_host::node::{DATAPLANE_INTERFACE, Device};
use podway_intent::Name;
use podway_tables::PortId;
use podway_wire::Mac;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::ports::{mac, mode_name, pod_name};
use super::socket::{Asked, Request};
use super::waiting::UNKNOWN;
use super::{Agent, AgentError};
use crate::aim::{Due, Event, Stage, Wire, WireState};

/// Somebody who waits for something to be in force.
pub(super) struct Waiter {
    goal: Goal,
    answer: oneshot::Sender<Response>,
}

/// What somebody waits for.
enum Goal {
    /// A port to be open, in the tables, and set up for the n-th time.
    Attached(PortId, u32),
    /// Nothing of these ports to be in force.
    Detached(Vec<PortId>, Value),
}

/// A pod's device as it was asked for, and as the kernel has it.
pub(super) struct Found {
    pod: Name,
    mac: Mac,
    attach: Attach,
    device: Result<Option<Device>, String>,
    answer: oneshot::Sender<Response>,
}

impl Agent {
    /// Answers a request, or has it wait.
    pub(super) async fn asked(&mut self, asked: Asked, found: &mpsc::Sender<Found>) -> Due {
        let Asked { request, answer } = asked;
        let outcome = match (request, self.facts.stage()) {
            (Request::Show(topic), _) => Ok(self.show(topic).await),
            (Request::Attach(_) | Request::Detach(_) | Request::Network, Stage::Waiting) => {
                Err(format!("{UNKNOWN}: try again"))
            }
            (Request::Network, Stage::Opening | Stage::Running) => Ok(self.network()),
            (Request::Attach(attach), Stage::Opening | Stage::Running) => {
                return self.find(attach, answer, found);
            }
            (Request::Detach(detach), Stage::Opening | Stage::Running) => {
                return self.detach(&detach, answer);
            }
        };
        say(answer, outcome);
        Due::Nothing
    }

    /// Has the kernel asked for the device of a pod that is to be attached.
    fn find(
        &self,
        attach: Attach,
        answer: oneshot::Sender<Response>,
        found: &mpsc::Sender<Found>,
    ) -> Due {
        let checked = pod_name(&attach.pod).and_then(|pod| Ok((pod, mac(&attach.mac)?)));
        let (pod, mac) = match checked {
            Ok(checked) => checked,
            Err(error) => return say(answer, Err(error)),
        };
        if !(1280..=65535).contains(&attach.mtu) {
            let mtu = attach.mtu;
            let error = format!("mtu: {mtu} is out of range: give 1280 to 65535");
            return say(answer, Err(error));
        }
        let (network, found) = (self.network.clone(), found.clone());
        tokio::spawn(async move {
            let device = network.device(&attach.interface).await;
            let device = device.map_err(|error| error.to_string());
            let it = Found {
                pod,
                mac,
                attach,
                device,
                answer,
            };
            // Nobody takes it who stops.
            let _ = found.send(it).await;
        });
        Due::Nothing
    }

    /// Takes a pod's wire up.
    pub(super) fn attach(&mut self, found: Found) -> Due {
        let Found {
            pod,
            mac,
            attach,
            device,
            answer,
        } = found;
        let device = match self.pods_device(&attach.interface, device) {
            Ok(device) => device,
            Err(error) => return say(answer, Err(error)),
        };
        let due = self.facts.take(Event::Attach(Wire {
            pod: pod.clone(),
            interface: device.name,
            ifindex: device.ifindex,
            mac,
            mtu: attach.mtu,
            addresses: attach.addresses,
        }));
        let port = self.facts.port_of(&pod);
        let Some((port, state)) = port.and_then(|id| Some((id, self.facts.wire_at(id)?))) else {
            say(answer, Err(AgentError::Full.to_string()));
            return due;
        };
        let raises = match state {
            WireState::Open(asked) => asked,
            WireState::Asked | WireState::Leaving => 1,
        };
        let goal = Goal::Attached(port, raises);
        self.waiters.push(Waiter { goal, answer });
        due
    }

    fn pods_device(
        &self,
        interface: &str,
        device: Result<Option<Device>, String>,
    ) -> Result<Device, String> {
        let device = device?.ok_or_else(|| {
            format!("interface: there is no device {interface} on this node: wire the pod first")
        })?;
        let looked = self.facts.kernel();
        let uplink = looked.map_or("", |it| it.seen.uplink.name.as_str());
        let mut more = self.facts.uplinks();
        let is_ours = [uplink, &self.config.host_interface, DATAPLANE_INTERFACE]
            .contains(&interface)
            || more.any(|(_, it)| it.ifindex == device.ifindex);
        match is_ours {
            true => Err(format!("interface: {interface} is not a pod's device")),
            false => Ok(device),
        }
    }

    /// Lets go of a pod's wire; one that is not there is fine.
    fn detach(&mut self, detach: &Detach, answer: oneshot::Sender<Response>) -> Due {
        let pod = match pod_name(&detach.pod) {
            Ok(pod) => pod,
            Err(error) => return say(answer, Err(error)),
        };
        let of_pod = self.facts.wires().filter(|(_, wire, _)| {
            let is_meant = detach
                .interface
                .as_ref()
                .is_none_or(|it| *it == wire.interface);
            wire.pod == pod && is_meant
        });
        let of_pod: Vec<_> = of_pod.map(|(port, _, state)| (port, state)).collect();
        let mut is_there = false;
        let mut due = Due::Nothing;
        for (port, state) in &of_pod {
            is_there |= *state != WireState::Leaving;
            due = due.max(self.facts.take(Event::Detach(*port)));
        }
        let ports = of_pod.into_iter().map(|(port, _)| port).collect();
        let goal = Goal::Detached(ports, json!({ "detached": is_there }));
        self.waiters.push(Waiter { goal, answer });
        due
    }

    /// Answers those whose wait is over.
    pub(super) fn answer_waiters(&mut self) {
        for Waiter { goal, answer } in std::mem::take(&mut self.waiters) {
            match self.reached(&goal) {
                Some(outcome) => drop(say(answer, outcome)),
                None => self.waiters.push(Waiter { goal, answer }),
            }
        }
    }

    /// Tells those who wait for one of these ports, or all, that it comes to nothing.
    pub(super) fn disappoint(&mut self, port: Option<PortId>, error: &AgentError) {
        for Waiter { goal, answer } in std::mem::take(&mut self.waiters) {
            let is_meant = port.is_none_or(|port| match &goal {
                Goal::Attached(it, _) => *it == port,
                Goal::Detached(ports, _) => ports.contains(&port),
            });
            match is_meant {
                true => drop(say(answer, Err(error.to_string()))),
                false => self.waiters.push(Waiter { goal, answer }),
            }
        }
    }

    fn reached(&self, goal: &Goal) -> Option<Result<Value, String>> {
        match goal {
            Goal::Attached(port, raises) => match self.facts.wire_at(*port) {
                Some(WireState::Asked) => None,
                Some(WireState::Open(_)) => {
                    let open = self.room.in_force().ports.get(port)?;
                    (open.raises >= *raises).then(|| Ok(self.attached(*port)))
                }
                Some(WireState::Leaving) | None => Some(Err(
                    "the pod was detached meanwhile: attach it again".to_owned(),
                )),
            },
            Goal::Detached(ports, value) => {
                let is_gone = |port: &PortId| self.facts.wire_at(*port).is_none();
                ports.iter().all(is_gone).then(|| Ok(value.clone()))
            }
        }
    }

    fn attached(&self, port: PortId) -> Value {
        json!({
            "port": port.0,
            "mode": self.room.mode(port).map(mode_name),
            "sequence": self.shown().sequence(),
        })
    }
}

/// Says what came of a request; whoever asked may be gone.
fn say(answer: oneshot::Sender<Response>, outcome: Result<Value, String>) -> Due {
    let _ = answer.send(match outcome {
        Ok(value) => Response::Ok(value),
        Err(text) => Response::Error(text),
    });
    Due::Nothing
}
