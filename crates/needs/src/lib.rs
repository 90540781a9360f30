//! What a test needs of its machine: a test without it fails, and is skipped only where that was asked for.
//!
//! A skipped test says so on stderr and adds a line to the file that `PODWAY_SKIPPED` names, so that `scripts/test` can tell
//! how many there were. In CI nothing is skipped but what has to be asked for.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

/// True if the test may make namespaces; it is skipped with `PODWAY_UNPRIVILEGED`, and fails without both.
#[must_use]
pub fn root() -> bool {
    if is_root() {
        return true;
    }
    assert!(
        env::var_os("PODWAY_UNPRIVILEGED").is_some(),
        "namespaces need root: run as root, or set PODWAY_UNPRIVILEGED=1 to skip the tests that make some"
    );
    skip("namespaces need root")
}

/// True if the test may make namespaces and this file of a Debian package is there; fails without the file.
#[must_use]
pub fn root_and_file(file: &Path, package: &str) -> bool {
    let may = root();
    assert!(
        !may || file.exists(),
        "{} is not there: install {package} (scripts/setup does)",
        file.display()
    );
    may
}

/// True if this variable asks for a test that takes what most machines don't have.
#[must_use]
pub fn asked_for_by(variable: &str) -> bool {
    env::var_os(variable).is_some() || skip(&format!("{variable} asks for it"))
}

/// True if the folder of test vectors is there; fails in CI without it, and is skipped elsewhere: they are not part of podway.
#[must_use]
pub fn vectors(folder: &Path) -> bool {
    if folder.is_dir() {
        return true;
    }
    let missing = format!(
        "no test vectors in {} (PODWAY_VECTORS names another folder)",
        folder.display()
    );
    assert!(env::var_os("CI").is_none(), "{missing}");
    skip(&missing)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn skip(why: &str) -> bool {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    eprintln!("skipped: {test}: {why}");
    if let Some(file) = env::var_os("PODWAY_SKIPPED") {
        let opened = OpenOptions::new().create(true).append(true).open(file);
        let written = opened.and_then(|mut file| writeln!(file, "{test}: {why}"));
        written.expect("the file that PODWAY_SKIPPED names can be written");
    }
    false
}
