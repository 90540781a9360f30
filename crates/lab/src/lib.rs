//! Labs: a cluster of nodes, pods and wires as network namespaces, made from ordinary manifests.
//!
//! A node is a namespace with an agent (`podway run`) in it, a pod a namespace that runs its containers' commands, and a
//! bridge in a namespace of its own joins the nodes. Nothing of it touches the machine's own interfaces, and
//! [`down`] finds all of it by name, whatever became of the process that made it.

mod agent;
mod api;
mod check;
mod cluster;
mod down;
mod environment;
mod error;
mod exec;
mod expect;
mod lent;
mod place;
mod policies;
mod probe;
mod process;
mod report;
mod serve;
mod state;
mod status;
mod underlay;
mod up;

pub use api::{ApiService, serve_api};
pub use error::Error;
pub use exec::Target;
pub use place::Place;
pub use process::Recorded;
pub use report::{Cell, Outcome, Report};
pub use serve::{Serve, Service, serve};
pub use status::{NodeStatus, PodStatus, ProcessStatus, Status};
pub use underlay::Underlay;
pub use up::{Source, Up};

/// Brings a lab up; returns when all its servers listen and all tables are in force. A lab that fails is taken down.
pub async fn up(options: &Up) -> Result<(), Error> {
    let options = options.clone();
    apart(move || up::up(&options)).await
}

/// Takes a lab down, or what is left of one; a lab that is not there is fine.
pub async fn down(place: &Place) -> Result<(), Error> {
    let place = place.clone();
    apart(move || down::down(&place)).await
}

/// What a lab is made of, and whether it runs.
pub async fn status(place: &Place) -> Result<Status, Error> {
    let place = place.clone();
    apart(move || status::status(&place)).await
}

/// Becomes a command inside a pod or a node; returns only if that fails.
pub async fn exec(place: &Place, target: &Target, command: &[String]) -> Error {
    let (place, target, command) = (place.clone(), target.clone(), command.to_vec());
    match apart(move || exec::exec(&place, &target, &command)).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Dials every pod and every service from every pod and node, and compares with what the manifests say.
pub async fn check(place: &Place) -> Result<Report, Error> {
    let place = place.clone();
    apart(move || check::check(&place)).await
}

/// Runs blocking work on a thread that it may move into another namespace.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => std::panic::resume_unwind(stopped.into_panic()),
    }
}
