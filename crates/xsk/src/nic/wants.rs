//! What a device needs so that each packet that it takes finds a worker, whole and with its tags: what is to be set, what
//! its driver refused, and what puts it back.

use super::Nic;
use super::ethtool::{Channels, Feature};
use super::queues::{Steering, steer};

/// Drivers without a wire: what they say of offloads and hashes changes nothing of what they receive.
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
/// Both addresses and both ports (RXH_IP_SRC and so on).
pub(super) const ADDRESSES_AND_PORTS: u32 = 0xf0;
/// `ethtool -N`'s letters for the bits of a hash, from RXH_L2DA on.
const LETTERS: [(u32, char); 8] = [
    (1 << 1, 'm'),
    (1 << 2, 'v'),
    (1 << 3, 't'),
    (1 << 4, 's'),
    (1 << 5, 'd'),
    (1 << 6, 'f'),
    (1 << 7, 'n'),
    (1 << 31, 'r'),
];

/// What stands between the wire and the XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Packets are joined by the driver.
    Lro,
    /// Packets are joined by the device.
    HardwareGro,
    /// Tags are gone before the program sees the frame.
    TakesTagsOff,
}

/// Something of a device that is to be otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// An offload is off.
    Off(Offload),
    /// Which queue each value of the hash leads to.
    Table(Vec<u32>),
    /// The queues in use.
    Queues(Channels),
    /// The hash counts the ports of datagrams, too: a tunnel's differ in nothing else.
    HashPorts,
}

/// A setting that the driver refused, and why.
pub type Refused = (Setting, String);

/// Where a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It has the program.
    Uplink,
    /// The device that has the program is made of it: the kernel's stack is between the two.
    Below,
}

/// What a device needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// What is to be set, in this order.
    pub settings: Vec<Setting>,
    /// What is not as it should be and stays so, and what to do about it.
    pub problems: Vec<String>,
    /// Why packets come in by queues that no worker has, or workers have none, and what to do about it.
    pub unowned: Option<String>,
}

impl Offload {
    /// All of them.
    pub(super) const ALL: [Offload; 3] =
        [Offload::Lro, Offload::HardwareGro, Offload::TakesTagsOff];

    /// What the kernel calls it.
    pub(super) fn feature(self) -> &'static str {
        match self {
            Offload::Lro => "rx-lro",
            Offload::HardwareGro => "rx-gro-hw",
            Offload::TakesTagsOff => "rx-vlan-hw-parse",
        }
    }

    /// What `ethtool -K` calls it.
    fn short(self) -> &'static str {
        match self {
            Offload::Lro => "lro",
            Offload::HardwareGro => "rx-gro-hw",
            Offload::TakesTagsOff => "rxvlan",
        }
    }

    /// What comes of it while it is on.
    fn consequence(self) -> &'static str {
        match self {
            Offload::Lro | Offload::HardwareGro => {
                "packets may be joined before they are seen: switch it off in the NIC's own settings"
            }
            Offload::TakesTagsOff => {
                "tagged frames are taken as untagged ones: have the switch send none to this port, or use another NIC as `uplink`"
            }
        }
    }
}

impl Nic {
    /// What it needs for `workers` workers, who own its first queues, where its driver has refused some settings.
    pub fn wants(&self, place: Place, workers: u32, refused: &[Refused]) -> Wants {
        let mut wants = Wants::default();
        let has_wire = !VIRTUAL.contains(&self.driver.as_str());
        if has_wire && place == Place::Uplink {
            self.want_offloads(refused, &mut wants);
        }
        self.want_queues(place, workers, refused, &mut wants);
        let hashes = self.hashed.is_some_and(|it| it != [ADDRESSES_AND_PORTS; 2]);
        let is_refused = refused.iter().any(|(it, _)| *it == Setting::HashPorts);
        if has_wire && workers > 1 && hashes && !is_refused {
            wants.settings.push(Setting::HashPorts);
        }
        wants
    }

    fn want_offloads(&self, refused: &[Refused], wants: &mut Wants) {
        for &(offload, feature) in &self.offloads {
            let setting = Setting::Off(offload);
            let is_refused = refused.iter().any(|(it, _)| *it == setting);
            let stays = match feature {
                Feature::Unknown | Feature::Off => continue,
                Feature::On => is_refused,
                Feature::Fixed => true,
            };
            match stays {
                false => wants.settings.push(setting),
                true => wants.problems.push(format!(
                    "{} has {} on, and its driver keeps it: {}",
                    self.interface,
                    offload.feature(),
                    offload.consequence()
                )),
            }
        }
    }

