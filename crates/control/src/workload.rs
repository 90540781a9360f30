//! Objects that make pods of a template.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job, JobSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

/// An object whose controller makes pods.
#[expect(clippy::large_enum_variant, reason = "objects are boxed")]
#[derive(Clone, Debug, PartialEq)]
pub enum Workload {
    /// apps/v1 Deployment.
    Deployment(Deployment),
    /// apps/v1 ReplicaSet.
    ReplicaSet(ReplicaSet),
    /// apps/v1 StatefulSet.
    StatefulSet(StatefulSet),
    /// apps/v1 DaemonSet.
    DaemonSet(DaemonSet),
    /// v1 ReplicationController.
    ReplicationController(ReplicationController),
    /// batch/v1 Job.
    Job(Job),
    /// batch/v1 CronJob.
    CronJob(CronJob),
}

/// How many pods a workload makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// So many, of any names.
    Any(i32),
    /// So many, with numbers from this one on in their names.
    From(i32, i32),
    /// One on every node that takes it.
    EachNode,
}

impl Workload {
    /// The kind as manifests spell it.
    pub fn kind(&self) -> &'static str {
        match self {
            Workload::Deployment(_) => "Deployment",
            Workload::ReplicaSet(_) => "ReplicaSet",
            Workload::StatefulSet(_) => "StatefulSet",
            Workload::DaemonSet(_) => "DaemonSet",
            Workload::ReplicationController(_) => "ReplicationController",
            Workload::Job(_) => "Job",
            Workload::CronJob(_) => "CronJob",
        }
    }

    /// Name, namespace, labels.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Workload::Deployment(it) => &it.metadata,
            Workload::ReplicaSet(it) => &it.metadata,
            Workload::StatefulSet(it) => &it.metadata,
            Workload::DaemonSet(it) => &it.metadata,
            Workload::ReplicationController(it) => &it.metadata,
            Workload::Job(it) => &it.metadata,
            Workload::CronJob(it) => &it.metadata,
        }
    }

    pub(crate) fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Workload::Deployment(it) => &mut it.metadata,
            Workload::ReplicaSet(it) => &mut it.metadata,
            Workload::StatefulSet(it) => &mut it.metadata,
            Workload::DaemonSet(it) => &mut it.metadata,
            Workload::ReplicationController(it) => &mut it.metadata,
            Workload::Job(it) => &mut it.metadata,
            Workload::CronJob(it) => &mut it.metadata,
        }
    }

    /// Where its template is.
    pub(crate) fn template_field(&self) -> &'static str {
        match self {
            Workload::CronJob(_) => "spec.jobTemplate.spec.template",
            Workload::Deployment(_)
            | Workload::ReplicaSet(_)
            | Workload::StatefulSet(_)
            | Workload::DaemonSet(_)
            | Workload::ReplicationController(_)
            | Workload::Job(_) => "spec.template",
        }
    }

    /// Where it says how many pods it wants.
    pub(crate) fn count_field(&self) -> &'static str {
        match self {
            Workload::Job(_) => "spec.parallelism",
            Workload::CronJob(_) => "spec.jobTemplate.spec.parallelism",
            Workload::Deployment(_)
            | Workload::ReplicaSet(_)
            | Workload::StatefulSet(_)
            | Workload::DaemonSet(_)
            | Workload::ReplicationController(_) => "spec.replicas",
        }
    }

    /// The pod that its template describes, still without a name.
    pub(crate) fn pod(&self) -> Pod {
        let template = self.template().cloned().unwrap_or_default();
        Pod {
            metadata: ObjectMeta {
                namespace: self.metadata().namespace.clone(),
                ..template.metadata.unwrap_or_default()
            },
            spec: template.spec,
            status: None,
        }
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        match self {
            Workload::Deployment(it) => Some(&it.spec.template),
            Workload::ReplicaSet(it) => it.spec.template.as_ref(),
            Workload::StatefulSet(it) => Some(&it.spec.template),
            Workload::DaemonSet(it) => Some(&it.spec.template),
            Workload::ReplicationController(it) => it.spec.as_ref()?.template.as_ref(),
            Workload::Job(it) => Some(&it.spec.as_ref()?.template),
            Workload::CronJob(it) => Some(&it.spec.job_template.spec.as_ref()?.template),
        }
    }

    /// What its pods are told by; `None` where the API server chooses, as for jobs.
    pub(crate) fn selector(&self) -> Option<LabelSelector> {
        match self {
            Workload::Deployment(it) => Some(it.spec.selector.clone()),
            Workload::ReplicaSet(it) => Some(it.spec.selector.clone()),
            Workload::StatefulSet(it) => Some(it.spec.selector.clone()),
            Workload::DaemonSet(it) => Some(it.spec.selector.clone()),
            Workload::ReplicationController(it) => Some(LabelSelector {
                match_labels: it.spec.as_ref()?.selector.clone().or_else(|| {
                    let template = it.spec.as_ref()?.template.as_ref()?;
                    template.metadata.as_ref()?.labels.clone()
                }),
                match_expressions: None,
            }),
            Workload::Job(it) => it.spec.as_ref()?.selector.clone(),
            Workload::CronJob(_) => None,
        }
    }

    /// How many pods it makes; of a CronJob those of one run, as if its time had come.
    pub(crate) fn count(&self) -> Count {
        match self {
            Workload::Deployment(it) => Count::Any(it.spec.replicas.unwrap_or(1)),
            Workload::ReplicaSet(it) => Count::Any(it.spec.replicas.unwrap_or(1)),
            Workload::StatefulSet(it) => {
                let ordinals = it.spec.ordinals.as_ref();
                let start = ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0);
                Count::From(start, it.spec.replicas.unwrap_or(1))
            }
            Workload::DaemonSet(_) => Count::EachNode,
            Workload::ReplicationController(it) => {
                let replicas = it.spec.as_ref().and_then(|spec| spec.replicas);
                Count::Any(replicas.unwrap_or(1))
            }
            Workload::Job(it) if is_over(it) => Count::Any(0),
            Workload::Job(it) => it.spec.as_ref().map_or(Count::Any(0), of_job),
            Workload::CronJob(it) if it.spec.suspend == Some(true) => Count::Any(0),
            Workload::CronJob(it) => it
                .spec
                .job_template
                .spec
                .as_ref()
                .map_or(Count::Any(0), of_job),
        }
    }
}

fn is_over(job: &Job) -> bool {
    let conditions = job
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let mut ends = conditions.filter(|one| one.type_ == "Complete" || one.type_ == "Failed");
    ends.any(|one| one.status == "True")
}

fn of_job(spec: &JobSpec) -> Count {
    let wanted = spec.parallelism.unwrap_or(1);
    let wanted = spec.completions.map_or(wanted, |all| all.min(wanted));
    match spec.suspend {
        Some(true) => Count::Any(0),
        Some(false) | None => Count::Any(wanted),
    }
}
