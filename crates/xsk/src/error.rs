//! What can go wrong at the kernel's edge, and what to do about it.

use std::error::Error as _;
use std::io;

use crate::said;

/// Why the XDP program could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The process may not.
    #[error(
        "loading the XDP program needs CAP_BPF, CAP_PERFMON (its verifier looks closer without) and CAP_NET_ADMIN (before Linux 5.11 also an unlimited memlock): run as root, or grant them"
    )]
    NotPermitted(#[source] libbpf_rs::Error),
    /// The kernel is too old or was built without something.
    #[error(
        "the kernel refused the XDP program: Linux 6.6 or newer with CONFIG_BPF_SYSCALL, CONFIG_XDP_SOCKETS and CONFIG_DEBUG_INFO_BTF is needed ({0})"
    )]
    Refused(libbpf_rs::Error),
    /// Out of descriptors or memory.
    #[error("out of file descriptors or memory while loading the XDP program: raise `ulimit -n`")]
    Io(#[source] io::Error),
}

/// Why a device could not be attached or a map not be written.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// There is no such device.
    #[error(
        "no network device `{0}` in this network namespace: check the name in the configuration"
    )]
    NoDevice(String),
    /// The device belongs to someone else's program.
    #[error(
        "device {interface} has another XDP program (id {id}, name {name}): stop what attached it, or take it off with `ip link set dev {interface} xdp off`"
    )]
    ForeignProgram {
        /// The device's name.
        interface: String,
        /// The kernel's id of the program.
        id: u32,
        /// The program's name.
        name: String,
    },
    /// The device's link is held by a process.
    #[error(
        "device {0} is held by another process's BPF link: stop that process (`bpftool link` names it)"
    )]
    Held(String),
    /// The process may not.
    #[error(
        "attaching XDP to {0} needs CAP_NET_ADMIN, and CAP_SYS_ADMIN to know the program that an earlier agent left: run as root, or grant both"
    )]
    NotPermitted(String),
    /// The MTU is beyond what the driver can do with XDP.
    #[error(
        "the MTU of {0} is too large for XDP in its driver: lower it (on a veth: on both ends), or use a driver with multi-buffer XDP"
    )]
    MtuTooLarge(String),
    /// The device's peer has more queues than it has.
    #[error(
        "{0} has fewer receive queues than its peer has transmit queues: make the pair with as many queues as workers on both ends"
    )]
    TooFewQueues(String),
    /// Anything else the kernel said about a device.
    #[error("the kernel refused XDP on {interface}: {said}; see `dmesg` for the driver's reason")]
    Attach {
        /// The device's name.
        interface: String,
        /// What the kernel said.
        said: String,
    },
    /// The kernel did not take the program for the node's own packets.
    #[error(
        "the kernel refused a filter on {interface} ({error}): it needs CONFIG_NET_CLS_ACT and CONFIG_NET_CLS_BPF; until then the node's own processes don't reach node ports and host ports at its own addresses"
    )]
    Own {
        /// The device's name.
        interface: String,
        /// The kernel's error.
        error: libbpf_rs::Error,
    },
    /// A map is full.
    #[error(
        "the XDP program's map `{0}` is full: fewer ports or ranges, or larger limits in the configuration"
    )]
    MapFull(String),
    /// Anything else the kernel said about a map.
    #[error("the XDP program's map `{map}` could not be written: {error}")]
    Map {
        /// The map's name.
        map: String,
        /// The kernel's error.
        error: libbpf_rs::Error,
    },
}

