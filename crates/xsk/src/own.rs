//! The program for what the node sends to itself, attached where packets leave by `lo`, so that it stays when the process goes.

use std::os::fd::{AsRawFd, BorrowedFd};

use libbpf_rs::{ErrorKind, TC_EGRESS, TcHook, TcHookBuilder};

use crate::attach::program_id;
use crate::error::RedirectError;

/// Where among the device's filters it is, by which a later process finds it.
const PRIORITY: u32 = 0x7057;
const HANDLE: u32 = 1;

/// Attaches `program`, in place of what an earlier process attached; true if it was not there.
pub(crate) fn attach(
    program: BorrowedFd<'_>,
    interface: &str,
    ifindex: u32,
) -> Result<bool, RedirectError> {
    let refused = |error| RedirectError::Own {
        interface: interface.to_owned(),
        error,
    };
    let mut hook = hook(program, ifindex);
    if hook.query().ok() == Some(program_id(program.as_raw_fd())) {
        return Ok(false);
    }
    // The queueing discipline that holds such filters may be there for others already.
    match hook.create() {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(refused(error)),
        Ok(_) | Err(_) => {}
    }
    hook.attach().map_err(refused)?;
    Ok(true)
}

fn hook(program: BorrowedFd<'_>, ifindex: u32) -> TcHook {
    TcHookBuilder::new(program)
        .ifindex(ifindex as i32)
        .replace(true)
        .handle(HANDLE)
        .priority(PRIORITY)
        .hook(TC_EGRESS)
}
