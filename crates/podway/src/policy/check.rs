//! `podway policy check`: every pod to every pod at every port, from manifests alone.

use std::net::IpAddr;
use std::path::Path;

use podway_wire::Protocol;
use serde::Serialize;
use serde_json::json;

use super::{End, PolicyError, Reach, Said, Verdict, borders};
use crate::arguments::Output;
use crate::lab::Ended;
use crate::show::aligned;

/// What becomes of connections from a pod to ports of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Which.
    #[serde(flatten)]
    pub place: Place,
    /// What becomes of them.
    pub verdict: Verdict,
    /// The rules and isolations that decide.
    pub by: Vec<String>,
}

/// From whom to whom, and how.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The client's `namespace/name`.
    pub from: String,
    /// The server's.
    pub to: String,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// `tcp`, `udp`, `sctp` or `icmp`.
    pub protocol: &'static str,
    /// The first port; 0 without ports.
    #[serde(skip)]
    pub first: u16,
    /// A port, or the first and last of several; `-` without ports.
    pub ports: String,
}

/// A cell that is not the same in two sets of manifests; `None` where the set lacks one of the pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Which.
    #[serde(flatten)]
    pub place: Place,
    /// What became of it.
    pub before: Option<Verdict>,
    /// What becomes of it.
    pub after: Option<Verdict>,
    /// What decides now, or did where nothing does now.
    pub by: Vec<String>,
}

/// The answer to `podway policy check`: all cells, or what differs from another set of manifests.
pub fn check(
    manifests: &Path,
    against: Option<&Path>,
    output: Output,
) -> Result<Ended, PolicyError> {
    let now = Reach::of_manifests(manifests)?;
    let Some(against) = against else {
        let cells = cells(&now, &[]);
        return Ok(Ended::Well(match output {
            Output::Json => json!({ "cells": cells }).to_string(),
            Output::Table => table(&cells),
        }));
    };
    let before = Reach::of_manifests(against)?;
    let changed = changes(&before, &now);
    let text = match output {
        Output::Json => json!({ "changed": changed }).to_string(),
        Output::Table if changed.is_empty() => String::new(),
        Output::Table => table_of_changes(&changed),
    };
    let line = format!(
        "{} cells differ from {}: look whether each is meant",
        changed.len(),
        against.display()
    );
    Ok(match changed.is_empty() {
        true => Ended::Well(text),
        false => Ended::Wrong(text, line),
    })
}

/// Every cell of a cluster; ports that are treated alike are in one.
pub fn cells(reach: &Reach, others: &[&Reach]) -> Vec<Cell> {
    let mut cells: Vec<Cell> = Vec::new();
    for_each(reach, others, |place, last, said| {
        if let Some(before) = cells.last_mut()
            && (before.verdict, &before.by) == (said.verdict, &said.by)
            && joins(&before.place, &place)
        {
            before.place.ports = ports(before.place.first, last);
            return;
        }
        cells.push(Cell {
            place,
            verdict: said.verdict,
            by: said.by,
        });
    });
    cells
}

/// The cells that are not the same in two clusters.
pub fn changes(before: &Reach, now: &Reach) -> Vec<Change> {
    let mut all = std::collections::BTreeMap::new();
    for_each(before, &[now], |place, last, said| {
        all.insert(place, (last, Some(said), None));
    });
    for_each(now, &[before], |place, last, said| {
        all.entry(place).or_insert((last, None, None)).2 = Some(said);
    });
    let mut changes: Vec<Change> = Vec::new();
    for (place, (last, before, after)) in all {
        let verdict = |said: &Option<Said>| said.as_ref().map(|said| said.verdict);
        let (was, is) = (verdict(&before), verdict(&after));
        if was == is {
            continue;
        }
        let by = after.or(before).map(|said| said.by).unwrap_or_default();
        if let Some(last_change) = changes.last_mut()
            && (last_change.before, last_change.after, &last_change.by) == (was, is, &by)
            && joins(&last_change.place, &place)
        {
            last_change.place.ports = ports(last_change.place.first, last);
            continue;
        }
        changes.push(Change {
            place,
            before: was,
            after: is,
            by,
        });
    }
    changes
}

