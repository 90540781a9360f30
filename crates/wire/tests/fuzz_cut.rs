//! Any bytes at all cut into parts, and joined: no panic, and what is sound stays what it was.
//!
//! A seed is a byte, how long parts may be in eights of bytes, a byte, how many of the first are not those of a packet but
//! change the others, and a frame. `cargo bolero test cut_and_join` gives it a fuzzer's eyes.

use std::time::Duration;

use podway_wire::cut::{Cut, parts};
use podway_wire::join::{Run, Taken};
use podway_wire::{Content, Fragment, Frame, Parsed};

/// How long the test runs, unless the environment says otherwise.
const TIME: Duration = Duration::from_secs(1);

#[test]
fn cut_and_join() {
    bolero::check!()
        .with_test_time(TIME)
        .for_each(|input: &[u8]| {
            if let [longest, changes, bytes @ ..] = input {
                let count = (usize::from(*changes) % 4 * 2).min(bytes.len());
                let (changes, bytes) = bytes.split_at(count);
                walk(bytes, usize::from(*longest) * 8, changes);
            }
        });
}

fn read(bytes: &[u8]) -> Option<Parsed> {
    let mut copy = bytes.to_vec();
    let length = copy.len();
    let frame = Frame::new(&mut copy, 0, length, 0)?;
    match Parsed::frame(&frame) {
        Ok(Content::Ip(parsed)) => Some(parsed),
        Ok(Content::Arp) | Err(_) => None,
    }
}

fn walk(bytes: &[u8], longest: usize, changes: &[u8]) {
    let Some(parsed) = read(bytes) else {
        return;
    };
    if let Some(cut) = Cut::fragments(&parsed, longest)
        && let Some(parts) = parts(bytes, cut)
    {
        let payload: usize = parts
            .iter()
            .map(|part| part.len() - parsed.l4 as usize)
            .sum();
        assert_eq!(payload, bytes.len() - parsed.l4 as usize);
        for part in parts {
            let part = read(&part);
            assert!(part.is_none_or(|it| it.length as usize <= longest));
        }
    }
    let Some(cut) = Cut::segments(bytes, &parsed, longest) else {
        return;
    };
    let Some(mut segments) = parts(bytes, cut) else {
        return;
    };
    for segment in &segments {
        let read = read(segment).expect("a segment is a packet");
        assert!(read.length as usize <= longest && read.fragment == Fragment::Whole);
    }
    for change in changes.chunks_exact(2) {
        let which = usize::from(change[0]) % segments.len();
        let at = usize::from(change[1]) % segments[which].len();
        segments[which][at] ^= change[0] | 1;
    }
    join(&segments);
}

/// Joins what may be joined to the first.
fn join(segments: &[Vec<u8>]) {
    let Some((first, rest)) = segments.split_first() else {
        return;
    };
    let Some(mut run) = Run::begin(first, 61_000) else {
        return;
    };
    let (mut packet, mut payload) = (first.clone(), Vec::<u8>::new());
    for segment in rest {
        let taken = run.take(first, segment);
        if taken != Taken::No {
            payload.extend(&segment[run.headers()..]);
        }
        if taken != Taken::Yes {
            break;
        }
    }
    assert_eq!(run.finish(&mut packet), payload.len());
    packet.extend(payload);
    let read = read(&packet).expect("what was joined is a packet");
    assert_eq!(read.end(), packet.len());
}
