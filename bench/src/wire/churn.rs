//! Endpoints elsewhere that change while packets are forwarded.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use podway_intent::{Cluster, Compiler, Serving};
use podway_state::Publication;
use podway_tables::Snapshot;

use crate::cluster::{CHANGING, TARGETS, turned};

/// How often a snapshot is published, and how many endpoints changed until then: 10 000 a second.
const PERIOD: Duration = Duration::from_millis(10);
const CHANGES: u32 = 100;

/// What changed until the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Churned {
    pub(crate) endpoints_a_second: f64,
    pub(crate) snapshots_a_second: f64,
}

/// Has one endpoint after the other stop serving and come back, each of another service than the measured ones,
/// compiles and publishes, until `stop`.
pub(crate) fn churn(
    cluster: &mut Cluster,
    compiler: &mut Compiler,
    publication: &mut Publication<Snapshot>,
    stop: &AtomicBool,
) -> Churned {
    let start = Instant::now();
    let (mut changes, mut snapshots) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..CHANGES {
            cluster.apply(change(changes));
            changes += 1;
        }
        publication.publish(compiler.compile(cluster).snapshot);
        publication.collect();
        snapshots += 1;
        // Who is late makes up for it.
        let next = start + PERIOD * snapshots;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let passed = start.elapsed().as_secs_f64();
    Churned {
        endpoints_a_second: f64::from(changes) / passed,
        snapshots_a_second: f64::from(snapshots) / passed,
    }
}

/// Round after round over all services: an endpoint stops, in the next round it is back and stays.
fn change(number: u32) -> podway_intent::Change {
    let services = CHANGING.services - TARGETS;
    let (round, service) = (number / services, TARGETS + number % services);
    let place = round / 2 % CHANGING.endpoints;
    let serving = match round % 2 {
        0 => Serving::No,
        _ => Serving::Ready,
    };
    turned(CHANGING, service, place, serving)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Isolation, facts};

    /// Each change changes tables, and all of them are of other services than the measured ones.
    #[test]
    fn every_change_takes_an_endpoint_away_or_brings_it_back() {
        let mut cluster = facts(CHANGING, Isolation::Isolated);
        let mut compiler = Compiler::new("here");
        let full = ready(&compiler.compile(&cluster).snapshot);
        let services = CHANGING.services - TARGETS;
        for number in 0..services {
            cluster.apply(change(number));
        }
        let less = ready(&compiler.compile(&cluster).snapshot);
        assert_eq!(full - less, services as usize);
        for number in services..2 * services {
            cluster.apply(change(number));
        }
        assert_eq!(ready(&compiler.compile(&cluster).snapshot), full);
    }

    fn ready(snapshot: &Snapshot) -> usize {
        let services = snapshot.services.iter();
        services
            .map(|(_, service)| service.cluster.all().len())
            .sum()
    }
}
