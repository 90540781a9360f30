//! How ports are bound, and what NICs are made.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use podway_tables::PortKind;
use podway_xsk::{Attachment, Bind, Bound, Mode, Nic, Setting, Why, capabilities, choose};

use super::AgentError;
use super::ports::mode_name;
use crate::aim::Prepared;

/// How a port is bound, and why not better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    /// Where in the kernel the program runs.
    pub(super) mode: Mode,
    /// How the sockets are bound.
    pub(super) bound: Bound,
    /// Why not the next better way; `None` if there is none, or nobody looked for one.
    pub(super) why: Option<Why>,
}

impl Binding {
    /// How the sockets of a device are to be bound whose program was attached so.
    pub(super) fn of(kind: PortKind, interface: &str, mtu: u32, attached: Attachment) -> Binding {
        let mode = attached.mode;
        let (bound, why) = match kind {
            PortKind::Host | PortKind::Pod(_) => (Bound::Copy, None),
            PortKind::Uplink => choose(mode, capabilities(interface), mtu),
        };
        let why = attached.not_native.map(Why::Generic).or(why);
        Binding { mode, bound, why }
    }

    /// What a socket of a port is asked for.
    pub(super) fn bind(&self, kind: PortKind) -> Bind {
        match kind {
            PortKind::Host | PortKind::Pod(_) => Bind::Copy,
            PortKind::Uplink => Bind::Nic(self.bound),
        }
    }

    /// As users see it.
    pub(super) fn name(&self) -> String {
        format!("{} {}", mode_name(self.mode), self.bound.name())
    }
}

/// What puts NICs back that were made otherwise.
#[derive(Clone, Debug)]
pub(super) struct Undo {
    /// Where the commands are kept.
    path: PathBuf,
}

impl Undo {
    /// Keeps it beside the admin socket.
    pub(super) fn beside(socket: &Path) -> Undo {
        Undo {
            path: socket.with_extension("nic.sh"),
        }
    }

    /// Has a NIC be otherwise, setting by setting, and says what came of it. What it is too busy for is an error.
    pub(super) fn prepare(
        &self,
        interface: &str,
        asked: Vec<Setting>,
    ) -> Result<Prepared, AgentError> {
        let before = Nic::of(interface);
        let mut refused = Vec::new();
        for setting in &asked {
            let now = setting.describe();
            let undo = before.undo(setting);
            match setting.apply(interface) {
                Ok(()) => {
                    tracing::info!(interface, now, undo, "changed a NIC");
                    if let Err(error) = keep(&self.path, &undo) {
                        let path = self.path.display();
                        tracing::warn!(%path, %error, "what puts a NIC back is not kept");
                    }
                }
                Err(error) if is_passing(&error) => {
                    let interface = interface.to_owned();
                    return Err(AgentError::NicBusy { interface, error });
                }
                Err(error) => {
                    tracing::info!(interface, wanted = now, %error, "the driver refuses a change of a NIC");
                    refused.push((setting.clone(), error.to_string()));
                }
            }
        }
        Ok(Prepared {
            asked,
            refused,
            nic: Nic::of(interface),
        })
    }
}

/// True if the same may succeed in a while.
fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let said = Errno::from_io_error(error);
    matches!(said, Some(Errno::AGAIN | Errno::INTR | Errno::NOMEM))
}

/// Adds a command to the file that a user runs once podway is gone, the first one of each kind only: later ones would put
/// back what we made.
fn keep(path: &Path, undo: &str) -> io::Result<()> {
    let known = match std::fs::read_to_string(path) {
        Ok(known) => known,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    if known.lines().any(|line| kind_of(line) == kind_of(undo)) {
        return Ok(());
    }
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{undo}")
}

/// What of which device a command is about: all but the value.
fn kind_of(command: &str) -> Vec<&str> {
    let mut words: Vec<&str> = command.split(' ').skip(1).take(3).collect();
    // A table's and queues' third word is the value already.
    if let ["-X" | "-L", ..] = words[..] {
        words.truncate(2);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_nic_was_like_first_is_kept_and_nothing_later() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("podway.nic.sh");
        let first = [
            "ethtool -K eth0 rxvlan on",
            "ethtool -X eth0 default",
            "ethtool -L eth0 combined 4",
        ];
        let later = [
            "ethtool -L eth0 combined 2",
            "ethtool -X eth0 weight 1 2",
            "ethtool -K eth0 rxvlan on",
        ];
        for undo in first
            .into_iter()
            .chain(later)
            .chain(["ethtool -K eth0 lro on"])
        {
            keep(&path, undo).expect("it is kept");
        }
        let kept = std::fs::read_to_string(&path).expect("it is there");
        let expected: Vec<&str> = first
            .into_iter()
            .chain(["ethtool -K eth0 lro on"])
            .collect();
        assert_eq!(kept.lines().collect::<Vec<_>>(), expected);
    }
}
