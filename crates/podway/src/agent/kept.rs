//! Where flows are kept so that a restart ends none (F9): a file beside the agent's socket, whose pages outlive it.

use std::fs::{File, OpenOptions};
use std::io::{Error, Result};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use podway_state::{FlowTable, Resumed};
use podway_xsk::{map_words, use_huge_pages};
use rustix::fs::{FallocateFlags, OFlags, fallocate, fstatfs};

use crate::config::Config;

/// A tmpfs, as statfs(2) names it.
const TMPFS: i64 = 0x0102_1994;

/// The table with the flows of the agent that ran here before; if they can't be kept, one that ends with this process.
pub(super) fn flow_table(config: &Config, seed: u64) -> FlowTable {
    let table = resumed(config, seed);
    for memory in table.memory() {
        if let Err(error) = use_huge_pages(memory) {
            tracing::debug!(%error, bytes = memory.len(), "flows stay in small pages: looking them up is slower");
        }
    }
    table
}

fn resumed(config: &Config, seed: u64) -> FlowTable {
    let size = (config.flows, config.workers);
    let path = config.socket.with_extension("flows");
    let kept = keep(&path, FlowTable::words(size.0, size.1));
    let (memory, clock) = match kept.and_then(|memory| Ok((memory, boot()?))) {
        Ok(kept) => kept,
        Err(error) => {
            let path = path.display();
            tracing::warn!(%path, %error, "flows can't be kept there and won't survive a restart: give the socket's folder room");
            return FlowTable::new(size.0, size.1, seed);
        }
    };
    let (table, resumed) = FlowTable::resume(memory, size, seed, clock);
    match resumed {
        Resumed::Flows(flows) => tracing::info!(flows, "flows of the agent before go on"),
        Resumed::Empty(why) => tracing::info!(%why, "no flow table to go on with: starting empty"),
    }
    table
}

fn keep(path: &Path, words: usize) -> Result<&'static [std::sync::atomic::AtomicU64]> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != 0 {
        return Err(Error::other("it is not a file of root's"));
    }
    if fstatfs(&file)?.f_type as i64 != TMPFS {
        let path = path.display();
        tracing::warn!(%path, "not on a tmpfs: the kernel writes flows to a disk now and then; put the socket's folder on one");
    }
    make_room(&file, found.len(), (words * 8) as u64)?;
    map_words(&file, words)
}

/// Gives the file a length that memory is set aside for: none must be missing when a packet comes.
fn make_room(file: &File, found: u64, wanted: u64) -> Result<()> {
    if found != wanted {
        file.set_len(0)?;
    }
    let made = fallocate(file, FallocateFlags::empty(), 0, wanted);
    made.map_err(|error| match file.set_len(0) {
        Ok(()) => error.into(),
        Err(error) => error,
    })
}

/// Which start of the machine this is: flows' times count from there.
fn boot() -> Result<[u64; 2]> {
    let id = podway_host::boot_number()?;
    Ok([(id >> 64) as u64, id as u64])
}