/// Tells each piece of the matrix, in the order of places, with the last port of it.
fn for_each(reach: &Reach, others: &[&Reach], mut tell: impl FnMut(Place, u16, Said)) {
    let clusters: Vec<_> = [reach].iter().chain(others).map(|it| &it.cluster).collect();
    let borders = borders(&clusters);
    for from in reach.ends() {
        for to in reach.ends().iter().filter(|to| to.name != from.name) {
            for (family, source, target) in pairs(from, to) {
                let mut ask = |protocol, name, first, last| {
                    let said = reach.say((from, source), (to, target), protocol, first);
                    let place = Place {
                        from: from.name.to_string(),
                        to: to.name.to_string(),
                        family,
                        protocol: name,
                        first,
                        ports: ports(first, last),
                    };
                    tell(place, last, said);
                };
                let icmp = match family {
                    "ipv4" => Protocol::ICMP,
                    _ => Protocol::ICMPV6,
                };
                ask(icmp, "icmp", 0, 0);
                for (protocol, name) in [
                    (Protocol::SCTP, "sctp"),
                    (Protocol::TCP, "tcp"),
                    (Protocol::UDP, "udp"),
                ] {
                    let mut starts = borders[&protocol].iter().copied().peekable();
                    while let Some(first) = starts.next() {
                        let last = starts.peek().map_or(u16::MAX, |next| next - 1);
                        ask(protocol, name, first, last);
                    }
                }
            }
        }
    }
}

/// The addresses of two pods, of each family that both have.
fn pairs(from: &End, to: &End) -> Vec<(&'static str, IpAddr, IpAddr)> {
    let mut pairs = Vec::new();
    for (name, is_v4) in [("ipv4", true), ("ipv6", false)] {
        let of = |end: &End| {
            end.addresses
                .iter()
                .copied()
                .find(|it| it.is_ipv4() == is_v4)
        };
        if let (Some(source), Some(target)) = (of(from), of(to)) {
            pairs.push((name, source, target));
        }
    }
    pairs
}

/// True if the ports of the second follow on those of the first.
fn joins(one: &Place, next: &Place) -> bool {
    let last: Option<u16> = one
        .ports
        .rsplit('-')
        .next()
        .and_then(|text| text.parse().ok());
    let same = |place: &Place| {
        (
            place.from.clone(),
            place.to.clone(),
            place.family,
            place.protocol,
        )
    };
    last.and_then(|last| last.checked_add(1)) == Some(next.first) && same(one) == same(next)
}

fn ports(first: u16, last: u16) -> String {
    match (first, last) {
        (0, _) => "-".to_owned(),
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

fn table(cells: &[Cell]) -> String {
    let heads = ["from", "to", "family", "protocol", "ports", "verdict", "by"];
    let rows = cells.iter().map(|cell| {
        let verdict = word(Some(cell.verdict));
        row(&cell.place, vec![verdict], &cell.by)
    });
    aligned(&heads, rows.collect())
}

fn table_of_changes(changes: &[Change]) -> String {
    let heads = [
        "from", "to", "family", "protocol", "ports", "before", "after", "by",
    ];
    let rows = changes.iter().map(|change| {
        let verdicts = vec![word(change.before), word(change.after)];
        row(&change.place, verdicts, &change.by)
    });
    aligned(&heads, rows.collect())
}

fn row(place: &Place, verdicts: Vec<String>, by: &[String]) -> Vec<String> {
    let mut row = vec![
        place.from.clone(),
        place.to.clone(),
        place.family.to_owned(),
        place.protocol.to_owned(),
        place.ports.clone(),
    ];
    row.extend(verdicts);
    row.push(match by {
        [] => "-".to_owned(),
        by => by.join(", "),
    });
    row
}

fn word(verdict: Option<Verdict>) -> String {
    match verdict {
        Some(Verdict::Allow) => "allow",
        Some(Verdict::Deny) => "deny",
        None => "-",
    }
    .to_owned()
}