    fn want_queues(&self, place: Place, workers: u32, refused: &[Refused], wants: &mut Wants) {
        let mut spread = self.spread.clone();
        for (setting, _) in refused {
            match setting {
                Setting::Table(_) => spread.table = None,
                Setting::Queues(_) => spread.channels = None,
                Setting::Off(_) | Setting::HashPorts => {}
            }
        }
        let interface = &self.interface;
        match (steer(&spread, workers), place) {
            (Steering::Owned, _) | (Steering::TooFew(_), Place::Below) => {}
            (Steering::Table(table), _) => wants.settings.push(Setting::Table(table)),
            (Steering::Channels(channels), _) => wants.settings.push(Setting::Queues(channels)),
            (Steering::TooMany(queues), _) => {
                let said = said_of_queues(refused);
                wants.unowned = Some(format!(
                    "packets come in by {queues} queues of {interface}, and {workers} have a worker{said}: set `workers` to {queues}, or start the agent after `ip link set dev {interface} xdp off` and `ethtool -L {interface} combined {workers}`"
                ));
            }
            (Steering::TooFew(queues), Place::Uplink) => {
                let said = said_of_queues(refused);
                wants.unowned = Some(format!(
                    "{interface} has {queues} queues for {workers} workers{said}: set `workers` to {queues}, or use a device with more"
                ));
            }
        }
    }

    /// The command that puts back what a setting changes.
    pub fn undo(&self, setting: &Setting) -> String {
        let interface = &self.interface;
        match setting {
            Setting::Off(offload) => format!("ethtool -K {interface} {} on", offload.short()),
            Setting::Table(_) => {
                let table = self.spread.table.as_deref().unwrap_or_default();
                format!(
                    "ethtool -X {interface} {}",
                    spread_of(table, self.spread.queues)
                )
            }
            Setting::Queues(_) => {
                let before = self.spread.channels.unwrap_or_default();
                match before.max_combined {
                    0 => format!("ethtool -L {interface} rx {}", before.receive),
                    _ => format!("ethtool -L {interface} combined {}", before.combined),
                }
            }
            Setting::HashPorts => {
                let [four, six] = self.hashed.unwrap_or_default().map(letters);
                format!(
                    "ethtool -N {interface} rx-flow-hash udp4 {four}; ethtool -N {interface} rx-flow-hash udp6 {six}"
                )
            }
        }
    }
}

impl Setting {
    /// What becomes of a device by it.
    pub fn describe(&self) -> String {
        match self {
            Setting::Off(offload) => format!("{} is off", offload.feature()),
            Setting::Table(table) => {
                let queues = table.iter().max().map_or(0, |most| most + 1);
                format!("RSS chooses among {queues} queues")
            }
            Setting::Queues(channels) => {
                format!("packets come in by {} queues", channels.receiving())
            }
            Setting::HashPorts => "RSS hashes the ports of UDP, too".to_owned(),
        }
    }
}

/// What the driver said of its queues.
fn said_of_queues(refused: &[Refused]) -> String {
    let mut said = refused.iter().filter_map(|(setting, why)| match setting {
        Setting::Table(_) | Setting::Queues(_) => Some(why),
        Setting::Off(_) | Setting::HashPorts => None,
    });
    said.next_back().map_or_else(String::new, |why| {
        format!(" (the driver refused another number: {why})")
    })
}

/// What `ethtool -X` calls a table: the driver's own, or how much of it each queue has.
fn spread_of(table: &[u32], queues: Option<u32>) -> String {
    let queues = queues.unwrap_or(1).max(1);
    let is_default = (0..).zip(table).all(|(at, queue)| *queue == at % queues);
    if is_default {
        return "default".to_owned();
    }
    let last = table.iter().max().copied().unwrap_or_default();
    let weights =
        (0..=last).map(|queue| table.iter().filter(|it| **it == queue).count().to_string());
    format!("weight {}", weights.collect::<Vec<_>>().join(" "))
}

/// What `ethtool -N` calls a hash.
fn letters(bits: u32) -> String {
    let set = LETTERS.iter().filter(|(bit, _)| bits & bit != 0);
    match set.map(|(_, letter)| letter).collect::<String>() {
        none if none.is_empty() => "sd".to_owned(),
        letters => letters,
    }
}

#[cfg(test)]
mod tests {
    use super::super::queues::Spread;
    use super::super::queues::tests::combined;
    use super::*;

