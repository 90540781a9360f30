//! Results that are kept in the repository: the report, the table of goals, and plots.

mod goals;
mod plots;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use self::goals::{Goal, goals};
use crate::machine::Machine;
use crate::report::Report;

/// A name of results: what a file may be called anywhere.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    match !text.is_empty() && !text.starts_with('.') && text.chars().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err("give a name of letters, digits, `-`, `_` and `.`".to_owned()),
    }
}

/// Saves several reports as one.
pub(crate) fn join(name: &str, reports: &[PathBuf], directory: &Path) -> anyhow::Result<()> {
    let mut all: Option<Report> = None;
    for path in reports {
        let next = Report::read(path)?;
        all = Some(match all {
            None => next,
            Some(before) => before
                .with(next)
                .with_context(|| path.display().to_string())?,
        });
    }
    let report = all.context("no reports were given")?;
    for path in save(&report, directory, name)? {
        println!("saved as {}", path.display());
    }
    Ok(())
}

/// Writes the report, its table of goals and its plots; where they are.
pub(crate) fn save(report: &Report, directory: &Path, name: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = vec![directory.join(format!("{name}.json"))];
    report.write(&paths[0])?;
    let mut plots = Vec::new();
    for (what, drawn) in [
        ("flows", plots::flows(report)?),
        ("latency", plots::latency(report)?),
        ("bulk", plots::bulk(report)?),
    ] {
        let Some(svg) = drawn else { continue };
        let file = format!("{name}-{what}.svg");
        fs::write(directory.join(&file), svg)
            .with_context(|| format!("{file}: cannot write it"))?;
        paths.push(directory.join(&file));
        plots.push((what, file));
    }
    let path = directory.join(format!("{name}.md"));
    fs::write(&path, page(report, name, &plots))
        .with_context(|| format!("{}: cannot write it", path.display()))?;
    paths.push(path);
    Ok(paths)
}

/// The page: where it was measured, goals, plots, and all tables.
fn page(report: &Report, name: &str, plots: &[(&str, String)]) -> String {
    let Machine {
        cpu,
        cores,
        kernel,
        memory_mib,
        commit,
        profile,
        busy_percent,
        ..
    } = &report.machine;
    let mut page = format!(
        "# {name}\n\n{cpu}, {cores} cores, {memory_mib} MiB, Linux {kernel}; commit {commit} ({profile}), {busy_percent:.0} % busy before.\n{}.\n",
        report.settings
    );
    for (peer, version) in &report.peers {
        writeln!(page, "{peer}: {version}.").expect("a string takes all");
    }
    page += "\nThe value is the median of rounds, the spread from the least to the greatest in per cent of it; ratios are of one round.\n\n";
    page += &table(&goals(report));
    for (what, file) in plots {
        writeln!(page, "\n![{what}]({file})").expect("a string takes all");
    }
    writeln!(page, "\n## All figures\n\n```text\n{}```", report.text())
        .expect("a string takes all");
    page
}

/// The goals as a table of Markdown.
fn table(goals: &[Goal]) -> String {
    let mut table = "| what | goal | value | spread | rounds | beside it | reached |\n|---|---|---|---|---|---|---|\n".to_owned();
    for goal in goals {
        let [value, spread, rounds, reached] = match goal.summary() {
            Ok(it) => [
                goal.number(it.median),
                format!("{:.1} %", it.spread_percent),
                goal.figures.len().to_string(),
                if goal.is_reached(it.median) {
                    "yes"
                } else {
                    "**no**"
                }
                .to_owned(),
            ],
            Err(why) => [
                why,
                "-".to_owned(),
                "-".to_owned(),
                "not measured".to_owned(),
            ],
        };
        writeln!(
            table,
            "| {} | {} | {value} | {spread} | {rounds} | {} | {reached} |",
            goal.what,
            goal.bound_text(),
            goal.beside
        )
        .expect("a string takes all");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::goals::Bound;

    #[test]
    fn names_are_files_of_one_folder() {
        assert_eq!(name("2026-11_a.b"), Ok("2026-11_a.b".to_owned()));
        for bad in ["", "../a", "a/b", ".hidden", "a b"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_table_says_what_is_reached_and_what_was_not_measured() {
        let goal = |figures: &[f64], bound| Goal {
            what: "this".to_owned(),
            bound,
            unit: "ns",
            figures: figures.to_vec(),
            beside: "that 7".to_owned(),
            missing: "no such thing".to_owned(),
        };
        let table = table(&[
            goal(&[44.0, 43.0, 45.0], Bound::AtMost(45.0)),
            goal(&[0.9], Bound::AtLeast(0.97)),
            goal(&[], Bound::AtLeast(1.0)),
        ]);
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| this | ≤ 45 ns | 44.0 ns | 4.5 % | 3 | that 7 | yes |",
                "| this | ≥ 0.97 ns | 0.900 ns | 0.0 % | 1 | that 7 | **no** |",
                "| this | ≥ 1 ns | no such thing | - | - | that 7 | not measured |",
            ]
        );
    }

    #[test]
    fn a_report_without_figures_has_all_goals_and_no_plots() {
        let report = Report::empty(Machine::here());
        let folder = tempfile::tempdir().expect("a folder");
        let paths = save(&report, folder.path(), "none").expect("saved");
        assert_eq!(paths.len(), 2);
        let page = fs::read_to_string(&paths[1]).expect("the page");
        assert_eq!(page.matches("not measured |").count(), goals(&report).len());
    }
}
