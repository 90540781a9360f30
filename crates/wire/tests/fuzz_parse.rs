//! Any bytes at all through everything that reads and edits packets.
//!
//! Runs under `cargo test` for a second each: over the corpus and random bytes, and over its packets with a few bytes
//! changed. `BOLERO_RANDOM_TEST_TIME_MS` gives it more, and `cargo bolero test any_bytes` a fuzzer's eyes.
//! A seed is a byte, how many eights of bytes are carried in other chunks, and a frame.

use std::time::Duration;

use podway_wire::icmp::{IcmpError, echo_reply, error, may_be_answered};
use podway_wire::neighbour::{advertisement, arp_answer, arp_request, solicitation};
use podway_wire::vxlan::{self, Outer};
use podway_wire::{
    Addr, Content, ETHERNET, Embedded, Family, FlowKey, Fragment, Frame, Icmp, Mac, Parsed,
    Protocol, edit, embedded,
};

/// Room in front of a packet, in bytes.
const HEADROOM: usize = 128;

/// How long each test runs, unless the environment says otherwise.
const TIME: Duration = Duration::from_secs(1);

#[test]
fn any_bytes() {
    bolero::check!()
        .with_test_time(TIME)
        .for_each(|input: &[u8]| {
            if let [carried, bytes @ ..] = input {
                walk(bytes, *carried as usize * 8);
            }
        });
}

#[test]
fn a_few_bytes_changed() {
    let corpus = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/__fuzz__/any_bytes/corpus"
    );
    let mut seeds: Vec<Vec<u8>> = std::fs::read_dir(corpus)
        .expect("the corpus")
        .map(|entry| std::fs::read(entry.expect("a seed").path()).expect("a seed"))
        .collect();
    seeds.sort();
    bolero::check!()
        .with_test_time(TIME)
        .with_type::<(u8, u8, [(u8, u8); 4])>()
        .for_each(|(seed, cut, changes)| {
            let [_, bytes @ ..] = &seeds[*seed as usize % seeds.len()][..] else {
                return;
            };
            let mut bytes = bytes.to_vec();
            // A position beyond the packet changes nothing, so that often there are fewer.
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(*at as usize) {
                    *byte = *value;
                }
            }
            // What is cut off is carried, or missing.
            let here = bytes.len().saturating_sub(*cut as usize / 8);
            let carried = if cut % 2 == 0 { bytes.len() - here } else { 0 };
            walk(&bytes[..here], carried);
        });
}

/// What the path may do with a frame, each on a fresh copy.
fn walk(bytes: &[u8], carried: usize) {
    if let Some(question) = arp_request(bytes) {
        let mut answer = bytes.to_vec();
        arp_answer(&mut answer, &question, Mac::BROADCAST);
        assert_eq!(arp_request(&answer), None);
    }
    let Some(parsed) = read(bytes, carried) else {
        return;
    };
    assert!(parsed.l3 as usize == ETHERNET && parsed.l4 as usize <= bytes.len());
    assert!(parsed.l4 as usize <= parsed.end() && parsed.end() <= bytes.len() + carried);
    for family in [parsed.key.source.family(), parsed.key.target.family()] {
        assert_eq!(family, parsed.family);
    }
    fields(bytes, carried, &parsed);
    translation(bytes, carried, &parsed);
    if let Some(inner) = embedded(bytes, &parsed)
        && parsed.icmp == Icmp::Error
    {
        quote(bytes, carried, &parsed, &inner);
    }
    replies(bytes, carried, &parsed);
    tunnel(bytes, carried, &parsed);
}

fn read(bytes: &[u8], carried: usize) -> Option<Parsed> {
    let mut chunk = bytes.to_vec();
    let frame = Frame::new(&mut chunk, 0, bytes.len(), carried).expect("a frame");
    match Parsed::frame(&frame) {
        Ok(Content::Ip(parsed)) => Some(parsed),
        Ok(Content::Arp) | Err(_) => None,
    }
}

fn fields(bytes: &[u8], carried: usize, parsed: &Parsed) {
    let mut edited = bytes.to_vec();
    let mut expected = *parsed;
    edit::traffic_class(&mut edited, &mut expected, 0xb9);
    assert_eq!(expected.traffic_class, 0xb9);
    if parsed.ttl > 0 {
        edit::decrement_ttl(&mut edited, &expected);
        expected.ttl -= 1;
    }
    assert_eq!(read(&edited, carried), Some(expected));
}

fn translation(bytes: &[u8], carried: usize, parsed: &Parsed) {
    let mut edited = bytes.to_vec();
    let mut there = *parsed;
    there.key = translated(&parsed.key);
    edit::translate(&mut edited, parsed, &there.key);
    assert_eq!(read(&edited, carried), Some(there));
    // What is before the addresses and after the packet is nobody's to edit.
    let end = parsed.end().min(bytes.len());
    assert_eq!(edited[..ETHERNET + 8], bytes[..ETHERNET + 8]);
    assert_eq!(edited[end..], bytes[end..]);
    edit::translate(&mut edited, &there, &parsed.key);
    let sums = sums(parsed.family, parsed.l3, parsed.l4, parsed.key.protocol);
    assert_eq!(one_zero(edited, &sums), one_zero(bytes.to_vec(), &sums));
}

