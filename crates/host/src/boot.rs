//! What tells this boot of the machine from others.

use std::{fs, io};

/// This boot's identifier, as the kernel writes it.
pub fn boot_id() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

/// The same as a number.
pub fn boot_number() -> io::Result<u128> {
    let digits = boot_id()?.replace('-', "");
    u128::from_str_radix(&digits, 16).map_err(io::Error::other)
}