/// Why a port could not be added to a worker.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// There is no such device.
    #[error(
        "no network device `{0}` in this network namespace: check the name in the configuration"
    )]
    NoDevice(String),
    /// The worker has that port.
    #[error("port {0} is already there: remove it first")]
    Exists(u16),
    /// The port's id or the worker's queue is beyond the program's maps.
    #[error(
        "port {port} queue {queue} is beyond the XDP program's maps: raise the number of ports or queues it is loaded with"
    )]
    OutOfRange {
        /// The port's id.
        port: u16,
        /// The worker's queue.
        queue: u32,
    },
    /// Someone has the queue.
    #[error(
        "queue {queue} of {interface} is taken by another AF_XDP socket: stop the process that holds it (`ss --xdp -p` names it); after a crash it is free within a second"
    )]
    QueueBusy {
        /// The device's name.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// The device has no such queue, or can't do what was asked.
    #[error(
        "queue {queue} of {interface} can't take an AF_XDP socket ({error}): the device needs as many queues as there are workers (`ethtool -L`), and for large packets multi-buffer XDP"
    )]
    Refused {
        /// The device's name.
        interface: String,
        /// The queue.
        queue: u32,
        /// The kernel's error.
        error: io::Error,
    },
    /// The process may not.
    #[error("AF_XDP sockets need CAP_NET_RAW: run as root, or grant it")]
    NotPermitted,
    /// The memory could not be locked.
    #[error(
        "{bytes} bytes of packet memory can't be locked: grant CAP_IPC_LOCK or raise memlock (`ulimit -l`), or lower the number of frames"
    )]
    Memory {
        /// What was asked for.
        bytes: usize,
        /// The kernel's error.
        #[source]
        error: io::Error,
    },
    /// All frames are in use.
    #[error("no {wanted} frames left for another port: raise the number of frames per worker")]
    OutOfFrames {
        /// What the port needs to start with.
        wanted: u32,
    },
    /// The packet memory that the port was to share has gone with its last port.
    #[error("the packet memory has gone meanwhile: try again")]
    MemoryGone,
    /// The settings make no sense.
    #[error("{0} frames of packet memory: give a number from 256 to 1048576")]
    Frames(u32),
    /// The sockets' map could not be written.
    #[error("the socket could not be registered with the XDP program: {0}")]
    Register(#[source] libbpf_rs::Error),
    /// Anything else.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl LoadError {
    pub(crate) fn of(error: libbpf_rs::Error) -> LoadError {
        if error.kind() == libbpf_rs::ErrorKind::PermissionDenied {
            return LoadError::NotPermitted(error);
        }
        LoadError::Refused(error)
    }
}

impl RedirectError {
    /// What the kernel's error about a device means.
    pub(crate) fn attach(interface: &str, error: io::Error) -> RedirectError {
        let interface = interface.to_owned();
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => RedirectError::NotPermitted(interface),
            Some(libc::ENODEV) => RedirectError::NoDevice(interface),
            Some(libc::ERANGE | libc::EMSGSIZE) => RedirectError::MtuTooLarge(interface),
            Some(libc::ENOSPC) => RedirectError::TooFewQueues(interface),
            Some(libc::EBUSY) => RedirectError::Held(interface),
            _ => RedirectError::Attach {
                interface,
                said: said::in_words(&error),
            },
        }
    }

    /// What the kernel's error about a map means.
    pub(crate) fn map(map: &str) -> impl Fn(libbpf_rs::Error) -> RedirectError + use<'_> {
        move |error| {
            let cause = error
                .source()
                .and_then(|source| source.downcast_ref::<io::Error>())
                .and_then(io::Error::raw_os_error);
            match cause {
                Some(libc::ENOSPC | libc::E2BIG) => RedirectError::MapFull(map.to_owned()),
                _ => RedirectError::Map {
                    map: map.to_owned(),
                    error,
                },
            }
        }
    }
}

impl PortError {
    /// What the kernel's error about packet memory of so many bytes means.
    pub(crate) fn memory(bytes: usize, error: io::Error) -> PortError {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => PortError::NotPermitted,
            Some(libc::EMFILE | libc::ENFILE) => PortError::Io(error),
            _ => PortError::Memory { bytes, error },
        }
    }

    /// What the kernel's error about a socket means.
    pub(crate) fn socket(interface: &str, queue: u32, error: io::Error) -> PortError {
        let interface = interface.to_owned();
        match error.raw_os_error() {
            Some(libc::EBUSY) => PortError::QueueBusy { interface, queue },
            Some(libc::EPERM | libc::EACCES) => PortError::NotPermitted,
            Some(libc::ENODEV) => PortError::NoDevice(interface),
            _ => PortError::Refused {
                interface,
                queue,
                error,
            },
        }
    }
}
