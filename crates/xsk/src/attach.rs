//! Attaches the program to devices by netlink, so that it stays when the process goes.

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libbpf_rs::libbpf_sys::{
    XDP_ATTACHED_DRV, XDP_ATTACHED_NONE, XDP_ATTACHED_SKB, XDP_FLAGS_DRV_MODE, XDP_FLAGS_REPLACE,
    XDP_FLAGS_SKB_MODE, XDP_FLAGS_UPDATE_IF_NOEXIST, bpf_prog_get_fd_by_id,
    bpf_prog_get_info_by_fd, bpf_prog_info, bpf_xdp_attach, bpf_xdp_attach_opts, bpf_xdp_query,
    bpf_xdp_query_opts,
};

use podway_tables::PortKind;

use crate::error::RedirectError;
use crate::nic::{self, Capabilities};
use crate::redirect::{Adopted, Attachment};
use crate::said;

/// The name by which a program of ours is recognised, whatever its version: the kernel keeps 15 characters.
const PROGRAM: &str = "podway_redirect";
/// An error of the kernel's own that some drivers let out.
const ENOTSUPP: i32 = 524;

/// Where in the kernel the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before there is an sk_buff.
    Native,
    /// In the stack, for drivers without XDP: slower.
    Generic,
}

/// The program that a device has.
struct Present {
    id: u32,
    mode: Mode,
}

/// Attaches `program`, in place of one of ours if there is one.
pub(crate) fn attach(
    program: BorrowedFd<'_>,
    interface: &str,
    ifindex: u32,
    kind: PortKind,
) -> Result<Attachment, RedirectError> {
    if let Some(present) = query(interface, ifindex)? {
        let old = own_program(interface, &present)?;
        set(ifindex, program.as_raw_fd(), Some(&old), present.mode)
            .map_err(|error| RedirectError::attach(interface, error))?;
        return Ok(Attachment {
            mode: present.mode,
            adopted: Adopted::Own,
            not_native: (present.mode == Mode::Generic)
                .then(|| "as an earlier agent left it: take it off for another try".to_owned()),
        });
    }
    let refusal = match nic::not_in_driver(interface) {
        Some(reason) => reason,
        None => match set(ifindex, program.as_raw_fd(), None, Mode::Native) {
            Ok(()) => {
                return Ok(Attachment {
                    mode: Mode::Native,
                    adopted: Adopted::Nothing,
                    not_native: None,
                });
            }
            Err(error) if generic_helps(&error, kind) => said::in_words(&error),
            Err(error) => return Err(RedirectError::attach(interface, error)),
        },
    };
    set(ifindex, program.as_raw_fd(), None, Mode::Generic)
        .map_err(|error| RedirectError::attach(interface, error))?;
    Ok(Attachment {
        mode: Mode::Generic,
        adopted: Adopted::Nothing,
        not_native: Some(refusal),
    })
}

/// Attaches `program` where it ran, to a device that has none, or one of ours elsewhere; true if it had to.
///
/// Sockets that are bound rely on where it runs: under a zero-copy one, nothing would ever be received in the stack.
pub(crate) fn restore(
    program: BorrowedFd<'_>,
    interface: &str,
    ifindex: u32,
    mode: Mode,
) -> Result<bool, RedirectError> {
    let refused = |error| RedirectError::attach(interface, error);
    let ours = program_id(program.as_raw_fd());
    let present = query(interface, ifindex)?;
    let old = match &present {
        Some(present) if (present.id, present.mode) == (ours, mode) => return Ok(false),
        Some(present) => Some((own_program(interface, present)?, present.mode)),
        None => None,
    };
    match old {
        Some((old, there)) if there == mode => {
            set(ifindex, program.as_raw_fd(), Some(&old), mode).map_err(refused)?;
        }
        Some((old, elsewhere)) => {
            set(ifindex, -1, Some(&old), elsewhere).map_err(refused)?;
            set(ifindex, program.as_raw_fd(), None, mode).map_err(refused)?;
        }
        None => set(ifindex, program.as_raw_fd(), None, mode).map_err(refused)?,
    }
    Ok(true)
}

/// True if the driver can't run the program as the device is now, and the stack can.
fn generic_helps(error: &io::Error, kind: PortKind) -> bool {
    match (error.raw_os_error(), kind) {
        (Some(libc::EOPNOTSUPP | ENOTSUPP), _) => true,
        // Drivers refuse an MTU, features or numbers of queues so; of pods' devices, we choose them.
        (Some(libc::EINVAL | libc::ERANGE | libc::E2BIG | libc::ENOSPC), PortKind::Uplink) => true,
        (Some(_) | None, _) => false,
    }
}

/// What the driver of a device can do for XDP, as the kernel says.
pub(crate) fn capabilities(ifindex: u32) -> io::Result<Capabilities> {
    let options = options(ifindex)?;
    Ok(Capabilities {
        features: options.feature_flags,
        segments: options.xdp_zc_max_segs,
    })
}

