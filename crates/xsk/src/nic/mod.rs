//! NICs as they come: what one needs so that each packet that it takes finds a worker, whole and with its tags.

mod binding;
mod ethtool;
mod queues;

use std::fmt;
use std::io;

use self::ethtool::{Ethtool, Feature};
use crate::attach;
use crate::error::RedirectError;
use crate::redirect::interface_index;

pub use self::binding::{Capabilities, SINGLE_BUFFER_MTU, Why, choose};
use self::ethtool::Channels;
use self::queues::{Spread, Steering, steer};

/// What stands between the wire and the XDP program, with what it is called by `ethtool -K`: packets that were joined, and
/// tags that are gone before the program sees the frame.
const UNWANTED: [(&str, &str); 3] = [
    ("rx-lro", "lro"),
    ("rx-gro-hw", "rx-gro-hw"),
    ("rx-vlan-hw-parse", "rxvlan"),
];
/// Drivers without a wire: what they say of the above changes nothing of what they receive.
const VIRTUAL: [&str; 8] = [
    "veth",
    "802.1Q VLAN Support",
    "bonding",
    "team",
    "bridge",
    "macvlan",
    "vrf",
    "tun",
];

/// Drivers that hand the program to the devices below them, where packets come in under those devices' names.
const SPREADING: [&str; 2] = ["bonding", "team"];

/// Why a device must not have the program in its driver, which would take it.
pub(crate) fn not_in_driver(interface: &str) -> Option<String> {
    let driver = Ethtool::of(interface).and_then(|device| device.driver());
    let driver = driver.ok().filter(|it| SPREADING.contains(&it.as_str()))?;
    Some(format!(
        "in the driver ({driver}), packets would come in by the devices that {interface} is made of"
    ))
}

/// Something of a device that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// What it is like now.
    pub now: String,
    /// The command that puts back what was before.
    pub undo: String,
}

/// What a look at a device came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// What was changed.
    pub changed: Vec<Changed>,
    /// What is not as it should be, and what to do about it.
    pub problems: Vec<String>,
    /// Why packets come in by queues that no worker has, or workers have none, and what to do about it.
    pub unowned: Option<String>,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (`{}` puts it back)", self.now, self.undo)
    }
}

/// What the driver of a device of the caller's network namespace can do for XDP.
pub fn capabilities(interface: &str) -> Result<Capabilities, RedirectError> {
    let ifindex = interface_index(interface)?;
    attach::capabilities(ifindex).map_err(|error| RedirectError::attach(interface, error))
}

/// Makes a device fit for `workers` workers, who own its first queues, changing only what differs.
pub fn prepare(interface: &str, workers: u32) -> Prepared {
    let mut prepared = Prepared::default();
    let Ok(device) = Ethtool::of(interface) else {
        return prepared;
    };
    let driver = device.driver().unwrap_or_default();
    let has_wire = !VIRTUAL.contains(&driver.as_str());
    if has_wire {
        switch_off_unwanted(&device, interface, &mut prepared);
    }
    own_queues(&device, interface, workers, &mut prepared);
    if workers > 1 && has_wire {
        spread_datagrams(&device, interface, &mut prepared);
    }
    prepared
}

fn switch_off_unwanted(device: &Ethtool, interface: &str, prepared: &mut Prepared) {
    for (feature, short) in UNWANTED {
        let is = |wanted: Feature| device.feature(feature).is_ok_and(|now| now == wanted);
        if is(Feature::On) && device.switch_off(feature).is_ok() && is(Feature::Off) {
            prepared.changed.push(Changed {
                now: format!("{feature} of {interface} is off"),
                undo: format!("ethtool -K {interface} {short} on"),
            });
        }
        if is(Feature::On) || is(Feature::Fixed) {
            prepared.problems.push(format!(
                "{interface} has {feature} on, and its driver keeps it: {}",
                consequence(feature)
            ));
        }
    }
}

/// What comes of a feature that stays on.
fn consequence(feature: &str) -> &'static str {
    match feature {
        "rx-vlan-hw-parse" => {
            "tagged frames are taken as untagged ones: have the switch send none to this port, or use another NIC as `uplink`"
        }
        _ => "packets may be joined before they are seen: switch it off in the NIC's own settings",
    }
}

/// How a device spreads what it receives.
fn spread(device: &Ethtool) -> Spread {
    let channels = device.channels().ok();
    let queues = device.receive_queues().ok();
    Spread {
        queues: queues.or(channels.map(Channels::receiving)),
        table: device.indirection().ok().filter(|table| !table.is_empty()),
        channels,
    }
}

fn own_queues(device: &Ethtool, interface: &str, workers: u32, prepared: &mut Prepared) {
    let mut seen = spread(device);
    loop {
        let refused = match steer(&seen, workers) {
            Steering::Owned => return,
            Steering::Table(table) => match device.set_indirection(&table) {
                Ok(()) => {
                    prepared.changed.push(Changed {
                        now: format!("RSS of {interface} chooses among {workers} queues"),
                        undo: format!("ethtool -X {interface} default"),
                    });
                    return;
                }
                // There is another way.
                Err(error) => {
                    seen.table = None;
                    error
                }
            },
            Steering::Channels(channels) => match device.set_channels(channels) {
                Ok(()) => {
                    let before = seen.channels.unwrap_or_default();
                    prepared.changed.push(Changed {
                        now: format!("{interface} has {workers} queues"),
                        undo: undo_of_channels(interface, before),
                    });
                    return;
                }
                Err(error) => {
                    seen.channels = None;
                    error
                }
            },
            Steering::TooMany(queues) => {
                prepared.unowned = Some(format!(
                    "packets come in by {queues} queues of {interface}, and {workers} have a worker: set `workers` to {queues}, or start the agent after `ethtool -L {interface} combined {workers}`"
                ));
                return;
            }
            Steering::TooFew(queues) => {
                prepared.unowned = Some(format!(
                    "{interface} has {queues} queues for {workers} workers: set `workers` to {queues}, or use a device with more"
                ));
                return;
            }
        };
        tracing::info!(interface, error = %refused, "the driver keeps its queues so");
    }
}

fn undo_of_channels(interface: &str, before: Channels) -> String {
    match before.max_combined {
        0 => format!("ethtool -L {interface} rx {}", before.receive),
        _ => format!("ethtool -L {interface} combined {}", before.combined),
    }
}

/// The tunnel's packets between two nodes differ in their source ports only.
fn spread_datagrams(device: &Ethtool, interface: &str, prepared: &mut Prepared) {
    match device.hash_ports_of_datagrams() {
        Ok(ethtool::Hashed::Already) => {}
        Ok(ethtool::Hashed::Now) => prepared.changed.push(Changed {
            now: format!("RSS of {interface} hashes the ports of UDP, too"),
            undo: format!(
                "ethtool -N {interface} rx-flow-hash udp4 sd && ethtool -N {interface} rx-flow-hash udp6 sd"
            ),
        }),
        Err(error) => log_unspread(interface, &error),
    }
}

fn log_unspread(interface: &str, error: &io::Error) {
    tracing::debug!(interface, %error, "the driver's hash of UDP stays as it is");
}
