//! Who forwards, and what is needed for that.

use std::fmt;

use clap::ValueEnum;
use podway_wire::{Family, vxlan};
use serde::{Deserialize, Serialize};

use super::case::{Case, Way};

/// Flows at most that Linux's table takes, whose size can't be set for a namespace.
const LINUX_FLOWS: u32 = 200_000;

/// Who forwards.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum System {
    /// AF_XDP in copy mode, nothing done to packets: the limit of any AF_XDP dataplane here.
    Bare,
    /// podway: service, policies of a hundred rules, and VXLAN.
    Podway,
    /// The same while 10 000 endpoints of other services change each second.
    PodwayChurn,
    /// XDP redirect through a devmap: the kernel's ceiling, no userspace.
    Devmap,
    /// Linux: kube-proxy's nftables DNAT and a vxlan device.
    Linux,
    /// Linux: kube-proxy's iptables DNAT and a vxlan device.
    LinuxIptables,
    /// Open vSwitch with AF_XDP ports.
    Ovs,
    /// VPP with AF_XDP interfaces.
    Vpp,
}

impl System {
    /// All of them, in the order of reports.
    pub(crate) const ALL: &'static [System] = &[
        System::Bare,
        System::Podway,
        System::PodwayChurn,
        System::Devmap,
        System::Linux,
        System::LinuxIptables,
        System::Ovs,
        System::Vpp,
    ];

    /// True if packets are translated and put into the tunnel, or taken out of it.
    pub(crate) fn translates(self) -> bool {
        match self {
            System::Bare | System::Devmap => false,
            System::Podway
            | System::PodwayChurn
            | System::Linux
            | System::LinuxIptables
            | System::Ovs
            | System::Vpp => true,
        }
    }

    /// How long a packet is when it arrives, if all that was to be done to it was done.
    pub(crate) fn length_at_end(self, case: &Case) -> usize {
        let tunnel = vxlan::overhead(Family::V4);
        match (self.translates(), case.way) {
            (true, Way::Out | Way::Fresh) | (false, Way::Back) => case.length + tunnel,
            (false, Way::Out | Way::Fresh) | (true, Way::Back) => case.length,
        }
    }

    /// Why it can't be measured here, if so.
    pub(crate) fn missing(self, case: &Case) -> Option<String> {
        match self {
            System::Bare | System::Podway => None,
            System::PodwayChurn => match (case.way, case.workers) {
                (Way::Out, 1) => None,
                _ => Some("churn is measured on the way out, with one worker".to_owned()),
            },
            System::Devmap => match case.workers {
                1 => None,
                _ => Some("its sink counts for one source".to_owned()),
            },
            System::Linux | System::LinuxIptables
                if case.way != Way::Fresh && case.flows > LINUX_FLOWS =>
            {
                Some(format!(
                    "more than {LINUX_FLOWS} flows need nf_conntrack_max, which is the whole machine's"
                ))
            }
            System::Linux | System::LinuxIptables | System::Ovs | System::Vpp => {
                self.not_installed()
            }
        }
    }

    /// Which of its programs is not there, and how to get it.
    pub(crate) fn not_installed(self) -> Option<String> {
        match self {
            System::Bare | System::Podway | System::PodwayChurn | System::Devmap => None,
            System::Linux => lacks("ethtool", "ethtool"),
            System::LinuxIptables => {
                lacks("ethtool", "ethtool").or_else(|| lacks("iptables-nft-restore", "iptables"))
            }
            System::Ovs => lacks("ovs-vswitchd", "openvswitch-switch-dpdk"),
            System::Vpp => Some(
                "neither Debian nor Ubuntu has a package of it, and it is not built here"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().expect("none is hidden").get_name())
    }
}

/// Says how to get a program that is not there.
pub(crate) fn lacks(program: &str, package: &str) -> Option<String> {
    match crate::process::finds(program) {
        true => None,
        false => Some(format!(
            "no `{program}` here: apt-get install {package}, or scripts/setup --bench"
        )),
    }
}
