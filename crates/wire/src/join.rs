//! Joins TCP segments that follow each other into one packet, as a NIC's receive offload does.
//!
//! Nobody reads the payload: the packet's checksum follows from those of its segments, and is wrong if one of them is.

use crate::bytes::{put_u16, u16_at};
use crate::cut::{family, pseudo, set, tcp_end};
use crate::parse::{ETHERNET, TCP_ACK, TCP_FIN, TCP_PSH};
use crate::sum::Sum;
use crate::{Family, Protocol};

/// Segments that follow each other, so far.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    family: Family,
    l4: usize,
    headers: usize,
    /// Payload of each segment but the last, in bytes.
    size: usize,
    payload: usize,
    /// Payload that there may be, in bytes.
    room: usize,
    /// What the segments' checksums say of their payload.
    sum: Sum,
    /// PSH and FIN of the last one.
    ended: u8,
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It does not follow.
    No,
    /// It follows, and more may.
    Yes,
    /// It follows, and is the last.
    Last,
}

impl Run {
    /// Begins with a segment that lies in one piece; `None` if none can follow it in a packet of `longest` bytes.
    pub fn begin(segment: &[u8], longest: usize) -> Option<Run> {
        let (family, l4, headers) = outline(segment)?;
        let size = segment.len() - headers;
        let room = longest
            .min(u16::MAX.into())
            .checked_sub(headers - ETHERNET)?;
        let plain = segment[l4 + 13] == TCP_ACK && size > 0 && room > size;
        (plain && has_right_header(segment)).then_some(Run {
            family,
            l4,
            headers,
            size,
            payload: size,
            room,
            sum: claimed(segment, l4, headers),
            ended: 0,
        })
    }

    /// The length of the headers that a segment which follows has before its payload, in bytes.
    pub fn headers(&self) -> usize {
        self.headers
    }

    /// Takes the next segment, if it continues the one that the run began with.
    pub fn take(&mut self, first: &[u8], segment: &[u8]) -> Taken {
        if outline(segment) != Some((self.family, self.l4, self.headers)) {
            return Taken::No;
        }
        let size = segment.len() - self.headers;
        let ends = segment[self.l4 + 13] & (TCP_FIN | TCP_PSH);
        let expected = sequence(first, self.l4).wrapping_add(self.payload as u32);
        let follows = sequence(segment, self.l4) == expected
            && (1..=self.size).contains(&size)
            && self.payload + size <= self.room
            && self.is_alike(first, segment)
            && has_right_header(segment);
        if self.ended != 0 || !follows {
            return Taken::No;
        }
        self.payload += size;
        self.ended = ends;
        self.sum.append(claimed(segment, self.l4, self.headers));
        match ends != 0 || size < self.size {
            true => Taken::Last,
            false => Taken::Yes,
        }
    }

    /// Makes the headers of the first segment those of all; gives how many bytes of payload follow its own.
    pub fn finish(&self, first: &mut [u8]) -> usize {
        let more = self.payload - self.size;
        let at = match self.family {
            Family::V4 => 2,
            Family::V6 => 4,
        };
        let length = u16_at(first, ETHERNET + at).expect("an IP header") + more as u16;
        match self.family {
            Family::V4 => set(first, ETHERNET, at, length),
            Family::V6 => put_u16(first, ETHERNET + at, length),
        }
        first[self.l4 + 13] |= self.ended;
        put_u16(first, self.l4 + 16, 0);
        let mut sum = pseudo(first, ETHERNET, self.headers - self.l4 + self.payload);
        sum.add(&first[self.l4..self.headers]);
        sum.append(self.sum);
        put_u16(first, self.l4 + 16, !sum.value());
        more
    }

    /// True if all but lengths, numbers, checksums and what ends a run is equal.
    fn is_alike(&self, first: &[u8], segment: &[u8]) -> bool {
        let l4 = self.l4;
        let same = |from: usize, to: usize| first[from..to] == segment[from..to];
        let ip = match self.family {
            // Without identification, length and checksum.
            Family::V4 => same(0, 16) && same(20, 24) && same(26, l4),
            Family::V6 => same(0, 18) && same(20, l4),
        };
        let flags = segment[l4 + 13] & !(TCP_FIN | TCP_PSH) == TCP_ACK;
        // Ports, acknowledgement, header length; then window, and urgent pointer with all options.
        let tcp = same(l4, l4 + 4) && same(l4 + 8, l4 + 13) && same(l4 + 14, l4 + 16);
        ip && flags && tcp && same(l4 + 18, self.headers)
    }
}

/// The family, where the TCP header starts, and where the payload does, of a whole TCP segment without IP options.
fn outline(segment: &[u8]) -> Option<(Family, usize, usize)> {
    let l3 = ETHERNET;
    let family = family(segment, l3)?;
    let (l4, protocol, length) = match family {
        Family::V4 => {
            let whole = segment.get(l3)? & 0xf == 5 && u16_at(segment, l3 + 6)? & 0x3fff == 0;
            let length = usize::from(u16_at(segment, l3 + 2)?);
            (l3 + 20, whole.then_some(*segment.get(l3 + 9)?)?, length)
        }
        Family::V6 => {
            let length = usize::from(u16_at(segment, l3 + 4)?) + 40;
            (l3 + 40, *segment.get(l3 + 6)?, length)
        }
    };
    let headers = tcp_end(segment, l4)?;
    (protocol == Protocol::TCP.0 && l3 + length == segment.len()).then_some((family, l4, headers))
}

fn sequence(segment: &[u8], l4: usize) -> u32 {
    u32::from_be_bytes(segment[l4 + 4..l4 + 8].try_into().expect("4 bytes"))
}

/// True if IPv4's checksum, which the packet won't have any more, is right.
fn has_right_header(segment: &[u8]) -> bool {
    let mut sum = Sum::default();
    sum.add(&segment[ETHERNET..ETHERNET + 20]);
    family(segment, ETHERNET) == Some(Family::V6) || sum.value() == 0xffff
}

/// The sum of a segment's payload, if its checksum is right.
fn claimed(segment: &[u8], l4: usize, headers: usize) -> Sum {
    let mut rest = pseudo(segment, ETHERNET, segment.len() - l4);
    rest.add(&segment[l4..headers]);
    Sum::of(!rest.value(), segment.len() - headers)
}
