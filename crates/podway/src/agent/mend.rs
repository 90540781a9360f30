//! What others did to the devices that carry packets to us is put right (R4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podway_host::node::{Device, Mend, Node, Ours};
use podway_host::pod_of_alias;
use podway_tables::{PortId, PortKind};
use podway_xsk::{Mode, Redirect};

use super::kernel::beside;
use crate::aim::Port;

/// The device by which the node's own processes reach its own addresses.
const LOOPBACK: &str = "lo";

/// What the devices were like.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// The aliases of pods' devices, by index: a later agent knows them by these.
    aliases: BTreeMap<u32, String>,
    own: Own,
}

/// Whether the node's own packets to its services have come to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Own {
    #[default]
    Never,
    Before,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Mended {
    pub(super) mends: Vec<Mend>,
    pub(super) problems: Vec<String>,
}

impl Devices {
    /// Makes the devices of open ports what they were, and those that are no ports and no uplinks any more nobody's.
    pub(super) async fn mend(
        &mut self,
        (node, redirect): (&Node, &Arc<Redirect>),
        (open, modes): (&[(PortId, Port)], &BTreeMap<PortId, Mode>),
        opening: &BTreeSet<u32>,
        devices: &[Device],
    ) -> Mended {
        let mut mended = Mended::default();
        for (id, port) in open {
            let device = devices.iter().find(|it| it.ifindex == port.ifindex);
            let Some(device) = device else { continue };
            if let Some(mode) = modes.get(id) {
                restore(redirect, (device, port.kind, *mode), &mut mended).await;
            }
            if let PortKind::Pod(_) = port.kind {
                self.mend_pod(node, port, device, &mut mended).await;
            }
        }
        let is_port = |ifindex| open.iter().any(|(_, port)| port.ifindex == ifindex);
        let left = devices.iter().filter(|it| {
            it.program != 0 && !is_port(it.ifindex) && pod_of_alias(&it.alias).is_none()
        });
        for device in left.filter(|it| !opening.contains(&it.ifindex)) {
            take_off(redirect, device, &mut mended).await;
        }
        self.aliases
            .retain(|ifindex, _| devices.iter().any(|it| it.ifindex == *ifindex));
        self.mend_own(redirect, &mut mended).await;
        mended
    }

    async fn mend_pod(&mut self, node: &Node, port: &Port, device: &Device, mended: &mut Mended) {
        if pod_of_alias(&device.alias).is_some() {
            self.aliases.insert(device.ifindex, device.alias.clone());
        } else if let Some(alias) = self.aliases.get(&device.ifindex) {
            let detail = format!("{} had the alias {:?}", device.name, device.alias);
            let set = node.set_alias(device.ifindex, alias.clone()).await;
            mended.note(set, detail);
        }
        if port.raises > 0 && !device.is_up {
            let raised = node.raise(device.ifindex).await;
            mended.note(raised, format!("{} was down", device.name));
        }
    }

    /// What the node's own processes send to its services' ports at its own addresses is to come to us (S26).
    async fn mend_own(&mut self, redirect: &Arc<Redirect>, mended: &mut Mended) {
        let program = redirect.clone();
        match beside(move || program.attach_own(LOOPBACK)).await {
            Ok(true) if self.own == Own::Before => {
                let detail = format!("the filter on {LOOPBACK}");
                mended.mends.push(Mend::new(Ours::Program, detail));
            }
            Ok(_) => self.own = Own::Before,
            Err(error) => mended.problems.push(error.to_string()),
        }
    }
}

impl Mended {
    fn note<E: std::fmt::Display>(&mut self, done: Result<(), E>, detail: String) {
        match done {
            Ok(()) => self.mends.push(Mend::new(Ours::Device, detail)),
            Err(error) => self.problems.push(format!("{detail}: {error}")),
        }
    }
}

/// Without our program what a device brings does not come to us: a pod is cut off, and its packets end in the host's stack,
/// which is not whom they are addressed to.
async fn restore(
    redirect: &Arc<Redirect>,
    (device, kind, mode): (&Device, PortKind, Mode),
    mended: &mut Mended,
) {
    let has_it = device.program == redirect.program_id();
    match kind {
        // A NIC's may be there and run elsewhere.
        PortKind::Uplink => {}
        PortKind::Host | PortKind::Pod(_) if has_it => return,
        PortKind::Host | PortKind::Pod(_) => {}
    }
    let (program, name) = (redirect.clone(), device.name.clone());
    match beside(move || program.restore(&name, mode)).await {
        Ok(true) => {
            let detail = format!("XDP of {}", device.name);
            mended.mends.push(Mend::new(Ours::Program, detail));
        }
        Ok(false) => {}
        Err(error) => mended.problems.push(error.to_string()),
    }
}

/// A program that an earlier agent left drops what is ours, which now comes in by what the device is a part of, or is the
/// host's.
async fn take_off(redirect: &Arc<Redirect>, device: &Device, mended: &mut Mended) {
    let (program, name) = (redirect.clone(), device.name.clone());
    match beside(move || program.take_off(&name)).await {
        Ok(true) => {
            let detail = format!("an earlier agent's XDP of {}", device.name);
            mended.mends.push(Mend::new(Ours::Program, detail));
        }
        Ok(false) => {}
        Err(error) => mended.problems.push(error.to_string()),
    }
}
