//! podway-cni: the CNI plugin. A container runtime says what it wants by environment and standard input.
//! It is built with podway, which installs it, and uses nothing of it.

use std::env;
use std::io::{Read, Write, stdin, stdout};
use std::process::ExitCode;

use podway_cni::plugin::{self, INPUT_LIMIT};

fn main() -> ExitCode {
    let mut input = Vec::new();
    // Nothing to read is an empty configuration, which is refused with the right words.
    let _ = stdin().lock().take(INPUT_LIMIT + 1).read_to_end(&mut input);
    let answer = plugin::run(|name| env::var_os(name), &input);
    if let Some(value) = &answer.output {
        let _ = writeln!(stdout().lock(), "{value:#}");
    }
    ExitCode::from(answer.exit)
}
