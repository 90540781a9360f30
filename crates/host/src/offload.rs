//! Offloads of a link, by ethtool's generic netlink (Documentation/networking/ethtool-netlink.rst).

use std::io;

use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

/// The features that leave a packet with a partial checksum.
const CHECKSUMS: [&str; 4] = [
    "tx-checksum-ip-generic",
    "tx-checksum-ipv4",
    "tx-checksum-ipv6",
    "tx-checksum-sctp",
];

const NLM_F_REQUEST_ACK: u16 = 0x1 | 0x4;
const NLMSG_ERROR: u16 = 2;
const NLA_F_NESTED: u16 = 0x8000;
const HEADERS: usize = 16 + 4;

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;

/// Switches checksum offload off for a link of the caller's namespace; true if it was on.
pub(crate) fn checksum_in_software(index: u32) -> io::Result<bool> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;

    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"ethtool\0");
    let answer = ask(&socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name)?;
    let family = family_id(&answer).ok_or(io::ErrorKind::Unsupported)?;

    let header = attribute(ETHTOOL_A_HEADER_DEV_INDEX, &index.to_ne_bytes());
    // A bit that is named without a value is off; those not named stay as they are.
    let bits = CHECKSUMS.map(|name| {
        let name = attribute(
            ETHTOOL_A_BITSET_BIT_NAME,
            &[name.as_bytes(), b"\0"].concat(),
        );
        attribute(NLA_F_NESTED | ETHTOOL_A_BITSET_BITS_BIT, &name)
    });
    let wanted = attribute(NLA_F_NESTED | ETHTOOL_A_BITSET_BITS, &bits.concat());
    let request = [
        attribute(NLA_F_NESTED | ETHTOOL_A_FEATURES_HEADER, &header),
        attribute(NLA_F_NESTED | ETHTOOL_A_FEATURES_WANTED, &wanted),
    ];
    let answer = ask(&socket, family, ETHTOOL_MSG_FEATURES_SET, &request.concat())?;
    // It names what became otherwise.
    let changed = |name: &&str| answer.windows(name.len()).any(|it| it == name.as_bytes());
    Ok(CHECKSUMS.iter().any(changed))
}

/// The messages that a request is answered with, up to its acknowledgement.
fn ask(socket: &Socket, family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let mut request = Vec::with_capacity(HEADERS + attributes.len());
    request.extend(((HEADERS + attributes.len()) as u32).to_ne_bytes());
    request.extend(family.to_ne_bytes());
    request.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    socket.send(&request, 0)?;

    let mut answer = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let Some((kind, message, next)) = split_message(rest) {
            match (kind, message) {
                (NLMSG_ERROR, [a, b, c, d, ..]) => {
                    return match i32::from_ne_bytes([*a, *b, *c, *d]) {
                        0 => Ok(answer),
                        errno => Err(io::Error::from_raw_os_error(-errno)),
                    };
                }
                _ => answer.extend(message),
            }
            rest = next;
        }
    }
}

/// A datagram's first message: its type, its bytes after the netlink header, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, bytes.get(16..length)?, next))
}

fn family_id(answer: &[u8]) -> Option<u16> {
    let mut attributes = answer.get(4..)?;
    loop {
        let length = u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        if kind == CTRL_ATTR_FAMILY_ID {
            return Some(u16::from_ne_bytes(attributes.get(4..6)?.try_into().ok()?));
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len());
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_say_their_own_length() {
        assert_eq!(
            attribute(2, b"abc\0\0"),
            [9, 0, 2, 0, b'a', b'b', b'c', 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn the_family_is_found_behind_other_attributes() {
        let answer = [
            &[0; 4][..],
            &attribute(2, b"ethtool\0"),
            &attribute(1, &21_u16.to_ne_bytes()),
        ]
        .concat();
        assert_eq!(family_id(&answer), Some(21));
        assert_eq!(family_id(&answer[..16]), None);
    }

    #[test]
    fn a_cut_message_is_none() {
        assert_eq!(split_message(&[20, 0, 0, 0, 2, 0]), None);
    }
}
