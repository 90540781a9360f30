//! The XDP program and its maps: loaded here, told what is ours, attached to devices.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle, PrintLevel};
use podway_tables::{PortId, PortKind};

use crate::attach::{self, Mode};
use crate::claims::Claims;
use crate::entries;
use crate::error::{LoadError, RedirectError};
use crate::own;
use crate::plan::Plan;
use crate::said;
use crate::skeleton::RedirectSkelBuilder;
use crate::skeleton::types::reason as Reason;

/// The counters' names.
const REASONS: [(Reason, &str); 15] = [
    (Reason::REASON_POD, "pod"),
    (Reason::REASON_POD_CLOSED, "pod-closed"),
    (Reason::REASON_HOST, "host"),
    (Reason::REASON_HOST_CLOSED, "host-closed"),
    (Reason::REASON_TUNNEL, "tunnel"),
    (Reason::REASON_TUNNEL_ERROR, "tunnel-error"),
    (Reason::REASON_LOCAL, "local"),
    (Reason::REASON_DIRECT, "direct"),
    (Reason::REASON_NODE_PORT, "node-port"),
    (Reason::REASON_SNAT, "snat"),
    (Reason::REASON_UPLINK_CLOSED, "uplink-closed"),
    (Reason::REASON_UPLINK_PASS, "uplink-pass"),
    (Reason::REASON_UPLINK_UNREAD, "uplink-unread"),
    (Reason::REASON_UPLINK_TAGGED, "uplink-tagged"),
    (Reason::REASON_UNKNOWN_DEVICE, "unknown-device"),
];

// Each of the program's reasons is there once, in its order.
const _: () = {
    assert!(REASONS.len() == Reason::REASONS.0 as usize);
    let mut place = 0;
    while place < REASONS.len() {
        assert!(REASONS[place].0.0 as usize == place);
        place += 1;
    }
};

/// How large the program's maps are.
#[derive(Clone, Copy, Debug)]
pub struct RedirectSettings {
    /// Sockets of a port: as many as there are workers.
    pub queues: u32,
    /// How many ports there can be; ids are below it.
    pub ports: u16,
}

/// The loaded XDP program; dropping it leaves attached devices as they are.
#[derive(Debug)]
pub struct Redirect {
    program: OwnedFd,
    /// What sends the node's own packets to its services' ports our way.
    own: OwnedFd,
    pub(crate) maps: Maps,
    sockets: Sockets,
}

/// The maps that the control side writes.
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) ports: MapHandle,
    pub(crate) local4: MapHandle,
    pub(crate) local6: MapHandle,
    pub(crate) direct4: MapHandle,
    pub(crate) direct6: MapHandle,
    pub(crate) addresses: MapHandle,
    pub(crate) node_ports: MapHandle,
    pub(crate) own_ports: MapHandle,
    pub(crate) host_ports: MapHandle,
    pub(crate) settings: MapHandle,
    pub(crate) counters: MapHandle,
    pub(crate) portless: Arc<MapHandle>,
}

/// Where workers register their sockets; a cheap clone for each of them.
#[derive(Clone, Debug)]
pub struct Sockets {
    map: Arc<MapHandle>,
    queues: u32,
}

/// What attaching a device came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Where in the kernel the program runs.
    pub mode: Mode,
    /// Why it doesn't run in the driver, in the kernel's words.
    pub not_native: Option<String>,
    /// Whether a program of ours, left by an earlier process, was replaced.
    pub adopted: Adopted,
}

/// What was there before attaching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// No program.
    Nothing,
    /// A program of ours, replaced in one step.
    Own,
}

