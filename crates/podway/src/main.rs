//! podway: a Kubernetes node dataplane in userspace.

use std::fs::File;
use std::io::{BufReader, BufWriter, IsTerminal, Write, stderr, stdin, stdout};
use std::process::ExitCode;

use anyhow::Error;
use clap::Parser;
use clap::error::ErrorKind;
use podway::agent;
use podway::arguments::{Arguments, Cni, Command, Explain, Lab, Policy, one_line};
use podway::config::Config;
use podway::explain::{self, ExplainError, Explainer};
use podway::lab::{self, Ended};
use podway::policy::{self, PolicyError, Subjects};
use podway::show::show;
use podway_cni::Install;
use tracing_subscriber::EnvFilter;

/// What was checked does not hold, or a command failed.
const FAILED: u8 = 1;
/// Bad usage or input.
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.exit_code() == 0 => error.exit(),
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return fail(BAD_INPUT, &"a command is missing: see `podway --help`");
        }
        Err(error) => return fail(BAD_INPUT, &one_line(&error)),
    };
    log(&arguments.command);
    match arguments.command {
        Command::Run(run) => match Config::read(&run.config, run.node.as_deref()) {
            Ok(config) => done(agent::run(config)),
            Err(error) => fail(BAD_INPUT, &error),
        },
        Command::Show(it) => match show(it.topic, &it.socket, it.output) {
            Ok(text) => {
                print(&text);
                ExitCode::SUCCESS
            }
            Err(error) => fail(BAD_INPUT, &error),
        },
        Command::Explain(it) => match explain(&it) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(BAD_INPUT, &error),
        },
        Command::Lab(command) => lab(command),
        Command::Policy(command) => match policy(command) {
            Ok(ended) => end(ended),
            Err(error) => fail(BAD_INPUT, &error),
        },
        Command::Cni(command) => done(cni(command)),
    }
}

fn cni(command: Cni) -> Result<(), Error> {
    let Cni::Install {
        bin_dir,
        conf_dir,
        socket,
        state_dir,
    } = command;
    let written = podway_cni::install(&Install {
        program: std::env::current_exe()?.with_file_name("podway-cni"),
        bin_dir,
        conf_dir,
        socket,
        state_dir,
    })?;
    for path in written {
        print(&format!("wrote {}", path.display()));
    }
    Ok(())
}

fn lab(command: Lab) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILED, &error),
    };
    match runtime.block_on(lab::run(command)) {
        Ok(ended) => end(ended),
        Err(error) => fail(error.exit_code(), &error),
    }
}

fn policy(command: Policy) -> Result<Ended, PolicyError> {
    match command {
        Policy::Check {
            manifests,
            against,
            output,
        } => policy::check(&manifests, against.as_deref(), output),
        Policy::Suggest {
            manifests,
            flows,
            all,
        } => {
            let subjects = match all {
                true => Subjects::All,
                false => Subjects::Seen,
            };
            policy::suggest(&manifests, &flows, subjects).map(Ended::Well)
        }
    }
}

fn end(ended: Ended) -> ExitCode {
    match ended {
        Ended::Well(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Ended::Wrong(text, line) => {
            print(&text);
            fail(FAILED, &line)
        }
    }
}

/// Prints an answer and ends its line; a reader that has gone away is no fault of ours.
fn print(text: &str) {
    let end = match text {
        "" => "",
        text if text.ends_with('\n') => "",
        _ => "\n",
    };
    let _ = write!(stdout().lock(), "{text}{end}");
}

fn explain(asked: &Explain) -> Result<(), ExplainError> {
    let explainer = Explainer::of_manifests(&asked.manifests, &asked.node, asked.tunnel)?;
    let mut output = BufWriter::new(stdout().lock());
    if let Some(packet) = &asked.packet {
        let answer = explain::one(&explainer, packet)?;
        writeln!(output, "{answer}").map_err(ExplainError::Output)?;
    }
    let answered = match &asked.packets {
        None => Ok(()),
        Some(path) if path.as_os_str() == "-" => {
            explain::many(&explainer, stdin().lock(), "-", &mut output)
        }
        Some(path) => {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|problem| ExplainError::File {
                path: name.clone(),
                problem,
            })?;
            explain::many(&explainer, BufReader::new(file), &name, &mut output)
        }
    };
    output.flush().map_err(ExplainError::Output)?;
    answered
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

/// Logs go to standard error; `RUST_LOG` says how much of them.
///
/// Otherwise an agent says what it does, without the client's line for each request that failed: what an API server that
/// is away means is said once. Other commands say only what they leave out, in plain words.
fn log(command: &Command) {
    let is_agent = matches!(command, Command::Run(_));
    let usual = match is_agent {
        true => "info,kube_client=off",
        false => "warn,kube_client=off",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(stderr().is_terminal())
        .with_writer(stderr);
    match is_agent {
        true => log.init(),
        false => log.without_time().with_target(false).init(),
    }
}
