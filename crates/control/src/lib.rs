//! Sources of intent: what a cluster says, read, checked, completed and put into `intent`'s words.
//!
//! A watched directory of manifests goes `read` → `complete` → `convert`; a Kubernetes watch only converts, because
//! an API server and its controllers did the rest.

mod batch;
pub mod cluster_policy;
mod complete;
pub mod convert;
mod directory;
mod fields;
mod kubernetes;
mod manifests;
mod object;
mod policy_object;
mod problem;
mod read;
mod unenforced;
mod validate;
mod workload;
mod yaml;

pub use batch::{Batch, Facts, Standing};
pub use cluster_policy::ClusterNetworkPolicy;
pub use complete::complete;
pub use directory::Directory;
pub use kubernetes::{
    AnnounceError, Announcer, ConnectError, Kind, Kubernetes, KubernetesSettings, Pace,
};
pub use manifests::{Manifests, load};
pub use object::{Located, Object};
pub use policy_object::PolicyObject;
pub use problem::{Place, Problem, Problems};
pub use read::read;
pub use unenforced::Unenforced;
pub use workload::Workload;
