//! What a driver is asked and told by ethtool's system call (SIOCETHTOOL): Linux has no other way to set a table of RSS
//! before 6.16, and every driver that has a setting has it here.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use super::wants::ADDRESSES_AND_PORTS;

const GET_DRIVER: u32 = 0x3;
const GET_STRINGS: u32 = 0x1b;
const GET_FLOW_HASH: u32 = 0x29;
const SET_FLOW_HASH: u32 = 0x2a;
const GET_RECEIVE_QUEUES: u32 = 0x2d;
const GET_STRING_COUNTS: u32 = 0x37;
const GET_INDIRECTION: u32 = 0x38;
const SET_INDIRECTION: u32 = 0x39;
const GET_FEATURES: u32 = 0x3a;
const SET_FEATURES: u32 = 0x3b;
const GET_CHANNELS: u32 = 0x3c;
const SET_CHANNELS: u32 = 0x3d;

/// The set of strings that names features (ETH_SS_FEATURES), and a string's length.
const FEATURE_STRINGS: u32 = 4;
const STRING: usize = 32;
/// Words of a `struct ethtool_rxnfc`, and more.
const FLOW_WORDS: usize = 64;
/// UDP over IPv4 and over IPv6.
const DATAGRAMS: [u32; 2] = [0x02, 0x06];
/// More than any driver has; what it says beyond is not believed.
const MOST: u32 = 65_536;

/// How many queues a device has in use, and could have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// Queues that only receive, at most.
    pub max_receive: u32,
    /// Queues for both ways, at most.
    pub max_combined: u32,
    /// Queues that only receive.
    pub receive: u32,
    /// Queues that only send.
    pub transmit: u32,
    /// Queues for anything else.
    pub other: u32,
    /// Queues for both ways.
    pub combined: u32,
}

impl Channels {
    /// Queues that packets may come in by.
    pub(super) fn receiving(self) -> u32 {
        self.receive + self.combined
    }
}

/// A feature of a device, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// The driver doesn't know it.
    Unknown,
    /// It is off.
    Off,
    /// It is on, and may be switched off.
    On,
    /// It is on, and stays.
    Fixed,
}