fn options(ifindex: u32) -> io::Result<bpf_xdp_query_opts> {
    let mut options = bpf_xdp_query_opts {
        sz: size_of::<bpf_xdp_query_opts>() as _,
        ..Default::default()
    };
    // SAFETY: `options` says its own size and lives through the call.
    let status = unsafe { bpf_xdp_query(ifindex as i32, 0, &mut options) };
    result(status).map(|_| options)
}

/// Takes a program of ours off a device, whoever left it there; true if there was one.
pub(crate) fn take_off(interface: &str, ifindex: u32) -> Result<bool, RedirectError> {
    let Some(present) = query(interface, ifindex)? else {
        return Ok(false);
    };
    let old = match own_program(interface, &present) {
        Ok(old) => old,
        Err(RedirectError::ForeignProgram { .. }) => return Ok(false),
        Err(other) => return Err(other),
    };
    set(ifindex, -1, Some(&old), present.mode)
        .map_err(|error| RedirectError::attach(interface, error))?;
    Ok(true)
}

/// Takes `program` off the device if it is the one that is there.
pub(crate) fn detach(
    program: BorrowedFd<'_>,
    interface: &str,
    ifindex: u32,
) -> Result<(), RedirectError> {
    let Some(present) = query(interface, ifindex)? else {
        return Ok(());
    };
    if present.id != program_id(program.as_raw_fd()) {
        return Ok(());
    }
    set(ifindex, -1, Some(&program), present.mode)
        .map_err(|error| RedirectError::attach(interface, error))
}

/// The kernel's id of a program, 0 if it can't be had.
pub(crate) fn program_id(program: RawFd) -> u32 {
    information(program).map_or(0, |information| information.id)
}

fn query(interface: &str, ifindex: u32) -> Result<Option<Present>, RedirectError> {
    let options = options(ifindex).map_err(|error| RedirectError::attach(interface, error))?;
    let present = match u32::from(options.attach_mode) {
        XDP_ATTACHED_NONE => return Ok(None),
        XDP_ATTACHED_DRV => Present {
            id: options.drv_prog_id,
            mode: Mode::Native,
        },
        XDP_ATTACHED_SKB => Present {
            id: options.skb_prog_id,
            mode: Mode::Generic,
        },
        // Offloaded, or several at once: not ours.
        _ => {
            return Err(RedirectError::ForeignProgram {
                interface: interface.to_owned(),
                id: options.hw_prog_id.max(options.drv_prog_id),
                name: "several or offloaded".to_owned(),
            });
        }
    };
    Ok((present.id != 0).then_some(present))
}

/// The program that the device has, if it is of our making.
fn own_program(interface: &str, present: &Present) -> Result<OwnedFd, RedirectError> {
    // SAFETY: no memory is passed.
    let fd = unsafe { bpf_prog_get_fd_by_id(present.id) };
    let fd = result(fd).map_err(|error| RedirectError::attach(interface, error))?;
    // SAFETY: the kernel just made this descriptor for us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let name = information(fd.as_raw_fd())
        .map(|information| {
            // SAFETY: the kernel ends the name with a NUL inside its 16 bytes.
            let name = unsafe { CStr::from_ptr(information.name.as_ptr()) };
            name.to_string_lossy().into_owned()
        })
        .map_err(|error| RedirectError::attach(interface, error))?;
    if name == PROGRAM {
        return Ok(fd);
    }
    Err(RedirectError::ForeignProgram {
        interface: interface.to_owned(),
        id: present.id,
        name,
    })
}

fn information(program: RawFd) -> io::Result<bpf_prog_info> {
    let mut information = bpf_prog_info::default();
    let mut size = size_of::<bpf_prog_info>() as u32;
    // SAFETY: the structure is plain data of the given size, and its pointers are null: no arrays are asked for.
    let status = unsafe { bpf_prog_get_info_by_fd(program, &mut information, &mut size) };
    result(status).map(|_| information)
}

/// Puts `program` (-1: none) where `old` is, or where nothing is.
fn set(ifindex: u32, program: RawFd, old: Option<&dyn AsRawFd>, mode: Mode) -> io::Result<()> {
    let mode = match mode {
        Mode::Native => XDP_FLAGS_DRV_MODE,
        Mode::Generic => XDP_FLAGS_SKB_MODE,
    };
    let condition = match old {
        Some(_) => XDP_FLAGS_REPLACE,
        None => XDP_FLAGS_UPDATE_IF_NOEXIST,
    };
    let options = bpf_xdp_attach_opts {
        sz: size_of::<bpf_xdp_attach_opts>() as _,
        old_prog_fd: old.map_or(0, |old| old.as_raw_fd()),
        ..Default::default()
    };
    said::forget();
    // SAFETY: `options` says its own size and lives through the call.
    let status = unsafe { bpf_xdp_attach(ifindex as i32, program, mode | condition, &options) };
    result(status).map(drop)
}

fn result(status: i32) -> io::Result<i32> {
    if status < 0 {
        return Err(io::Error::from_raw_os_error(-status));
    }
    Ok(status)
}
