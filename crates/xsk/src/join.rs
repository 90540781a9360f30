//! Joining segments of one flow as they are sent to a pod: their payload stays where it is, chained to the first.

use podway_engine::{Packet, Parts, Verdict};
use podway_wire::join::{Run, Taken};

use crate::edge::WorkerEdge;
use crate::port::PARTS;

impl WorkerEdge {
    /// Joins the packets at the front that belong together into the first; how many these are, at least one.
    pub(crate) fn join(&mut self, packets: &mut [Packet<'_>], longest: usize) -> usize {
        let Some((first, rest)) = packets.split_first_mut() else {
            return 1;
        };
        let Verdict::Transmit(target) = first.verdict else {
            return 1;
        };
        let lies_whole = first.frame.carried() == 0;
        let Some(mut run) = lies_whole
            .then(|| Run::begin(first.frame.bytes(), longest))
            .flatten()
        else {
            return 1;
        };
        let (place, chunk) = self.chunk_of(first);
        let (mut last, mut count) = (chunk, 1);
        for next in rest.iter().take(PARTS as usize - 1) {
            let may = next.verdict == first.verdict && next.frame.carried() == 0;
            if !may || !matches!(next.parts, Parts::Joined { .. }) {
                break;
            }
            let (next_place, next_chunk) = self.chunk_of(next);
            if next_place != place {
                break;
            }
            let taken = run.take(first.frame.bytes(), next.frame.bytes());
            if taken == Taken::No {
                break;
            }
            let frames = &mut self.pools[place].frames;
            if count == 1 {
                frames.cut(chunk);
            }
            let payload = next.frame.bytes().len() - run.headers();
            frames.cut(next_chunk);
            frames.note(next_chunk, next.frame.head() + run.headers(), payload);
            frames.link(last, next_chunk);
            (last, count) = (next_chunk, count + 1);
            if taken == Taken::Last {
                break;
            }
        }
        if count > 1 {
            let more = run.finish(first.frame.bytes_mut());
            first.frame.carry(more);
            if let Some(port) = self.ports.get_mut(usize::from(target.0)) {
                port.counted.joined_packets += 1;
                port.counted.joined_parts += count as u64;
            }
        }
        count
    }
}
