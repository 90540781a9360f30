//! The CNI plugin, specification 1.1.0: what a runtime asks by environment and configuration, and what it is answered.

mod add;
mod check;
mod config;
mod environment;
mod error;
mod loopback;
mod remove;
mod result;
mod status;
#[cfg(test)]
mod tests;
mod version;

use std::ffi::OsString;

use serde_json::{Value, json};

use self::config::{Config, Strictness};
use self::environment::{Command, Environment};
use self::error::CniError;

pub use self::error::Code;
pub use self::loopback::LOOPBACK;
pub use self::version::Version;

/// The longest configuration in bytes.
pub const INPUT_LIMIT: u64 = 1 << 20;

/// What the runtime is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What standard output gets, if anything.
    pub output: Option<Value>,
    /// The exit code.
    pub exit: u8,
}

/// Does what the environment and the configuration on standard input ask.
pub fn run(variable: impl Fn(&str) -> Option<OsString>, input: &[u8]) -> Answer {
    match answer(&variable, input) {
        Ok(output) => Answer { output, exit: 0 },
        Err(error) => {
            let version = config::version_of(input).unwrap_or(Version::NEWEST);
            Answer {
                output: Some(json!({
                    "cniVersion": version.text(),
                    "code": error.code.number(),
                    "msg": error.text,
                })),
                exit: 1,
            }
        }
    }
}

fn answer(
    variable: &dyn Fn(&str) -> Option<OsString>,
    input: &[u8],
) -> Result<Option<Value>, CniError> {
    let environment = Environment { variable };
    let command = environment.command()?;
    if config::plugin_of(input).is_some_and(|it| it == LOOPBACK) {
        return loopback::answer(command, &environment, input);
    }
    let read = |strictness| Config::read(input, strictness);
    match command {
        Command::Version => version::versions(input).map(Some),
        Command::Add => {
            let container = environment.container_to_add()?;
            add::add(&container, &read(Strictness::Strict)?).map(Some)
        }
        Command::Check => {
            let container = environment.container_to_add()?;
            let config = read(Strictness::Strict)?;
            config.since("CHECK", Version::V0_4_0)?;
            check::check(&container, &config).map(|()| None)
        }
        Command::Delete => {
            let wired = environment.wired()?;
            remove::delete(&wired, environment.pod().ok(), &read(Strictness::Lenient)?)
                .map(|()| None)
        }
        Command::Collect => {
            let config = read(Strictness::Lenient)?;
            config.since("GC", Version::V1_1_0)?;
            remove::collect(&config).map(|()| None)
        }
        Command::Status => {
            let config = read(Strictness::Strict)?;
            config.since("STATUS", Version::V1_1_0)?;
            status::status(&config).map(|()| None)
        }
    }
}
