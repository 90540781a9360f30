//! How ports are bound, and what NICs are prepared for.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use podway_tables::PortKind;
use podway_xsk::{
    Attachment, Bind, Bound, Changed, Mode, Prepared, Why, capabilities, choose, prepare,
};

use super::ports::mode_name;

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
            PortKind::Uplink => choose(mode, capabilities(interface).unwrap_or_default(), mtu),
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

/// The uplink's NIC: made fit for the workers, and what it was like before.
#[derive(Debug)]
pub(super) struct Nic {
    /// Where the commands are kept that put back what was before.
    undo: PathBuf,
}

impl Nic {
    /// Keeps what puts NICs back beside the admin socket.
    pub(super) fn new(socket: &Path) -> Nic {
        Nic {
            undo: socket.with_extension("nic.sh"),
        }
    }

    /// Has a NIC spread packets over the workers' queues, as a whole and with their tags.
    pub(super) fn prepare(&self, interface: &str, workers: usize) -> Prepared {
        let prepared = prepare(interface, workers as u32);
        for changed in &prepared.changed {
            tracing::info!(interface, %changed, "changed a NIC");
        }
        if let Err(error) = keep_undo(&self.undo, &prepared.changed) {
            let path = self.undo.display();
            tracing::warn!(%path, %error, "what puts a NIC back is not kept");
        }
        prepared
    }
}

/// Adds commands to the file that a user runs once podway is gone, the first one of each kind only: later ones would put
/// back what we made.
fn keep_undo(path: &Path, changed: &[Changed]) -> io::Result<()> {
    let mut known = std::fs::read_to_string(path).unwrap_or_default();
    for Changed { undo, .. } in changed {
        if known.lines().any(|line| kind_of(line) == kind_of(undo)) {
            continue;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        writeln!(file, "{undo}")?;
        known.push_str(undo);
        known.push('\n');
    }
    Ok(())
}

/// What of which device a command is about: all but the value.
fn kind_of(command: &str) -> Vec<&str> {
    command.split(' ').skip(1).take(3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_nic_was_like_first_is_kept_and_nothing_later() {
        let name = format!("podway-test-undo-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let kept = |commands: &[&str]| {
            let changed: Vec<_> = commands
                .iter()
                .map(|undo| Changed {
                    now: String::new(),
                    undo: (*undo).to_owned(),
                })
                .collect();
            keep_undo(&path, &changed).expect("written");
            std::fs::read_to_string(&path).expect("a file")
        };
        let first = "ethtool -L eth0 combined 8\nethtool -K eth0 rxvlan on\n";
        assert_eq!(
            kept(&["ethtool -L eth0 combined 8", "ethtool -K eth0 rxvlan on"]),
            first
        );
        assert_eq!(kept(&["ethtool -L eth0 combined 4"]), first);
        let other = format!("{first}ethtool -L eth1 combined 2\n");
        assert_eq!(kept(&["ethtool -L eth1 combined 2"]), other);
        std::fs::remove_file(&path).expect("removed");
    }
}
