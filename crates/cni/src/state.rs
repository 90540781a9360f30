//! What is on disk of the pods that the plugin wired: a file for each, and with it the addresses that are given away.
//!
//! Only the plugin writes, and only under a lock. A file is written whole or not at all, so that reading needs none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use podway_host::{Durability, boot_id, write_whole};
use serde::Serialize;

use crate::agent::mac_text;
use crate::ranges::next_address;
use crate::{Phase, Record, Wired};

/// Where the state is unless the network's configuration says otherwise.
pub const STATE_DIRECTORY: &str = "/var/lib/podway/cni";

const LOCK: &str = ".lock";
const CURSOR: &str = ".cursor";
/// What is being written; it gets its name when it is whole.
const NEXT: &str = ".next";
const SUFFIX: &str = ".json";

/// Why the state can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refused.
    #[error("{}: {source}; podway-cni keeps its records there (`stateDir`): make it writable for root", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A file is not as it was written.
    #[error("{}: {source}; no record can be read from it: delete the pod of that container, or the file", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// No address is left.
    #[error(
        "the node's pod range {0} is full: all its addresses are given away; delete pods, or give the Node a larger range"
    )]
    Full(IpNet),
}

/// The directory of records.
#[derive(Clone, Debug)]
pub struct State {
    directory: PathBuf,
}

impl State {
    /// The state in this directory, which is made when something is written.
    pub fn at(directory: impl Into<PathBuf>) -> State {
        State {
            directory: directory.into(),
        }
    }

    /// All records, in the order of containers.
    pub fn records(&self) -> Result<Vec<Record>, StateError> {
        self.each()?.into_iter().collect()
    }

    /// The same, when one that can't be read shall not hide the others.
    pub fn each(&self) -> Result<Vec<Result<Record, StateError>>, StateError> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => io_at(&self.directory, entries)?,
        };
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.retain(|name| name.to_str().is_some_and(|name| name.ends_with(SUFFIX)));
        names.sort();
        let records = names.iter().map(|name| read(&self.directory.join(name)));
        Ok(records.filter_map(Result::transpose).collect())
    }

    /// The record of a container's interface.
    pub fn find(&self, wired: &Wired) -> Result<Option<Record>, StateError> {
        read(&self.path(wired))
    }

    /// Writes a record with an address of each range that nobody has; what another boot left is forgotten first.
    pub fn take(
        &self,
        wired: &Wired,
        network: &str,
        pod: &str,
        ranges: &[IpNet],
    ) -> Result<Record, StateError> {
        let _lock = self.lock()?;
        let boot = boot_id().unwrap_or_default();
        let mut taken = BTreeSet::new();
        for record in self.records()? {
            match record.boot == boot && record.wired != *wired {
                true => taken.extend(record.addresses),
                false => self.forget(&record.wired)?,
            }
        }
        let mut cursor = self.cursor();
        let mut addresses = Vec::new();
        for range in ranges {
            let last = cursor.get(range).copied();
            let address = next_address(*range, last, |it| taken.contains(&it));
            let address = address.ok_or(StateError::Full(*range))?;
            cursor.insert(*range, address);
            addresses.push(address);
        }
        let record = Record {
            wired: wired.clone(),
            network: network.to_owned(),
            pod: pod.to_owned(),
            interface: wired.interface(),
            mac: mac_text(wired.mac()),
            addresses,
            phase: Phase::Adding,
            boot,
        };
        let cursor: BTreeMap<String, IpAddr> = cursor
            .iter()
            .map(|(range, last)| (range.to_string(), *last))
            .collect();
        self.write(&self.directory.join(CURSOR), &cursor, Durability::Process)?;
        self.write(&self.path(wired), &record, Durability::Machine)?;
        Ok(record)
    }

    /// Notes that a pod's wire is made.
    pub fn finish(&self, record: &Record) -> Result<(), StateError> {
        let _lock = self.lock()?;
        let record = Record {
            phase: Phase::Added,
            ..record.clone()
        };
        self.write(&self.path(&record.wired), &record, Durability::Process)
    }

    /// Takes a record away, and gives its addresses back; one that is not there is fine.
    pub fn forget(&self, wired: &Wired) -> Result<(), StateError> {
        let path = self.path(wired);
        match fs::remove_file(&path) {
            Err(error)
                if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) =>
            {
                Ok(())
            }
            removed => io_at(&path, removed),
        }
    }

    /// The first range without a free address.
    pub fn full(&self, ranges: &[IpNet]) -> Result<Option<IpNet>, StateError> {
        let boot = boot_id().unwrap_or_default();
        let records = self.records()?;
        let live = records.iter().filter(|it| it.boot == boot);
        let taken: BTreeSet<_> = live.flat_map(|it| &it.addresses).collect();
        let is_full =
            |range: &IpNet| next_address(*range, None, |it| taken.contains(&it)).is_none();
        Ok(ranges.iter().copied().find(is_full))
    }

    fn path(&self, wired: &Wired) -> PathBuf {
        self.directory.join(wired.text() + SUFFIX)
    }

    /// Held until it is dropped, also by the death of its holder.
    fn lock(&self) -> Result<File, StateError> {
        io_at(&self.directory, fs::create_dir_all(&self.directory))?;
        let path = self.directory.join(LOCK);
        let opened = File::options().create(true).append(true).open(&path);
        let file = io_at(&path, opened)?;
        io_at(&path, file.lock())?;
        Ok(file)
    }

    /// The last address given of each range; without it, addresses are given from the start.
    fn cursor(&self) -> BTreeMap<IpNet, IpAddr> {
        let text = fs::read(self.directory.join(CURSOR)).unwrap_or_default();
        let read: BTreeMap<String, IpAddr> = serde_json::from_slice(&text).unwrap_or_default();
        let pairs = read
            .into_iter()
            .filter_map(|(range, last)| Some((range.parse().ok()?, last)));
        pairs.collect()
    }

    fn write(
        &self,
        path: &Path,
        value: &impl Serialize,
        durability: Durability,
    ) -> Result<(), StateError> {
        let bytes = serde_json::to_vec_pretty(value).expect("a JSON value");
        write_whole(&self.directory.join(NEXT), path, &bytes, 0o600, durability)
            .map_err(|source| io_error(path, source))
    }
}