    /// Four queues, a table, tags that are taken off, and a hash of addresses.
    fn nic() -> Nic {
        Nic {
            interface: "eth0".to_owned(),
            driver: "igb".to_owned(),
            spread: Spread {
                queues: Some(4),
                table: Some(vec![0, 1, 2, 3]),
                channels: Some(combined(4, 4)),
            },
            offloads: vec![
                (Offload::Lro, Feature::Off),
                (Offload::HardwareGro, Feature::Unknown),
                (Offload::TakesTagsOff, Feature::On),
            ],
            hashed: Some([0x30, 0x30]),
            capabilities: Default::default(),
        }
    }

    fn refused(settings: &[Setting]) -> Vec<Refused> {
        let why = "Device or resource busy";
        settings
            .iter()
            .map(|it| (it.clone(), why.to_owned()))
            .collect()
    }

    #[test]
    fn nic1_what_a_driver_refuses_is_tried_another_way_and_named_when_there_is_none() {
        let nic = nic();
        let wants = |refused: &[Refused]| nic.wants(Place::Uplink, 1, refused);
        let table = Setting::Table(vec![0; 4]);
        assert!(wants(&[]).settings.contains(&table));
        let queues = Setting::Queues(combined(1, 4));
        let with_one = wants(&refused(std::slice::from_ref(&table)));
        assert!(with_one.settings.contains(&queues), "{with_one:?}");
        assert_eq!(with_one.unowned, None);
        let with_both = wants(&refused(&[table, queues]));
        let said = with_both.unowned.expect("it is named");
        assert!(
            said.starts_with("packets come in by 4 queues of eth0, and 1 have a worker (the driver refused another number: Device or resource busy): set `workers` to 4"),
            "{said}"
        );
    }

    #[test]
    fn nic5_tags_stay_on_frames_or_it_is_said_what_comes_of_it() {
        let off = Setting::Off(Offload::TakesTagsOff);
        let mut nic = nic();
        let wants = nic.wants(Place::Uplink, 4, &[]);
        assert_eq!(wants.settings[0], off);
        assert_eq!(nic.undo(&off), "ethtool -K eth0 rxvlan on");
        let kept = nic.wants(Place::Uplink, 4, &refused(&[off]));
        assert!(kept.problems[0].contains("tagged frames are taken as untagged ones"));
        nic.offloads = vec![(Offload::TakesTagsOff, Feature::Fixed)];
        let fixed = nic.wants(Place::Uplink, 4, &[]);
        assert_eq!(fixed.problems, kept.problems);
        // The stack between a device and what is made of it puts tags back.
        assert_eq!(nic.wants(Place::Below, 4, &[]).problems, [""; 0]);
    }

    #[test]
    fn tunnels_are_spread_where_there_is_a_choice_of_workers() {
        let hashes = |workers, refused: &[Refused]| {
            let wants = nic().wants(Place::Uplink, workers, refused);
            wants.settings.contains(&Setting::HashPorts)
        };
        assert!(!hashes(1, &[]));
        assert!(hashes(2, &[]));
        assert!(!hashes(2, &refused(&[Setting::HashPorts])));
    }

    #[test]
    fn what_a_bond_is_made_of_may_have_fewer_queues_than_workers_but_none_without_one() {
        let wants = nic().wants(Place::Below, 1, &[]);
        assert_eq!(wants.settings, [Setting::Table(vec![0; 4])]);
        let mut single = nic();
        single.spread = Spread {
            queues: Some(1),
            ..Spread::default()
        };
        assert_eq!(single.wants(Place::Below, 2, &[]).unowned, None);
        assert!(single.wants(Place::Uplink, 2, &[]).unowned.is_some());
    }

    #[test]
    fn what_was_before_is_put_back() {
        let mut nic = nic();
        let table = Setting::Table(vec![0; 4]);
        assert_eq!(nic.undo(&table), "ethtool -X eth0 default");
        nic.spread.table = Some(vec![0, 0, 0, 2]);
        assert_eq!(nic.undo(&table), "ethtool -X eth0 weight 3 0 1");
        let queues = Setting::Queues(combined(1, 4));
        assert_eq!(nic.undo(&queues), "ethtool -L eth0 combined 4");
        assert_eq!(
            nic.undo(&Setting::HashPorts),
            "ethtool -N eth0 rx-flow-hash udp4 sd; ethtool -N eth0 rx-flow-hash udp6 sd"
        );
    }
}