impl Redirect {
    /// Loads the program through the kernel's verifier and makes its maps, all empty.
    pub fn load(settings: RedirectSettings) -> Result<Redirect, LoadError> {
        libbpf_rs::set_print(Some((PrintLevel::Warn, log_libbpf)));
        let mut object = MaybeUninit::uninit();
        let mut open = RedirectSkelBuilder::default()
            .open(&mut object)
            .map_err(LoadError::of)?;
        if let Some(constants) = open.maps.rodata_data.as_deref_mut() {
            constants.queues = settings.queues;
        }
        let ports = u32::from(settings.ports);
        open.maps
            .ports
            .set_max_entries(ports)
            .map_err(LoadError::of)?;
        open.maps
            .xsks
            .set_max_entries(ports * settings.queues)
            .map_err(LoadError::of)?;
        let loaded = open.load().map_err(LoadError::of)?;

        let program = loaded.progs.podway_redirect.as_fd();
        let own = loaded.progs.podway_own.as_fd();
        let maps = &loaded.maps;
        Ok(Redirect {
            program: program.try_clone_to_owned().map_err(LoadError::Io)?,
            own: own.try_clone_to_owned().map_err(LoadError::Io)?,
            maps: Maps {
                ports: handle(&maps.ports)?,
                local4: handle(&maps.local4)?,
                local6: handle(&maps.local6)?,
                direct4: handle(&maps.direct4)?,
                direct6: handle(&maps.direct6)?,
                addresses: handle(&maps.addresses)?,
                node_ports: handle(&maps.node_ports)?,
                own_ports: handle(&maps.own_ports)?,
                host_ports: handle(&maps.host_ports)?,
                settings: handle(&maps.settings)?,
                counters: handle(&maps.counters)?,
                portless: Arc::new(handle(&maps.portless)?),
            },
            sockets: Sockets {
                map: Arc::new(handle(&maps.xsks)?),
                queues: settings.queues,
            },
        })
    }

    /// Where workers register their sockets.
    pub fn sockets(&self) -> Sockets {
        self.sockets.clone()
    }

    /// Where it is said which answers without ports are ours.
    pub fn claims(&self) -> Claims {
        Claims {
            map: self.maps.portless.clone(),
        }
    }

    /// Makes the maps say what `plan` says, changing only what differs: first adds, then removes.
    pub fn reconcile(&self, plan: &Plan) -> Result<(), RedirectError> {
        plan.write(&self.maps)
    }

    /// Attaches the program to a device, native if the driver can and generic if not, and replaces one of our own.
    ///
    /// The device's map entry is there before the program, so a pod's port is closed from the start. The
    /// attachment outlives this process. Reconcile before the first uplink is attached.
    pub fn attach(
        &self,
        interface: &str,
        kind: PortKind,
        port: PortId,
    ) -> Result<Attachment, RedirectError> {
        let ifindex = interface_index(interface)?;
        let key = ifindex.to_ne_bytes();
        let before = self
            .maps
            .ports
            .lookup(&key, MapFlags::ANY)
            .map_err(RedirectError::map("ports"))?;
        self.maps
            .ports
            .update(&key, &entries::port(kind, port), MapFlags::ANY)
            .map_err(RedirectError::map("ports"))?;
        let attached = attach::attach(self.program.as_fd(), interface, ifindex, kind);
        if attached.is_err() {
            // The device keeps what it had; the entry goes back to what it was.
            let _ = match before {
                Some(value) => self.maps.ports.update(&key, &value, MapFlags::ANY),
                None => self.maps.ports.delete(&key),
            };
        }
        attached
    }

    /// Takes our program off a device; a device that is gone, or has no program of ours, is no error.
    pub fn detach(&self, interface: &str) -> Result<(), RedirectError> {
        let Ok(ifindex) = interface_index(interface) else {
            return self.forget_missing();
        };
        attach::detach(self.program.as_fd(), interface, ifindex)?;
        remove(&self.maps.ports, &ifindex.to_ne_bytes()).map_err(RedirectError::map("ports"))
    }

    /// Has the program for the node's own packets run where they leave by a device, `lo`; true if it did not run there.
    ///
    /// The attachment outlives this process, and replaces what an earlier one attached.
    pub fn attach_own(&self, interface: &str) -> Result<bool, RedirectError> {
        own::attach(self.own.as_fd(), interface, interface_index(interface)?)
    }

