//! ARP (RFC 826) and neighbour discovery (RFC 4861): the questions that a gateway is asked, and its answers in place.

use crate::bytes::u16_at;
use crate::checksum::transport;
use crate::parse::{ETHERNET, ETHERTYPE_ARP, Fragment, Icmp, Parsed};
use crate::{Addr, Frame, Mac, NoRoom, Protocol};

/// Who has `target`? asked by `sender`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The asker's Ethernet address.
    pub sender_mac: Mac,
    /// The asker's address; unspecified in a probe for duplicates (RFC 5227, RFC 4862).
    pub sender: Addr,
    /// The address in question.
    pub target: Addr,
}

/// The ARP request in a frame; `None` if it is anything else.
pub fn arp_request(bytes: &[u8]) -> Option<Question> {
    let arp = bytes.get(ETHERNET..ETHERNET + 28)?;
    if u16_at(bytes, 12) != Some(ETHERTYPE_ARP) {
        return None;
    }
    // Ethernet, IPv4, lengths 6 and 4, request.
    if arp[..8] != [0, 1, 8, 0, 6, 4, 0, 1] {
        return None;
    }
    Some(Question {
        sender_mac: Mac(arp[8..14].try_into().ok()?),
        sender: Addr::v4(arp[14..18].try_into().ok()?),
        target: Addr::v4(arp[24..28].try_into().ok()?),
    })
}

/// Turns the ARP request in a frame into the answer that `mac` has the address.
pub fn arp_answer(bytes: &mut [u8], question: &Question, mac: Mac) {
    bytes[0..6].copy_from_slice(&question.sender_mac.0);
    bytes[6..12].copy_from_slice(&mac.0);
    let arp = &mut bytes[ETHERNET..ETHERNET + 28];
    arp[7] = 2;
    arp[8..14].copy_from_slice(&mac.0);
    arp[14..18].copy_from_slice(&question.target.low_bytes());
    arp[18..24].copy_from_slice(&question.sender_mac.0);
    arp[24..28].copy_from_slice(&question.sender.low_bytes());
}

/// The neighbour solicitation in a packet; `None` if it is anything else, or came over a router.
pub fn solicitation(bytes: &[u8], parsed: &Parsed) -> Option<Question> {
    let l4 = parsed.l4 as usize;
    // Fragments are none either (RFC 6980, 5).
    if parsed.icmp != Icmp::Neighbour || parsed.fragment != Fragment::Whole {
        return None;
    }
    let message = bytes.get(l4..parsed.end())?.get(..24)?;
    // RFC 4861, 7.1.1: hop limit 255, code 0, the target is not multicast.
    if message[0] != 135 || message[1] != 0 || parsed.ttl != 255 {
        return None;
    }
    let target = Addr::v6(message[8..24].try_into().ok()?);
    let sender_mac = Mac(bytes[6..12].try_into().ok()?);
    (!target.is_multicast()).then_some(Question {
        sender_mac,
        sender: parsed.key.source,
        target,
    })
}

/// Turns the neighbour solicitation in a frame into the advertisement that `mac`, a router, has the address.
///
/// A probe for duplicates (source `::`) is answered to all nodes (RFC 4861, 7.2.4).
pub fn advertisement(frame: &mut Frame<'_>, question: &Question, mac: Mac) -> Result<(), NoRoom> {
    const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let probe = question.sender.bits() == 0;
    let (target, target_mac) = match probe {
        true => (Addr::v6(ALL_NODES), Mac([0x33, 0x33, 0, 0, 0, 1])),
        false => (question.sender, question.sender_mac),
    };
    frame.resize(ETHERNET + 40 + 32)?;
    let bytes = frame.bytes_mut();
    crate::edit::ethernet(bytes, target_mac, mac, crate::Family::V6);
    let header = &mut bytes[ETHERNET..ETHERNET + 40];
    header[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 32, Protocol::ICMPV6.0, 255]);
    header[8..24].copy_from_slice(&question.target.octets());
    header[24..40].copy_from_slice(&target.octets());
    let message = &mut bytes[ETHERNET + 40..];
    // Router and override, and solicited unless nobody asked by name.
    let flags = if probe { 0xa0 } else { 0xe0 };
    message[..8].copy_from_slice(&[136, 0, 0, 0, flags, 0, 0, 0]);
    message[8..24].copy_from_slice(&question.target.octets());
    message[24..26].copy_from_slice(&[2, 1]);
    message[26..32].copy_from_slice(&mac.0);
    let sum = transport(&question.target, &target, Protocol::ICMPV6, message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}
