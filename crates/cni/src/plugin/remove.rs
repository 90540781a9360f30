//! DEL and GC: what was made is taken away, however little is left or known of it.

use podway_host::Namespace;

use super::config::Config;
use super::error::{CniError, Code, PATIENCE};
use crate::agent::{Detach, Request, ask};
use crate::{Record, State, Wired, unwire};

/// Takes a container's network away; what is not there is fine.
pub(super) fn delete(wired: &Wired, pod: Option<String>, config: &Config) -> Result<(), CniError> {
    let state = State::at(&config.state);
    // A record that can't be read goes like any other: its names follow from the container.
    let record = state.find(wired).ok().flatten();
    let pod = record.map(|record| record.pod).or(pod);
    tear_down(wired, pod.as_deref(), config)
}

/// Takes away all containers' networks that the runtime doesn't list, and goes on when one can't be.
pub(super) fn collect(config: &Config) -> Result<(), CniError> {
    let Some(valid) = &config.valid else {
        let text = "cni.dev/valid-attachments is missing, and so is cni.dev/attachments: GC takes away what they don't list";
        return Err(CniError::new(Code::Config, text));
    };
    let is_left = |record: &Record| record.network != config.name || valid.contains(&record.wired);
    let mut failures = Vec::new();
    for record in State::at(&config.state).each()? {
        let removed = match record {
            Ok(record) if is_left(&record) => Ok(()),
            Ok(record) => tear_down(&record.wired, Some(&record.pod), config),
            Err(error) => Err(error.into()),
        };
        failures.extend(removed.err());
    }
    let Some(first) = failures.first() else {
        return Ok(());
    };
    let text = match failures.len() {
        1 => first.text.clone(),
        count => format!("{} (and {} more)", first.text, count - 1),
    };
    Err(CniError::new(first.code, text))
}

/// Closes the port, removes the wire, gives the addresses back, in this order; each may have been done before. An
/// agent that is down holds nothing up: it finds the wire gone when it comes back.
pub(super) fn tear_down(wired: &Wired, pod: Option<&str>, config: &Config) -> Result<(), CniError> {
    let interface = wired.interface();
    if let Some(pod) = pod {
        let detach = Request::Detach(Detach {
            pod: pod.to_owned(),
            interface: Some(interface.clone()),
        });
        let _ = ask(&config.socket, &detach, PATIENCE);
    }
    unwire(&Namespace::own()?, &interface)?;
    State::at(&config.state).forget(wired)?;
    Ok(())
}
