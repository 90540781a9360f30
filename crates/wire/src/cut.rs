//! Cuts a packet into parts as a NIC's offloads do: TCP into segments (RFC 9293), IPv4 into fragments (RFC 791).
//!
//! Each part gets the packet's headers, the tunnel's too if there is one, with lengths, numbers and checksums of its
//! own. The payload is copied once, from wherever its pieces lie, and summed on the way.

use crate::bytes::{put_u16, u16_at};
use crate::checksum::Delta;
use crate::edit::apply;
use crate::parse::{ETHERNET, Fragment, Parsed, TCP_FIN, TCP_PSH, TCP_RST, TCP_SYN, TCP_URG};
use crate::sum::Sum;
use crate::{Family, Protocol};

const TCP_CWR: u8 = 0x80;
/// What lies between the end of the outer IP header and the inner packet: UDP, VXLAN, Ethernet.
const TUNNEL: usize = 8 + 8 + ETHERNET;

/// How a packet is to be cut; offsets are from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    into: Pieces,
    l3: u16,
    l4: u16,
    /// Bytes of payload that a part has at most.
    size: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pieces {
    Segments,
    Fragments,
}

impl Cut {
    /// Into TCP segments that make IP packets of `longest` bytes at most; `None` if it is none that may be cut.
    ///
    /// Payload makes room for options (RFC 6691). What opens or resets a connection, and urgent data, stays whole.
    pub fn segments(bytes: &[u8], parsed: &Parsed, longest: usize) -> Option<Cut> {
        let whole = parsed.fragment == Fragment::Whole && parsed.key.protocol == Protocol::TCP;
        if !whole || parsed.tcp_flags & (TCP_SYN | TCP_RST | TCP_URG) != 0 {
            return None;
        }
        let headers = tcp_end(bytes, parsed.l4 as usize)?;
        let size = longest.checked_sub(headers - parsed.l3 as usize)?;
        (size > 0).then_some(Cut {
            into: Pieces::Segments,
            l3: parsed.l3,
            l4: parsed.l4,
            size: size.min(u16::MAX.into()) as u16,
        })
    }

    /// Into IPv4 fragments of `longest` bytes at most; `None` if there is no room for payload, and for IPv6.
    pub fn fragments(parsed: &Parsed, longest: usize) -> Option<Cut> {
        let header = (parsed.l4 - parsed.l3) as usize;
        let size = longest.checked_sub(header)? & !7;
        (size > 0 && parsed.family == Family::V4).then_some(Cut {
            into: Pieces::Fragments,
            l3: parsed.l3,
            l4: parsed.l4,
            size: size.min(0xfff8) as u16,
        })
    }

    /// The same after headers of so many bytes were put in front.
    pub fn behind(self, headers: usize) -> Cut {
        Cut {
            l3: self.l3 + headers as u16,
            l4: self.l4 + headers as u16,
            ..self
        }
    }
}

/// Where the TCP header ends, options included.
pub(crate) fn tcp_end(bytes: &[u8], l4: usize) -> Option<usize> {
    let end = l4 + (bytes.get(l4 + 12)? >> 4) as usize * 4;
    (end >= l4 + 20 && end <= bytes.len()).then_some(end)
}

/// A packet that is being cut, part after part.
#[derive(Clone, Copy, Debug)]
pub struct Cutting<'p> {
    cut: Cut,
    /// The packet from its Ethernet header on, in any number of pieces; all headers are in the first.
    pieces: &'p [&'p [u8]],
    /// How long the headers are that every part has.
    headers: usize,
    payload: usize,
    /// What of the payload was copied: how much, up to where in which piece, and its sum.
    copied: usize,
    place: (usize, usize),
    sum: Sum,
}

/// One part of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Which one, from 0.
    index: usize,
    /// Where its payload is in that of the packet.
    start: usize,
    end: usize,
    sum: Sum,
}