fn quote(bytes: &[u8], carried: usize, outer: &Parsed, inner: &Embedded) {
    assert!(inner.l4 as usize + 8 <= bytes.len().min(outer.end()));
    let mut edited = bytes.to_vec();
    let (mut there, to) = (*outer, translated(&inner.key));
    (there.key.source, there.key.target) = (to.target, to.source);
    let ends = (&there.key.source, &there.key.target);
    edit::translate_error(&mut edited, outer, ends, inner, &to);
    assert_eq!(read(&edited, carried), Some(there));
    let now = embedded(&edited, &there).expect("it is still there");
    assert_eq!(now, Embedded { key: to, ..*inner });
    let back = (&outer.key.source, &outer.key.target);
    edit::translate_error(&mut edited, &there, back, &now, &inner.key);
    let mut sums_of_both = sums(outer.family, outer.l3, outer.l4, outer.key.protocol);
    sums_of_both.extend(sums(outer.family, inner.l3, inner.l4, inner.key.protocol));
    assert_eq!(
        one_zero(edited, &sums_of_both),
        one_zero(bytes.to_vec(), &sums_of_both)
    );
}

fn replies(bytes: &[u8], carried: usize, parsed: &Parsed) {
    let (mut chunk, head, tail) = roomy(bytes);
    if may_be_answered(parsed) {
        let mut frame = Frame::new(&mut chunk, head, tail, carried).expect("a frame");
        let sender = translated(&parsed.key).source;
        let kind = IcmpError::TooBig { mtu: 1400 };
        let made = error(&mut frame, parsed, &sender, kind).expect("room");
        assert_eq!(read(frame.bytes(), 0), Some(made));
        assert_eq!((frame.carried(), frame.len()), (0, made.end()));
        let limit = match parsed.family {
            Family::V4 => 576,
            Family::V6 => 1280,
        };
        assert!(made.length <= limit);
        assert!(bytes[ETHERNET..].starts_with(&frame.bytes()[made.l4 as usize + 8..]));
        if parsed.icmp == Icmp::EchoRequest {
            let mut edited = bytes.to_vec();
            echo_reply(&mut edited, parsed);
            let reply = read(&edited, carried).expect("a reply");
            assert_eq!(reply.key, parsed.key.reverse());
        }
    }
    if let Some(question) = solicitation(bytes, parsed) {
        let (mut chunk, head, tail) = roomy(bytes);
        let mut frame = Frame::new(&mut chunk, head, tail, carried).expect("a frame");
        advertisement(&mut frame, &question, Mac::BROADCAST).expect("room");
        assert_eq!(frame.len(), ETHERNET + 40 + 32);
    }
}

fn tunnel(bytes: &[u8], carried: usize, parsed: &Parsed) {
    if parsed.fragment == Fragment::Whole
        && parsed.key.protocol == Protocol::UDP
        && let Ok(opened) = vxlan::open(bytes, parsed)
    {
        assert!(opened.headers + ETHERNET <= bytes.len() && opened.vni < 1 << 24);
    }
    let (mut chunk, head, tail) = roomy(bytes);
    let mut frame = Frame::new(&mut chunk, head, tail, carried).expect("a frame");
    let key = translated(&parsed.key);
    let outer = Outer {
        target_mac: Mac([2; 6]),
        source_mac: Mac([4; 6]),
        source: key.source,
        target: key.target,
        source_port: 50_000,
        target_port: 4789,
        vni: 0x12_3456,
        traffic_class: parsed.traffic_class,
    };
    vxlan::push(&mut frame, &outer).expect("room");
    let around = read(frame.bytes(), carried).expect("a tunnel packet");
    let opened = vxlan::open(frame.bytes(), &around).expect("opens");
    assert_eq!(opened.vni, outer.vni);
    frame.pull(opened.headers).expect("there");
    assert_eq!(frame.bytes(), bytes);
}

/// The packet in a chunk with room on both sides: the chunk, where it starts, where it ends.
fn roomy(bytes: &[u8]) -> (Vec<u8>, usize, usize) {
    let mut chunk = vec![0xa5; HEADROOM];
    chunk.extend(bytes);
    let tail = chunk.len();
    chunk.resize(tail + HEADROOM, 0x5a);
    (chunk, HEADROOM, tail)
}

/// Another flow that this one may be translated to: ports and identifiers only where it has them.
fn translated(key: &FlowKey) -> FlowKey {
    let (source, target) = match key.source.family() {
        Family::V4 => (Addr::v4([10, 1, 2, 3]), Addr::v4([172, 16, 255, 255])),
        Family::V6 => (Addr::v6([0xfd; 16]), Addr::v6([0x20; 16])),
    };
    let changed = |port: u16| if port == 0 { 0 } else { 40_000 | port & 1 };
    FlowKey {
        source,
        target,
        source_port: changed(key.source_port),
        target_port: changed(key.target_port),
        protocol: key.protocol,
    }
}

/// Where the 16-bit checksums of these headers are.
fn sums(family: Family, l3: u16, l4: u16, protocol: Protocol) -> Vec<usize> {
    let ip = (family == Family::V4).then_some(l3 as usize + 10);
    let transport = match protocol {
        Protocol::TCP => Some(16),
        Protocol::UDP => Some(6),
        Protocol::ICMP | Protocol::ICMPV6 => Some(2),
        _ => None,
    };
    ip.into_iter()
        .chain(transport.map(|at| l4 as usize + at))
        .collect()
}

/// The bytes with all ones for zero in their checksums: a wrong sum may come back as the other zero.
fn one_zero(mut bytes: Vec<u8>, sums: &[usize]) -> Vec<u8> {
    for at in sums {
        if let Some(sum) = bytes.get_mut(*at..at + 2)
            && sum == [0xff, 0xff]
        {
            sum.fill(0);
        }
    }
    bytes
}
