//! What `podway-bench run --only` takes, and what that stands for.

use std::str::FromStr;

use clap::ValueEnum;

use crate::pipeline::Kind;
use crate::wire::System;

/// A name that `--only` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// Times of all kinds.
    Pipeline,
    /// Instructions of all kinds.
    Instructions,
    /// All systems.
    Wire,
    /// A part of its own.
    Part(Part),
    /// Times of one kind.
    Kind(Kind),
    /// One system.
    System(System),
}

/// What is measured as a whole or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// What policies cost.
    Policies,
    /// What following a large cluster costs.
    Cluster,
    /// What an idle node, pods and flows cost.
    Footprint,
    /// How long a packet and a connection take.
    Latency,
    /// TCP streams, and HTTP requests.
    Bulk,
}

/// What a run measures.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    pub(crate) timed: Vec<Kind>,
    pub(crate) counted: Vec<Kind>,
    /// On the wire.
    pub(crate) systems: Vec<System>,
    /// By those parts that compare systems: all of them if none is named.
    pub(crate) compared: Vec<System>,
    pub(crate) parts: Vec<Part>,
}

impl Chosen {
    /// What the names stand for; all of it without names.
    pub(crate) fn of(names: &[Name], quick: bool) -> Chosen {
        let quickly = |kind: &&Kind| !quick || **kind != Kind::MissLarge;
        let kinds: Vec<Kind> = Kind::ALL.iter().filter(quickly).copied().collect();
        let systems = System::ALL.to_vec();
        if names.is_empty() {
            return Chosen {
                timed: kinds.clone(),
                counted: kinds,
                compared: systems.clone(),
                systems,
                parts: match quick {
                    true => Vec::new(),
                    false => Part::value_variants().to_vec(),
                },
            };
        }
        let mut chosen = Chosen::default();
        for name in names {
            match name {
                Name::Pipeline => chosen.timed.clone_from(&kinds),
                Name::Instructions => chosen.counted.clone_from(&kinds),
                Name::Wire => chosen.systems.clone_from(&systems),
                Name::Part(part) => chosen.parts.push(*part),
                Name::Kind(kind) => chosen.timed.push(*kind),
                Name::System(system) => chosen.systems.push(*system),
            }
        }
        if chosen.has(Part::Latency) || chosen.has(Part::Bulk) {
            // Systems that are named beside such a part are named for it.
            chosen.compared = match (chosen.systems.is_empty(), names.contains(&Name::Wire)) {
                (true, _) => systems,
                (false, true) => chosen.systems.clone(),
                (false, false) => std::mem::take(&mut chosen.systems),
            };
        }
        chosen
    }

    /// True if a part is measured.
    pub(crate) fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(name: &str) -> Result<Name, String> {
        match name {
            "pipeline" => return Ok(Name::Pipeline),
            "instructions" => return Ok(Name::Instructions),
            "wire" => return Ok(Name::Wire),
            _ => {}
        }
        let part = || <Part as ValueEnum>::from_str(name, false).map(Name::Part);
        let kind = || <Kind as ValueEnum>::from_str(name, false).map(Name::Kind);
        let system = || <System as ValueEnum>::from_str(name, false).map(Name::System);
        part()
            .or_else(|_| kind())
            .or_else(|_| system())
            .map_err(|_| {
                let parts = Part::value_variants().iter();
                let parts =
                    parts.filter_map(|part| Some(part.to_possible_value()?.get_name().to_owned()));
                let kinds = Kind::ALL.iter().map(Kind::to_string);
                let systems = System::ALL.iter().map(System::to_string);
                let names: Vec<_> = parts.chain(kinds).chain(systems).collect();
                format!("give pipeline, instructions, wire, {}", names.join(", "))
            })
    }
}