impl<'p> Cutting<'p> {
    /// Begins to cut the packet that these pieces make up; `None` if it is not as the cut says.
    pub fn new(pieces: &'p [&'p [u8]], cut: Cut) -> Option<Cutting<'p>> {
        let (l3, l4) = (cut.l3 as usize, cut.l4 as usize);
        let first = *pieces.first()?;
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let headers = match cut.into {
            Pieces::Segments => tcp_end(first, l4)?,
            Pieces::Fragments => l4,
        };
        let ip = match family(first, l3)? {
            Family::V4 => usize::from(u16_at(first, l3 + 2)?),
            Family::V6 => usize::from(u16_at(first, l3 + 4)?) + 40,
        };
        let in_order = l3 == ETHERNET || l3 >= ETHERNET + 20 + TUNNEL;
        let whole = l3 + 20 <= l4 && headers <= first.len() && l3 + ip == length;
        (in_order && whole && headers < length).then_some(Cutting {
            cut,
            pieces,
            headers,
            payload: length - headers,
            copied: 0,
            place: (0, headers),
            sum: Sum::default(),
        })
    }

    /// How many parts there are; at least one.
    pub fn count(&self) -> usize {
        self.payload.div_ceil(self.cut.size as usize)
    }

    /// The length of each part's headers, in bytes.
    pub fn headers(&self) -> usize {
        self.headers
    }

    /// The length of the longest part, in bytes.
    pub fn longest(&self) -> usize {
        self.headers + self.payload.min(self.cut.size as usize)
    }

    /// The next part, of whose payload nothing is copied yet; `None` after the last.
    pub fn next_part(&self) -> Option<Part> {
        (self.copied < self.payload).then_some(Part {
            index: self.copied / self.cut.size as usize,
            start: self.copied,
            end: self.payload.min(self.copied + self.cut.size as usize),
            sum: Sum::default(),
        })
    }

    /// Copies as much of the rest of a part's payload as fits; how much that was, 0 when there is no more.
    pub fn copy(&mut self, part: &mut Part, into: &mut [u8]) -> usize {
        let wanted = (part.end - self.copied).min(into.len());
        let mut done = 0;
        while done < wanted {
            let (piece, at) = self.place;
            let here = &self.pieces[piece][at..];
            let count = here.len().min(wanted - done);
            part.sum.copy(&here[..count], &mut into[done..done + count]);
            done += count;
            self.place = match count == here.len() {
                true => (piece + 1, 0),
                false => (piece, at + count),
            };
        }
        self.copied += done;
        if self.copied == part.end && done > 0 {
            self.sum.append(part.sum);
        }
        done
    }

    /// Writes the headers of a part whose payload was copied; there must be [room](Cutting::headers).
    pub fn write_headers(&self, part: &Part, into: &mut [u8]) {
        let into = &mut into[..self.headers];
        into.copy_from_slice(&self.pieces[0][..self.headers]);
        let l3 = self.cut.l3 as usize;
        let missing = (self.payload - (part.end - part.start)) as u16;
        if l3 > ETHERNET {
            shorten(into, ETHERNET, missing);
            let at = l3 - TUNNEL + 4;
            let udp = u16_at(into, at).expect("the tunnel's headers are there");
            put_u16(into, at, udp.wrapping_sub(missing));
        }
        shorten(into, l3, missing);
        match self.cut.into {
            Pieces::Segments => self.segment(part, into),
            Pieces::Fragments => self.fragment(part, into),
        }
    }

    /// True if the packet's own checksum was right, as far as parts have new ones: all of them have been copied.
    pub fn is_sound(&self) -> bool {
        match self.cut.into {
            Pieces::Fragments => true,
            Pieces::Segments => {
                let l4 = self.cut.l4 as usize;
                let first = self.pieces[0];
                let mut sum = pseudo(
                    first,
                    self.cut.l3 as usize,
                    self.payload + self.headers - l4,
                );
                sum.add(&first[l4..self.headers]);
                sum.append(self.sum);
                sum.value() == 0xffff
            }
        }
    }

    /// What differs from segment to segment: identification, sequence number, flags, checksum. No router may cut one.
    fn segment(&self, part: &Part, into: &mut [u8]) {
        let (l3, l4) = (self.cut.l3 as usize, self.cut.l4 as usize);
        let first = u32::from_be_bytes(into[l4 + 4..l4 + 8].try_into().expect("4 bytes"));
        if family(into, l3) == Some(Family::V4) {
            // The sender counts packets by one: the stream's place keeps the parts of two of them apart (RFC 6864).
            let place = first / u32::from(self.cut.size) + part.index as u32;
            let identification = u16_at(into, l3 + 4).expect("parsed");
            set(into, l3, 4, identification.wrapping_add(place as u16));
            // Whatever its sender said: a smaller hop has to say so, for the next segments to be cut to it (RFC 1191).
            let bits = u16_at(into, l3 + 6).expect("parsed");
            set(into, l3, 6, bits | 0x4000);
        }
        let tcp = &mut into[l4..];
        let number = first.wrapping_add(part.start as u32);
        tcp[4..8].copy_from_slice(&number.to_be_bytes());
        if part.start > 0 {
            tcp[13] &= !TCP_CWR;
        }
        if part.end < self.payload {
            tcp[13] &= !(TCP_FIN | TCP_PSH);
        }
        put_u16(tcp, 16, 0);
        let length = self.headers - l4 + part.end - part.start;
        let mut sum = pseudo(into, l3, length);
        sum.add(&into[l4..]);
        sum.append(part.sum);
        put_u16(into, l4 + 16, !sum.value());
    }

    /// What differs from fragment to fragment: where it is, and whether more follow.
    fn fragment(&self, part: &Part, into: &mut [u8]) {
        let l3 = self.cut.l3 as usize;
        let bits = u16_at(into, l3 + 6).expect("parsed");
        let more = match part.end < self.payload {
            true => 0x2000,
            false => bits & 0x2000,
        };
        let offset = (bits & 0x1fff) + (part.start / 8) as u16;
        set(into, l3, 6, more | offset & 0x1fff);
    }
}

