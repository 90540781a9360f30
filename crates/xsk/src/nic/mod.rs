//! NICs as they come: what a device is like, what it needs so that each packet that it takes finds a worker, whole and with
//! its tags, and how it is made so.

mod binding;
mod ethtool;
mod queues;
mod wants;

use std::io;

use self::ethtool::Ethtool;
use crate::attach;
use crate::redirect::interface_index;

pub use self::binding::{Capabilities, SINGLE_BUFFER_MTU, Why, choose};
pub use self::ethtool::{Channels, Feature};
pub use self::queues::Spread;
pub use self::wants::{Offload, Place, Refused, Setting, Wants};

/// Drivers that hand the program to the devices below them, where packets come in under those devices' names.
const SPREADING: [&str; 2] = ["bonding", "team"];

/// A device as its driver says that it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nic {
    /// What it is called.
    pub interface: String,
    /// Its driver.
    pub driver: String,
    /// How it spreads what it receives.
    pub spread: Spread,
    /// What stands between the wire and the XDP program, as far as the driver knows it.
    pub offloads: Vec<(Offload, Feature)>,
    /// What its hash counts of datagrams over IPv4 and IPv6 (RXH_…); `None`: the driver doesn't say.
    pub hashed: Option<[u32; 2]>,
    /// What its driver can do for XDP.
    pub capabilities: Capabilities,
}

impl Nic {
    /// A device of the caller's network namespace, as it is now; what its driver doesn't say is left at its default.
    pub fn of(interface: &str) -> Nic {
        let nic = Nic {
            interface: interface.to_owned(),
            capabilities: capabilities(interface),
            ..Nic::default()
        };
        let Ok(device) = Ethtool::of(interface) else {
            return nic;
        };
        let channels = device.channels().ok();
        let queues = device.receive_queues().ok();
        Nic {
            driver: device.driver().unwrap_or_default(),
            spread: Spread {
                queues: queues.or(channels.map(Channels::receiving)),
                table: device.indirection().ok().filter(|table| !table.is_empty()),
                channels,
            },
            offloads: Offload::ALL
                .into_iter()
                .filter_map(|offload| Some((offload, device.feature(offload.feature()).ok()?)))
                .collect(),
            hashed: device.datagrams_hashed().ok(),
            ..nic
        }
    }

    /// True if what comes in by it is under the names of the devices that it is made of.
    pub fn is_made_of_others(&self) -> bool {
        spreads(&self.driver)
    }
}

impl Setting {
    /// Has the device be so.
    pub fn apply(&self, interface: &str) -> io::Result<()> {
        let device = Ethtool::of(interface)?;
        match self {
            Setting::Off(offload) => device.switch_off(offload.feature()),
            Setting::Table(table) => device.set_indirection(table),
            Setting::Queues(channels) => device.set_channels(*channels),
            Setting::HashPorts => device.hash_ports_of_datagrams(),
        }
    }
}

fn spreads(driver: &str) -> bool {
    SPREADING.contains(&driver)
}

/// Why a device must not have the program in its driver, which would take it.
pub(crate) fn not_in_driver(interface: &str) -> Option<String> {
    let driver = Ethtool::of(interface).and_then(|device| device.driver());
    let driver = driver.ok().filter(|it| spreads(it))?;
    Some(format!(
        "in the driver ({driver}), packets would come in by the devices that {interface} is made of"
    ))
}

/// What the driver of a device of the caller's network namespace can do for XDP; nothing, if the kernel doesn't say.
pub fn capabilities(interface: &str) -> Capabilities {
    let ifindex = interface_index(interface).ok();
    let capabilities = ifindex.and_then(|ifindex| attach::capabilities(ifindex).ok());
    capabilities.unwrap_or_default()
}
