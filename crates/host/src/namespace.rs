//! Network namespaces with a name, as `ip netns` keeps them.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// Where named network namespaces are mounted.
const DIRECTORY: &str = "/run/netns";

/// Why a network namespace can't be used.
#[derive(Debug, thiserror::Error)]
#[error("network namespace {}: {doing}: {source}{}", path.display(), remedy(source))]
pub struct NamespaceError {
    path: PathBuf,
    doing: &'static str,
    #[source]
    source: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    let remedies = [
        (ErrorKind::PermissionDenied, "; run as root (CAP_SYS_ADMIN)"),
        (
            ErrorKind::AlreadyExists,
            "; remove it with `ip netns delete`",
        ),
        (ErrorKind::NotFound, "; is the pod or lab gone?"),
    ];
    let known = remedies.iter().find(|(kind, _)| *kind == error.kind());
    known.map_or("", |(_, remedy)| remedy)
}

/// A network namespace, held open.
#[derive(Debug)]
pub struct Namespace {
    path: PathBuf,
    file: File,
}

/// Makes the directory a mount that is shared, as `ip netns add` does first: did that come later, it would hide the mounts
/// that are there already, and their names could not be removed any more.
fn share_directory() -> io::Result<()> {
    const NOTHING: Option<&str> = None;
    fs::create_dir_all(DIRECTORY)?;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(NOTHING, DIRECTORY, NOTHING, flags, NOTHING)
    };
    if share().is_err() {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(DIRECTORY), DIRECTORY, NOTHING, flags, NOTHING)?;
        share()?;
    }
    Ok(())
}

impl Namespace {
    /// The namespace that a path leads to: a mount such as /run/netns/NAME, or /proc/PID/ns/net.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, NamespaceError> {
        let path = path.into();
        match File::open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(NamespaceError {
                path,
                doing: "cannot open it",
                source,
            }),
        }
    }

    /// The namespace of that name (`ip netns`); a file on which nothing is mounted, as a maker that died leaves it, is none.
    pub fn named(name: &str) -> Result<Self, NamespaceError> {
        let named = Self::open(Path::new(DIRECTORY).join(name))?;
        match fstatfs(&named.file).map(|it| it.filesystem_type()) {
            Ok(NSFS_MAGIC) => Ok(named),
            Ok(_) | Err(_) => Err(NamespaceError {
                path: named.path,
                doing: "cannot use it",
                source: io::Error::new(ErrorKind::InvalidInput, "nothing is mounted on it"),
            }),
        }
    }

    /// A new namespace of that name, with its loopback down, as `ip netns add` makes it.
    pub fn create(name: &str) -> Result<Self, NamespaceError> {
        let path = Path::new(DIRECTORY).join(name);
        let made = share_directory().and_then(|()| File::create_new(&path));
        if let Err(source) = made {
            return Err(NamespaceError {
                path,
                doing: "cannot make its mount point",
                source,
            });
        }
        // The thread ends in the new namespace, and with it all that refers to it but the mount.
        let mounted = thread::scope(|scope| scope.spawn(|| mount_new(&path)).join());
        match mounted.expect("unshare and mount do not panic") {
            Ok(()) => Self::open(path),
            Err(source) => {
                let _ = fs::remove_file(&path);
                Err(NamespaceError {
                    path,
                    doing: "cannot create it",
                    source,
                })
            }
        }
    }

    /// Takes a namespace's name away; it is gone with its last process. A name that is not there is fine.
    pub fn remove(name: &str) -> Result<(), NamespaceError> {
        let path = Path::new(DIRECTORY).join(name);
        while umount2(&path, MntFlags::MNT_DETACH).is_ok() {}
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(NamespaceError {
                path,
                doing: "cannot remove it",
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Names of all namespaces that begin with `prefix`, sorted.
    pub fn names(prefix: &str) -> Vec<String> {
        let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<_> = names.filter(|name| name.starts_with(prefix)).collect();
        names.sort();
        names
    }

    /// What the job returns, run in this namespace by a thread of its own; panics of the job pass through.
    pub fn inside<T: Send>(&self, job: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        let thread = || self.enter().map(|()| job());
        match thread::scope(|scope| scope.spawn(thread).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Moves the calling thread into this namespace for good, and with it the processes that it starts.
    pub fn enter(&self) -> Result<(), NamespaceError> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| NamespaceError {
            path: self.path.clone(),
            doing: "cannot enter it",
            source: errno.into(),
        })
    }

    /// The namespace of the calling process.
    pub fn own() -> Result<Self, NamespaceError> {
        Self::open("/proc/self/ns/net")
    }

    /// True if both are the same namespace, whatever the ways that lead there.
    pub fn is(&self, other: &Namespace) -> bool {
        let [own, theirs] = [self, other].map(|it| it.file.metadata());
        matches!((own, theirs), (Ok(own), Ok(theirs))
            if (own.dev(), own.ino()) == (theirs.dev(), theirs.ino()))
    }

    /// Ids of the processes that are in this namespace.
    pub fn processes(&self) -> Vec<i32> {
        let Ok(own) = self.file.metadata() else {
            return Vec::new();
        };
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_inside = |id: &i32| {
            fs::metadata(format!("/proc/{id}/ns/net"))
                .is_ok_and(|theirs| (theirs.dev(), theirs.ino()) == (own.dev(), own.ino()))
        };
        ids.filter(is_inside).collect()
    }
}

impl AsRawFd for Namespace {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn mount_new(path: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let none: Option<&str> = None;
    mount(
        Some("/proc/thread-self/ns/net"),
        path,
        none,
        MsFlags::MS_BIND,
        none,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_namespace_says_so() {
        let text = Namespace::named("podway-test-absent")
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with("network namespace /run/netns/podway-test-absent: cannot open it"),
            "{text}"
        );
    }

    #[test]
    fn an_absent_namespace_can_be_removed() {
        Namespace::remove("podway-test-absent").unwrap();
    }
}