/// A device of the caller's network namespace.
pub(crate) struct Ethtool {
    socket: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl Ethtool {
    pub(crate) fn of(interface: &str) -> io::Result<Ethtool> {
        let mut name = [0; libc::IFNAMSIZ];
        if interface.len() >= name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, from) in name.iter_mut().zip(interface.bytes()) {
            *to = from as libc::c_char;
        }
        // SAFETY: no memory is passed.
        let socket =
            unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Ethtool {
            // SAFETY: the kernel just made this descriptor for us alone.
            socket: unsafe { OwnedFd::from_raw_fd(socket) },
            name,
        })
    }

    /// The driver's name.
    pub(crate) fn driver(&self) -> io::Result<String> {
        let mut words = vec![0; 64];
        words[0] = GET_DRIVER;
        self.call(&mut words)?;
        Ok(text(&bytes(&words[1..])[..STRING]))
    }

    /// The queues in use, and how many there could be.
    pub(crate) fn channels(&self) -> io::Result<Channels> {
        let mut words = vec![0; 9];
        words[0] = GET_CHANNELS;
        self.call(&mut words)?;
        Ok(Channels {
            max_receive: words[1],
            max_combined: words[4],
            receive: words[5],
            transmit: words[6],
            other: words[7],
            combined: words[8],
        })
    }

    /// Changes the queues in use; the device may be reset.
    pub(crate) fn set_channels(&self, to: Channels) -> io::Result<()> {
        let mut words = vec![0; 9];
        words[0] = SET_CHANNELS;
        words[5..].copy_from_slice(&[to.receive, to.transmit, to.other, to.combined]);
        self.call(&mut words)
    }

    /// The queues that packets come in by.
    pub(crate) fn receive_queues(&self) -> io::Result<u32> {
        let mut words = vec![0; FLOW_WORDS];
        words[0] = GET_RECEIVE_QUEUES;
        self.call(&mut words)?;
        Ok(words[2])
    }

    /// Which queue each value of the hash leads to.
    pub(crate) fn indirection(&self) -> io::Result<Vec<u32>> {
        let mut words = vec![GET_INDIRECTION, 0];
        self.call(&mut words)?;
        let size = words[1].min(MOST);
        let mut words = vec![0; 2 + size as usize];
        words[..2].copy_from_slice(&[GET_INDIRECTION, size]);
        self.call(&mut words)?;
        Ok(words.split_off(2))
    }

    /// Says which queue each value of the hash leads to; as many as there are.
    pub(crate) fn set_indirection(&self, table: &[u32]) -> io::Result<()> {
        let mut words = vec![SET_INDIRECTION, table.len() as u32];
        words.extend(table);
        self.call(&mut words)
    }

    /// What the hash counts of datagrams over IPv4 and IPv6.
    pub(crate) fn datagrams_hashed(&self) -> io::Result<[u32; 2]> {
        let mut hashed = [0; 2];
        for (kind, bits) in DATAGRAMS.into_iter().zip(&mut hashed) {
            let mut words = vec![0; FLOW_WORDS];
            words[..2].copy_from_slice(&[GET_FLOW_HASH, kind]);
            self.call(&mut words)?;
            *bits = words[2];
        }
        Ok(hashed)
    }

    /// Has the ports of datagrams count for RSS, too: a tunnel's differ in nothing else.
    pub(crate) fn hash_ports_of_datagrams(&self) -> io::Result<()> {
        for kind in DATAGRAMS {
            let mut words = vec![0; FLOW_WORDS];
            words[..3].copy_from_slice(&[SET_FLOW_HASH, kind, ADDRESSES_AND_PORTS]);
            self.call(&mut words)?;
        }
        Ok(())
    }

    /// What a feature is like, by the name that `ethtool -k` has for it in the kernel.
    pub(crate) fn feature(&self, name: &str) -> io::Result<Feature> {
        let names = self.feature_names()?;
        let Some(bit) = names.iter().position(|it| it == name) else {
            return Ok(Feature::Unknown);
        };
        let blocks = names.len().div_ceil(32);
        let mut words = vec![0; 2 + 4 * blocks];
        words[..2].copy_from_slice(&[GET_FEATURES, blocks as u32]);
        self.call(&mut words)?;
        let block = &words[2 + 4 * (bit / 32)..][..4];
        let has = |word: u32| word >> (bit % 32) & 1 == 1;
        let [available, _, active, never_changed] = [0, 1, 2, 3].map(|at| has(block[at]));
        Ok(match (active, available && !never_changed) {
            (false, _) => Feature::Off,
            (true, true) => Feature::On,
            (true, false) => Feature::Fixed,
        })
    }

    /// Switches a feature off; a driver that keeps it says nothing.
    pub(crate) fn switch_off(&self, name: &str) -> io::Result<()> {
        let names = self.feature_names()?;
        let unknown = || io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        let bit = names.iter().position(|it| it == name).ok_or_else(unknown)?;
        let blocks = names.len().div_ceil(32);
        let mut words = vec![0; 2 + 2 * blocks];
        words[..2].copy_from_slice(&[SET_FEATURES, blocks as u32]);
        words[2 + 2 * (bit / 32)] = 1 << (bit % 32);
        self.call(&mut words)
    }

    fn feature_names(&self) -> io::Result<Vec<String>> {
        // The mask of sets is 64 bits wide; the counts of those that are there follow it.
        let mut words = vec![GET_STRING_COUNTS, 0, 1 << FEATURE_STRINGS, 0, 0];
        self.call(&mut words)?;
        let count = words[4].min(MOST) as usize;
        let mut words = vec![0; 3 + count * STRING / 4];
        words[..3].copy_from_slice(&[GET_STRINGS, FEATURE_STRINGS, count as u32]);
        self.call(&mut words)?;
        let bytes = bytes(&words[3..]);
        Ok(bytes.chunks(STRING).map(text).collect())
    }

    /// One call, whose command is the first word; `words` is as long as the command's structure says.
    fn call(&self, words: &mut [u32]) -> io::Result<()> {
        // SAFETY: all zeroes is a value of this plain structure.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name = self.name;
        request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
        // SAFETY: both structures live through the call, and every caller above gives as many words as its command
        // reads and writes, with arrays as long as their lengths in it say.
        let status = unsafe {
            libc::ioctl(
                self.socket.as_raw_fd(),
                libc::SIOCETHTOOL as _,
                ptr::from_mut(&mut request),
            )
        };
        if status < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A string that ends with a NUL, or with its field.
fn text(field: &[u8]) -> String {
    CStr::from_bytes_until_nul(field).map_or_else(
        |_| String::from_utf8_lossy(field).into_owned(),
        |text| text.to_string_lossy().into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_device_can_have_is_refused_before_the_kernel_sees_it() {
        let error = Ethtool::of("a-name-of-twenty-byte").err().expect("refused");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn strings_end_with_their_nul_or_their_field() {
        assert_eq!(text(b"igb\0rest"), "igb");
        assert_eq!(text(b"whole"), "whole");
    }

    #[test]
    fn the_loopback_device_says_what_it_is_and_that_it_has_no_queues_to_choose_from() {
        let lo = Ethtool::of("lo").expect("a socket");
        assert_eq!(lo.feature("rx-lro").ok(), Some(Feature::Off));
        assert_eq!(lo.feature("no-such-feature").ok(), Some(Feature::Unknown));
        assert!(lo.channels().is_err());
        assert!(lo.indirection().is_err());
    }
}
