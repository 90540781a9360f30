//! podway: a Kubernetes node dataplane in userspace.

use std::process::ExitCode;

use anyhow::Error;
use clap::Parser;
use clap::error::ErrorKind;
use podway::agent;
use podway::arguments::{Arguments, Command, one_line};
use podway::config::Config;
use podway::show::show;
use tracing_subscriber::EnvFilter;

/// What was checked does not hold, or a command failed.
const FAILED: u8 = 1;
/// Bad usage or input.
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(help)
            if matches!(
                help.kind(),
                ErrorKind::DisplayHelp
                    | ErrorKind::DisplayVersion
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            ) =>
        {
            help.exit()
        }
        Err(error) => return fail(BAD_INPUT, &one_line(&error)),
    };
    match arguments.command {
        Command::Run(run) => {
            log();
            match Config::read(&run.config) {
                Ok(config) => done(agent::run(config)),
                Err(error) => fail(BAD_INPUT, &error),
            }
        }
        Command::Show(it) => match show(it.topic, &it.socket, it.output) {
            Ok(text) => {
                print!("{text}");
                if !text.ends_with('\n') {
                    println!();
                }
                ExitCode::SUCCESS
            }
            Err(error) => fail(BAD_INPUT, &error),
        },
        Command::Explain(_) => fail(BAD_INPUT, &"explain: not built yet"),
        Command::Lab(_) => fail(BAD_INPUT, &"lab: not built yet"),
    }
}

fn done(outcome: Result<(), impl Into<Error>>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, &error.into()),
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    let text = error.to_string().replace('\n', " ");
    eprintln!("podway: {text}");
    ExitCode::from(code)
}

/// Logs go to standard error; `RUST_LOG` says how much of them, `info` if it is not set.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
