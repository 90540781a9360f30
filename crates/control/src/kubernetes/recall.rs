//! What an agent before kept, and from when on it counts: not while the server may tell better, but at once when it
//! doesn't answer, and after a moment in any case.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};

use super::Kind;
use super::follow::{Follow, Teller};
use super::kept::{Found, Keeper, Useless, look, replay};
use crate::{Facts, Problem};

/// How long an API server may take to tell of everything before what was kept counts.
const PATIENCE: Duration = Duration::from_secs(2);

/// How far facts are what was kept.
pub(super) struct Recall {
    /// Kinds that the server has not told of.
    unheard: BTreeSet<Kind>,
    origin: Origin,
    /// Why nothing is kept, or what was can't be used; told until the server has told of everything.
    problems: Vec<Problem>,
}

#[derive(Clone, Copy, Debug)]
enum Origin {
    Nothing,
    /// From then on it counts.
    Kept(SystemTime, Instant),
}

impl Recall {
    /// Nothing was kept.
    pub(super) fn nothing() -> Recall {
        Recall {
            unheard: Kind::ALL.into(),
            origin: Origin::Nothing,
            problems: Vec::new(),
        }
    }

    /// A kind was told of.
    pub(super) fn heard(&mut self, kind: Kind, teller: Teller) {
        match teller {
            Teller::Nobody | Teller::File => {}
            Teller::FileAlone => self.count(),
            Teller::Server => {
                self.unheard.remove(&kind);
            }
        }
    }

    /// Returns when what was kept counts though nobody said so; never if it does already.
    pub(super) async fn overdue(&self) {
        match self.origin {
            Origin::Kept(_, due) if !self.counts() => sleep_until(due).await,
            Origin::Kept(..) | Origin::Nothing => std::future::pending().await,
        }
    }

    /// What was kept counts from now on.
    pub(super) fn count(&mut self) {
        if let Origin::Kept(_, due) = &mut self.origin {
            *due = (*due).min(Instant::now());
        }
    }

    /// Whether facts count, if there are of all kinds.
    pub(super) fn counts(&self) -> bool {
        match self.origin {
            Origin::Nothing => true,
            Origin::Kept(_, due) => self.unheard.is_empty() || due <= Instant::now(),
        }
    }

    /// Where facts are from.
    pub(super) fn facts(&self) -> Facts {
        match self.origin {
            Origin::Kept(written, _) if !self.unheard.is_empty() => Facts::Kept(written),
            Origin::Kept(..) | Origin::Nothing => Facts::Told,
        }
    }

    /// What is wrong with the file, until nobody needs it.
    pub(super) fn problems(&self) -> &[Problem] {
        match self.unheard.is_empty() {
            true => &[],
            false => &self.problems,
        }
    }
}

/// Makes known what was kept, and has followers keep what they learn; a file that can't be used is named.
pub(super) fn from_file<const KINDS: usize>(
    path: &Path,
    server: &str,
    mut follows: [Follow; KINDS],
) -> ([Follow; KINDS], Recall) {
    let mut recall = Recall::nothing();
    let problem = |message: String| Problem {
        file: path.display().to_string().into(),
        line: 0,
        object: String::new(),
        field: String::new(),
        message,
    };
    let found = match look(path, server) {
        Ok(found) => Some(found),
        Err(Useless::Absent) => None,
        Err(useless @ (Useless::Foreign | Useless::Unreadable(_))) => {
            recall
                .problems
                .push(problem(format!("facts are not kept: {useless}")));
            return (follows, recall);
        }
        Err(
            useless @ (Useless::Other | Useless::Broken(_) | Useless::Partial | Useless::TooLong),
        ) => {
            recall.problems.push(problem(format!(
                "the facts kept there are ignored: {useless}"
            )));
            None
        }
    };
    if let Some(Found { written, .. }) = found {
        let said = replay(path, server, |line| {
            let of_kind = follows.iter_mut().find(|it| it.kind() == line.kind);
            if let Some(follow) = of_kind {
                follow.recall(line);
            }
        });
        // It was read a moment ago.
        if let Err(useless) = said {
            recall.problems.push(problem(format!(
                "the facts kept there end early: {useless}"
            )));
        }
        recall.origin = Origin::Kept(written, Instant::now() + PATIENCE);
    }
    match Keeper::start(path.to_owned(), server, found.as_ref()) {
        Ok(keeper) => follows.iter_mut().for_each(|it| it.keep(keeper.clone())),
        Err(error) => {
            recall.problems.push(problem(format!(
                "facts can't be kept: {error}: make room there, or set `facts` to another path"
            )));
        }
    }
    (follows, recall)
}
