//! Neighbours that the kernel keeps resolved for us: gateways, and those that packets were for.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use podway_intent::LinkAddress;
use rtnetlink::Handle;
use rtnetlink::packet_route::neighbour::NeighbourMessage;

use super::facts::Neighbour;
use super::read;
use crate::NetlinkError;
use crate::ask::{collect, done};
use crate::node::{is_managed, keep};

/// Neighbours beside gateways that are kept: for one more the one that is least worth it is given back.
const KEPT: usize = 512;
/// Neighbours that are taken up in a second at most: a pod that tries a whole range keeps nobody from following routes.
const A_SECOND: u32 = 128;
const SECOND: Duration = Duration::from_secs(1);

/// What the kernel was asked to keep.
#[derive(Debug, Default)]
pub(super) struct Keep {
    /// Gateways of routes.
    gateways: BTreeSet<LinkAddress>,
    /// Those that packets were for, in the order in which they were wanted.
    wanted: VecDeque<LinkAddress>,
    /// Those of the last look that have an Ethernet address.
    resolved: BTreeSet<LinkAddress>,
    /// When the last second began, and how many were taken up in it.
    second: Option<(Instant, u32)>,
}

impl Keep {
    /// Takes a neighbour up; beyond what a second may bring it is left to be wanted again.
    pub(super) async fn want(
        &mut self,
        handle: &Handle,
        at: LinkAddress,
    ) -> Result<(), NetlinkError> {
        if !self.is_below_rate(Instant::now()) {
            return Ok(());
        }
        if !self.wanted.contains(&at) {
            if self.wanted.len() >= KEPT {
                self.make_room(handle).await?;
            }
            self.wanted.push_back(at);
        }
        keep(handle, at.device, at.address).await
    }

    /// Counts one more, and says whether this second may bring it.
    fn is_below_rate(&mut self, now: Instant) -> bool {
        let second = self
            .second
            .filter(|(began, _)| now.duration_since(*began) < SECOND);
        let (began, count) = second.unwrap_or((now, 0));
        self.second = Some((began, count.saturating_add(1)));
        count < A_SECOND
    }

    /// Looks at all neighbours, has those kept that should be, and gives what is known of them. What can't be kept is
    /// tried again at the next look, and said.
    pub(super) async fn look(
        &mut self,
        handle: &Handle,
        gateways: &BTreeSet<LinkAddress>,
        is_uplink: impl Fn(u32) -> bool,
    ) -> Result<(Vec<Neighbour>, Option<String>), NetlinkError> {
        let messages = collect("list neighbours", handle.neighbours().get().execute()).await?;
        let all: Vec<Neighbour> = messages.iter().filter_map(read::neighbour).collect();
        let known: HashMap<LinkAddress, &Neighbour> = all.iter().map(|it| (it.at, it)).collect();
        self.wanted.retain(|at| is_uplink(at.device));
        let there = |at: &&LinkAddress| known.get(*at).is_some_and(|it| it.mac.is_some());
        self.resolved = self.wanted.iter().filter(there).copied().collect();
        let mut problem = None;
        let gateways = gateways.iter().filter(|at| is_uplink(at.device));
        let gateways: BTreeSet<LinkAddress> = gateways.copied().collect();
        for at in gateways.iter().chain(&self.wanted) {
            if !known.get(at).is_some_and(|it| it.is_kept)
                && let Err(error) = keep(handle, at.device, at.address).await
            {
                problem = Some(error.to_string());
            }
        }
        let before = std::mem::replace(&mut self.gateways, gateways);
        for at in before.difference(&self.gateways) {
            if !self.wanted.contains(at) {
                give_back(handle, &messages, *at).await?;
            }
        }
        Ok((all, problem))
    }

    /// Gives one back: one that nobody answered for, or else the one that was wanted first.
    async fn make_room(&mut self, handle: &Handle) -> Result<(), NetlinkError> {
        let unresolved = |at: &LinkAddress| !self.resolved.contains(at);
        let index = self.wanted.iter().position(unresolved).unwrap_or(0);
        let Some(gone) = self.wanted.remove(index) else {
            return Ok(());
        };
        if self.gateways.contains(&gone) {
            return Ok(());
        }
        let all = collect("list neighbours", handle.neighbours().get().execute()).await?;
        give_back(handle, &all, gone).await
    }
}

/// Leaves a neighbour to the kernel, if that keeps it because it was asked to.
async fn give_back(
    handle: &Handle,
    all: &[NeighbourMessage],
    at: LinkAddress,
) -> Result<(), NetlinkError> {
    let is_it = |message: &&NeighbourMessage| {
        is_managed(message) && read::neighbour(message).is_some_and(|it| it.at == at)
    };
    let Some(message) = all.iter().find(is_it) else {
        return Ok(());
    };
    let removal = handle.neighbours().del(message.clone()).execute();
    done(&format!("give the neighbour {} back", at.address), removal).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r1_a_scan_of_a_range_is_taken_up_a_second_at_a_time() {
        let mut keep = Keep::default();
        let begin = Instant::now();
        let taken = |keep: &mut Keep, now| {
            (0..A_SECOND * 2)
                .filter(|_| keep.is_below_rate(now))
                .count()
        };
        assert_eq!(taken(&mut keep, begin), A_SECOND as usize);
        assert_eq!(taken(&mut keep, begin + SECOND / 2), 0);
        assert_eq!(taken(&mut keep, begin + SECOND), A_SECOND as usize);
    }
}