impl Part {
    /// The length of its payload in bytes.
    pub fn payload(&self) -> usize {
        self.end - self.start
    }
}

/// The parts of a packet that lies in one piece, in order; `None` if it is not as the cut says, or not sound.
pub fn parts(packet: &[u8], cut: Cut) -> Option<Vec<Vec<u8>>> {
    let pieces = [packet];
    let mut cutting = Cutting::new(&pieces, cut)?;
    let mut parts = Vec::with_capacity(cutting.count());
    while let Some(mut part) = cutting.next_part() {
        let headers = cutting.headers();
        let mut bytes = vec![0; headers + part.payload()];
        cutting.copy(&mut part, &mut bytes[headers..]);
        cutting.write_headers(&part, &mut bytes);
        parts.push(bytes);
    }
    cutting.is_sound().then_some(parts)
}

pub(crate) fn family(bytes: &[u8], l3: usize) -> Option<Family> {
    match bytes.get(l3)? >> 4 {
        4 => Some(Family::V4),
        6 => Some(Family::V6),
        _ => None,
    }
}

/// Takes bytes off the length that an IP header says.
fn shorten(bytes: &mut [u8], l3: usize, by: u16) {
    match family(bytes, l3) {
        Some(Family::V6) => {
            let length = u16_at(bytes, l3 + 4).expect("parsed");
            put_u16(bytes, l3 + 4, length.wrapping_sub(by));
        }
        Some(Family::V4) | None => {
            let length = u16_at(bytes, l3 + 2).expect("parsed");
            set(bytes, l3, 2, length.wrapping_sub(by));
        }
    }
}

/// Sets a field of an IPv4 header; its checksum changes by that, so that a wrong one stays wrong.
pub(crate) fn set(bytes: &mut [u8], l3: usize, at: usize, value: u16) {
    let mut delta = Delta::default();
    delta.word(u16_at(bytes, l3 + at).expect("parsed"), value);
    put_u16(bytes, l3 + at, value);
    apply(bytes, l3 + 10, &delta);
}

/// The sum of TCP's pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1).
pub(crate) fn pseudo(bytes: &[u8], l3: usize, length: usize) -> Sum {
    let addresses = match family(bytes, l3) {
        Some(Family::V6) => &bytes[l3 + 8..l3 + 40],
        Some(Family::V4) | None => &bytes[l3 + 12..l3 + 20],
    };
    let mut sum = Sum::default();
    sum.add(addresses);
    sum.word(u16::from(Protocol::TCP.0));
    sum.word(length as u16);
    sum
}
