//! What others changed of ours on the host, and that it is as it was again (R4).

/// Something of ours on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ours {
    /// A route out of the host's end of the pair.
    Route,
    /// A neighbour that stays as it is, or that the kernel is to keep resolved.
    Neighbour,
    /// An address of the host's end.
    Address,
    /// A setting under /proc/sys.
    Setting,
    /// An offload of the host's end that has to be off.
    Offload,
    /// A device: its name, its MTU, its Ethernet address, its alias, and that it is up.
    Device,
    /// A program that carries packets to us.
    Program,
    /// Ports that the kernel is to pick for nobody.
    ReservedPorts,
}

impl Ours {
    /// As it is called in the status.
    pub fn name(self) -> &'static str {
        match self {
            Ours::Route => "route",
            Ours::Neighbour => "neighbour",
            Ours::Address => "address",
            Ours::Setting => "setting",
            Ours::Offload => "offload",
            Ours::Device => "device",
            Ours::Program => "program",
            Ours::ReservedPorts => "reserved-ports",
        }
    }
}

/// What was mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mend {
    /// What it is.
    pub ours: Ours,
    /// Which one, and what was wrong with it.
    pub detail: String,
}

impl Mend {
    /// That this was mended.
    pub fn new(ours: Ours, detail: impl Into<String>) -> Mend {
        Mend {
            ours,
            detail: detail.into(),
        }
    }

    /// That some of many were, of which the first is told; `None` if none was.
    pub(super) fn of_many<T: std::fmt::Display>(ours: Ours, all: &[T]) -> Option<Mend> {
        let (first, others) = all.split_first()?;
        Some(Mend::new(
            ours,
            match others.len() {
                0 => first.to_string(),
                others => format!("{first} and {others} others"),
            },
        ))
    }
}