    /// Attaches the program to a device that has lost it, or has it elsewhere than where it ran; true if it had.
    pub fn restore(&self, interface: &str, mode: Mode) -> Result<bool, RedirectError> {
        let ifindex = interface_index(interface)?;
        attach::restore(self.program.as_fd(), interface, ifindex, mode)
    }

    /// Takes a program of ours off a device that is no port, whoever left it there; true if there was one.
    pub fn take_off(&self, interface: &str) -> Result<bool, RedirectError> {
        attach::take_off(interface, interface_index(interface)?)
    }

    /// How many packets met each end, by name, summed over all CPUs.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, RedirectError> {
        REASONS
            .iter()
            .map(|(reason, name)| {
                let per_cpu = self
                    .maps
                    .counters
                    .lookup_percpu(&reason.0.to_ne_bytes(), MapFlags::ANY)
                    .map_err(RedirectError::map("counters"))?
                    .unwrap_or_default();
                Ok((*name, per_cpu.iter().map(|value| count(value)).sum()))
            })
            .collect()
    }

    /// The program's id in the kernel, as `bpftool prog` shows it.
    pub fn program_id(&self) -> u32 {
        attach::program_id(self.program.as_raw_fd())
    }

    /// Removes the entries of devices that no longer exist.
    fn forget_missing(&self) -> Result<(), RedirectError> {
        let missing: Vec<_> = self
            .maps
            .ports
            .keys()
            .filter(|key| !interface_exists(key))
            .collect();
        missing
            .iter()
            .try_for_each(|key| remove(&self.maps.ports, key).map_err(RedirectError::map("ports")))
    }
}

impl AsFd for Redirect {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

impl Sockets {
    /// Makes `socket` the receiver of what `queue` of `port` brings.
    pub(crate) fn insert(&self, port: PortId, queue: u32, socket: RawFd) -> libbpf_rs::Result<()> {
        self.map
            .update(&self.key(port, queue), &socket.to_ne_bytes(), MapFlags::ANY)
    }

    /// Ends that; a port without a socket is no error.
    pub(crate) fn remove(&self, port: PortId, queue: u32) -> libbpf_rs::Result<()> {
        remove(&self.map, &self.key(port, queue))
    }

    /// True of a queue and port that have a place.
    pub(crate) fn has_place(&self, port: PortId, queue: u32) -> bool {
        queue < self.queues && u32::from(port.0) * self.queues + queue < self.map.max_entries()
    }

    fn key(&self, port: PortId, queue: u32) -> [u8; 4] {
        (u32::from(port.0) * self.queues + queue).to_ne_bytes()
    }
}

/// Deletes a map's entry; its absence is no error.
pub(crate) fn remove(map: &MapHandle, key: &[u8]) -> libbpf_rs::Result<()> {
    match map.delete(key) {
        Err(error) if error.kind() == libbpf_rs::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The index of a device of this thread's network namespace.
pub(crate) fn interface_index(interface: &str) -> Result<u32, RedirectError> {
    let name = CString::new(interface).unwrap_or_default();
    // SAFETY: `name` is a C string that lives through the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(RedirectError::NoDevice(interface.to_owned())),
        index => Ok(index),
    }
}

fn interface_exists(key: &[u8]) -> bool {
    let Ok(bytes) = key.try_into() else {
        return false;
    };
    let mut name = [0 as libc::c_char; libc::IF_NAMESIZE];
    // SAFETY: `name` has IF_NAMESIZE bytes, as if_indextoname asks.
    !unsafe { libc::if_indextoname(u32::from_ne_bytes(bytes), name.as_mut_ptr()) }.is_null()
}

fn count(value: &[u8]) -> u64 {
    value.try_into().map(u64::from_ne_bytes).unwrap_or(0)
}

fn handle(map: &libbpf_rs::Map<'_>) -> Result<MapHandle, LoadError> {
    MapHandle::try_from(map).map_err(LoadError::of)
}

fn log_libbpf(_: PrintLevel, message: String) {
    said::note(message.trim_end());
    tracing::debug!(message = message.trim_end(), "libbpf");
}
