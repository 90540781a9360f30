//! Files that are there as a whole or not at all.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What a written file survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The death of processes; the machine's may leave it as it was, or empty.
    Process,
    /// The machine's, too.
    Machine,
}

/// Writes a file so that whoever looks sees it whole or not at all, whoever dies when.
pub fn write_whole(
    temporary: &Path,
    path: &Path,
    bytes: &[u8],
    mode: u32,
    durability: Durability,
) -> io::Result<()> {
    let mut file = File::create(temporary)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    if durability == Durability::Machine {
        file.sync_all()?;
    }
    fs::rename(temporary, path)?;
    match path.parent().filter(|_| durability == Durability::Machine) {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
