//! Settings under /proc/sys.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Where a network namespace's own settings are, for a process that may write them.
pub const PROC_SYS: &str = "/proc/sys";

/// Why a setting is not as it should be.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}: run as root, with a writable /proc/sys (`proc_sys`)", path.display())]
pub struct SettingError {
    /// The file.
    pub path: PathBuf,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// Writes a setting of this thread's network namespace, which is under `root`.
pub fn set(root: &Path, key: &str, value: &str) -> Result<(), SettingError> {
    let path = root.join(key);
    fs::write(&path, value).map_err(|source| SettingError { path, source })
}

/// Makes a setting a value, and says what it was instead if it was something else.
pub fn make(root: &Path, key: &str, value: &str) -> Result<Option<String>, SettingError> {
    let path = root.join(key);
    let failed = |source| SettingError {
        path: path.clone(),
        source,
    };
    let before = fs::read_to_string(&path).map_err(failed)?;
    if before.trim() == value {
        return Ok(None);
    }
    fs::write(&path, value).map_err(failed)?;
    Ok(Some(format!("{key} was {}", before.trim())))
}

/// The same for a setting that some kernels lack.
pub fn make_if_there(root: &Path, key: &str, value: &str) -> Result<Option<String>, SettingError> {
    match make(root, key, value) {
        Err(error) if error.source.kind() == ErrorKind::NotFound => Ok(None),
        made => made,
    }
}

/// Writes a setting that some kernels lack, and then need not: those of IPv6, or of filters.
pub fn set_if_there(root: &Path, key: &str, value: &str) -> Result<(), SettingError> {
    match set(root, key, value) {
        Err(error) if error.source.kind() == ErrorKind::NotFound => Ok(()),
        written => written,
    }
}
