//! Segments joined to packets: what was cut is put together again, and nothing else is.

use podway_wire::Family;
use podway_wire::cut::{Cut, parts};
use podway_wire::join::{Run, Taken};
use proptest::prelude::*;

use crate::cutting::{Receiver, Segment, bytes_of, read, seen, segments};

const CWR: u8 = 128;
const ECE: u8 = 64;
const LONGEST: usize = 61_000;

/// Joins what may be joined, always with what comes right before, as an edge does.
fn joined(segments: &[Vec<u8>], longest: usize) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut at = 0;
    while at < segments.len() {
        let mut first = segments[at].clone();
        at += 1;
        let Some(mut run) = Run::begin(&first, longest) else {
            packets.push(first);
            continue;
        };
        let mut payload: Vec<u8> = Vec::new();
        while at < segments.len() {
            let taken = run.take(&first, &segments[at]);
            if taken == Taken::No {
                break;
            }
            payload.extend(&segments[at][run.headers()..]);
            at += 1;
            if taken == Taken::Last {
                break;
            }
        }
        if !payload.is_empty() {
            assert_eq!(run.finish(&mut first), payload.len());
            first.extend(payload);
        }
        packets.push(first);
    }
    packets
}

proptest! {
    #[test]
    fn what_was_cut_is_joined_to_what_it_was(segment in segments(), longest in 100_usize..2_000) {
        let segment = Segment { flags: segment.flags & !(CWR | ECE), ..segment };
        let whole = bytes_of(&segment);
        let cut = Cut::segments(&whole, &read(&whole), longest).expect("room");
        let together = joined(&parts(&whole, cut).expect("sound"), LONGEST);
        prop_assert_eq!(together.len(), 1);
        let (mut before, after) = (seen(&whole), seen(&together[0]));
        before.identification = after.identification;
        prop_assert_eq!(format!("{before:?}"), format!("{after:?}"));
    }

    #[test]
    fn any_mix_of_segments_carries_the_same_streams(
        one in segments(), other in segments(), longest in 100_usize..2_000, limit in 1_000_usize..20_000,
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..60), lost in any::<u64>(),
    ) {
        let mut all = Vec::new();
        for segment in [&one, &other] {
            let whole = bytes_of(segment);
            let cut = Cut::segments(&whole, &read(&whole), longest).expect("room");
            all.push(parts(&whole, cut).expect("sound"));
        }
        // In order mostly, with some exchanged, some twice, some not at all.
        let mut mixed: Vec<Vec<u8>> = all.concat();
        for pair in order.chunks(2) {
            let count = mixed.len();
            let at = pair[0].index(count);
            match pair {
                [_, with] => mixed.swap(at, with.index(count)),
                _ => mixed.insert(at, mixed[at].clone()),
            }
        }
        if let Some(at) = (lost as usize).checked_rem(mixed.len() * 2).filter(|at| *at < mixed.len()) {
            mixed.remove(at);
        }
        let together = joined(&mixed, limit);
        let streams = |packets: &[Vec<u8>]| {
            [&one, &other].map(|segment| {
                let mut receiver = Receiver::default();
                for packet in packets {
                    let seen = seen(packet);
                    let distance = seen.sequence.wrapping_sub(segment.sequence) as usize;
                    let same = packet[12..14] == bytes_of(segment)[12..14];
                    if same && distance < segment.payload.len() && seen.options == segment.options {
                        receiver.take(segment.sequence, &seen);
                    }
                }
                receiver.held()
            })
        };
        // Both have one key: overlapping streams of one family would be one stream with two contents.
        let apart = one.family != other.family || one.options != other.options;
        if apart {
            prop_assert_eq!(streams(&mixed), streams(&together));
        }
        let bytes = |packets: &[Vec<u8>]| packets.iter().map(|it| seen(it).payload.len()).sum::<usize>();
        prop_assert_eq!(bytes(&mixed), bytes(&together));
        prop_assert!(together.iter().all(|it| it.len() - 14 <= limit.max(longest)));
    }

    #[test]
    fn d5_a_wrong_checksum_stays_wrong(
        segment in segments(), at in any::<prop::sample::Index>(), by in 1_u8..255,
    ) {
        let segment = Segment { flags: segment.flags & !(CWR | ECE), ..segment };
        let whole = bytes_of(&segment);
        let cut = Cut::segments(&whole, &read(&whole), 576).expect("room");
        let mut all = parts(&whole, cut).expect("sound");
        let hit = at.index(all.len());
        let end = all[hit].len() - 1;
        all[hit][end] = all[hit][end].wrapping_add(by);
        let together = joined(&all, LONGEST);
        let right = |packet: &Vec<u8>| std::panic::catch_unwind(|| seen(packet)).is_ok();
        prop_assert!(!together.iter().all(right));
    }
}

#[test]
fn what_differs_in_anything_is_left_alone() {
    let segment = Segment {
        family: Family::V4,
        sequence: 9,
        flags: 16,
        options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        payload: vec![7; 1_000],
    };
    let whole = bytes_of(&segment);
    let cut = Cut::segments(&whole, &read(&whole), 52 + 500).expect("room");
    let all = parts(&whole, cut).expect("sound");
    assert_eq!(joined(&all, LONGEST).len(), 1);
    // MACs, DSCP, ECN, TTL, addresses, IP checksum, ports, sequence, acknowledgement, flags, window, timestamps.
    for at in [0, 6, 15, 22, 24, 29, 33, 35, 37, 41, 45, 47, 48, 55, 60, 65] {
        let mut other = all.clone();
        other[1][at] ^= if at == 47 { 2 } else { 1 };
        assert_eq!(joined(&other, LONGEST).len(), 2, "byte {at}");
    }
    assert_eq!(joined(&all, 1_051).len(), 2, "too long");
    assert_eq!(joined(&all, 1_052).len(), 1);
    let mut longer = all.clone();
    longer.swap(0, 1);
    assert_eq!(joined(&longer, LONGEST).len(), 2, "out of order");
}
