//! `podway lab`: the command line's words for the lab.

use std::fmt::Display;
use std::time::Duration;

use podway_lab::{ApiService, Error, Place, Report, Serve, Service, Target, Up};
use serde::Serialize;

use crate::arguments::{self, Lab, Output};

/// How a lab command ended.
#[derive(Debug)]
pub enum Ended {
    /// Well; this is to be printed.
    Well(String),
    /// A check does not hold: what to print, and the line that says so.
    Wrong(String, String),
}

/// Runs a lab command to its end; the error knows its exit code.
pub async fn run(command: Lab) -> Result<Ended, Error> {
    let place = Place::default();
    match command {
        Lab::Up {
            manifests,
            source,
            underlay_mtu,
            pod_mtu,
            tunnel,
            underlay,
            workers,
            uplink,
            timeout,
            external_ips,
        } => {
            let up = Up {
                source: match source {
                    arguments::Source::Directory => podway_lab::Source::Directory,
                    arguments::Source::Kubernetes => podway_lab::Source::Kubernetes,
                },
                underlay_mtu,
                pod_mtu,
                tunnel,
                underlay: match underlay {
                    arguments::Underlay::One => podway_lab::Underlay::One,
                    arguments::Underlay::Routed => podway_lab::Underlay::Routed,
                    arguments::Underlay::Wire => podway_lab::Underlay::Wire,
                },
                workers,
                uplinks: uplink.into_iter().collect(),
                timeout: Duration::from_secs(timeout.into()),
                external_ips,
                ..Up::new(manifests)
            };
            podway_lab::up(&up).await?;
            Ok(Ended::Well(String::new()))
        }
        Lab::Down => {
            podway_lab::down(&place).await?;
            Ok(Ended::Well(String::new()))
        }
        Lab::Status { output } => {
            let status = podway_lab::status(&place).await?;
            Ok(Ended::Well(printed(&status, output)))
        }
        Lab::Exec { target, command } => Err(exec(&place, &target, &command).await),
        Lab::Check { output } => {
            let report = podway_lab::check(&place).await?;
            Ok(judged(&report, output))
        }
        Lab::Serve { kind, port, bind } => {
            let serve = Serve {
                service: match kind {
                    arguments::Serve::UdpEcho => Service::UdpEcho,
                    arguments::Serve::TcpEcho => Service::TcpEcho,
                },
                address: bind,
                port,
            };
            match podway_lab::serve(&serve).await? {}
        }
        Lab::ApiServer { manifests, bind } => {
            let service = ApiService {
                manifests: &manifests,
                address: bind,
                place: &place,
            };
            match podway_lab::serve_api(service).await? {}
        }
    }
}

async fn exec(place: &Place, target: &Target, command: &[String]) -> Error {
    podway_lab::exec(place, target, command).await
}

fn judged(report: &Report, output: Output) -> Ended {
    let text = printed(report, output);
    match report.wrong {
        0 => Ended::Well(text),
        wrong => {
            let all = report.cells.len();
            let line = format!(
                "{wrong} of {all} cells are not as the manifests say: ask `podway explain`, and `podway show counters` on the nodes"
            );
            Ended::Wrong(text, line)
        }
    }
}

fn printed<T: Display + Serialize>(value: &T, output: Output) -> String {
    match output {
        Output::Table => value.to_string(),
        Output::Json => serde_json::to_string(value).expect("strings and numbers"),
    }
}