fn read(path: &Path) -> Result<Option<Record>, StateError> {
    let bytes = match fs::read(path) {
        // Another plugin may have taken it away since the directory was listed.
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
            return Ok(None);
        }
        bytes => io_at(path, bytes)?,
    };
    // What a power failure may leave of a file that was renamed: no wire outlived it.
    if bytes.is_empty() {
        return Ok(None);
    }
    let record = serde_json::from_slice(&bytes).map_err(|source| StateError::Broken {
        path: path.to_owned(),
        source,
    })?;
    Ok(Some(record))
}

fn io_at<T>(path: &Path, result: io::Result<T>) -> Result<T, StateError> {
    result.map_err(|source| io_error(path, source))
}

fn io_error(path: &Path, source: io::Error) -> StateError {
    StateError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn wired(container: &str) -> Wired {
        Wired {
            container: container.to_owned(),
            device: "eth0".to_owned(),
        }
    }

    fn ranges() -> Vec<IpNet> {
        ["10.244.1.0/29", "fd44::/64"]
            .map(|it| it.parse().unwrap())
            .to_vec()
    }

    fn addresses(record: &Record) -> Vec<String> {
        record.addresses.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn c1_addresses_of_both_families_come_back_when_their_container_goes_but_not_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::at(folder.path().join("deep/state"));
        assert_eq!(state.records().unwrap(), []);
        let take = |container| state.take(&wired(container), "podway", "shop/web", &ranges());

        let first = take("a").unwrap();
        assert_eq!(addresses(&first), ["10.244.1.2", "fd44::2"]);
        assert_eq!(first.phase, Phase::Adding);
        state.finish(&first).unwrap();
        assert_eq!(
            state.find(&wired("a")).unwrap().unwrap().phase,
            Phase::Added
        );
        state.forget(&wired("a")).unwrap();
        state.forget(&wired("a")).unwrap();
        assert_eq!(addresses(&take("b").unwrap()), ["10.244.1.3", "fd44::3"]);
        for container in ["c", "d", "e", "f"] {
            take(container).unwrap();
        }
        let error = take("g").unwrap_err().to_string();
        assert!(
            error.starts_with("the node's pod range 10.244.1.0/29 is full"),
            "{error}"
        );
        assert_eq!(state.full(&ranges()).unwrap(), Some(ranges()[0]));
        state.forget(&wired("d")).unwrap();
        assert_eq!(state.full(&ranges()).unwrap(), None);
        assert_eq!(addresses(&take("g").unwrap())[0], "10.244.1.5");
        assert_eq!(state.records().unwrap().len(), 5);
    }

    #[test]
    fn fifty_at_once_get_fifty_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::at(folder.path());
        let range: IpNet = "10.244.1.0/26".parse().unwrap();
        thread::scope(|scope| {
            for number in 0..50 {
                let state = &state;
                scope.spawn(move || {
                    state
                        .take(&wired(&format!("c{number}")), "podway", "a/b", &[range])
                        .unwrap();
                });
            }
        });
        let records = state.records().unwrap();
        let given: BTreeSet<_> = records.iter().flat_map(|it| &it.addresses).collect();
        assert_eq!((records.len(), given.len()), (50, 50));
    }

    #[test]
    fn what_another_boot_left_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::at(folder.path());
        let old = state
            .take(&wired("old"), "podway", "a/b", &ranges())
            .unwrap();
        let old = Record {
            boot: "before".to_owned(),
            ..old
        };
        state.finish(&old).unwrap();
        state
            .take(&wired("new"), "podway", "a/b", &ranges())
            .unwrap();
        let records = state.records().unwrap();
        assert_eq!(
            records
                .iter()
                .map(|it| &*it.wired.container)
                .collect::<Vec<_>>(),
            ["new"]
        );
    }

    #[test]
    fn a_writer_that_died_leaves_nothing_half_written() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::at(folder.path());
        fs::write(folder.path().join(NEXT), b"{\"half").unwrap();
        fs::write(folder.path().join(CURSOR), b"").unwrap();
        fs::write(folder.path().join("lost@eth0.json"), b"").unwrap();
        let record = state.take(&wired("a"), "podway", "a/b", &ranges()).unwrap();
        assert_eq!(state.records().unwrap(), [record]);
    }

    #[test]
    fn a_broken_record_is_named_and_can_be_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::at(folder.path());
        fs::write(folder.path().join("x@eth0.json"), b"{").unwrap();
        let error = state
            .take(&wired("a"), "podway", "a/b", &ranges())
            .unwrap_err();
        assert!(error.to_string().contains("x@eth0.json"), "{error}");
        state.forget(&wired("x")).unwrap();
        state.take(&wired("a"), "podway", "a/b", &ranges()).unwrap();
    }
}
