//! Where cluster addresses are given from.

use k8s_openapi::api::networking::v1::ServiceCIDR;

use crate::convert::shared;
use crate::fields::range;
use crate::problem::Findings;

pub(crate) fn service_cidr_into(
    object: &ServiceCIDR,
    findings: &mut Findings<'_>,
) -> podway_intent::ServiceCidr {
    let spec = object.spec.clone().unwrap_or_default();
    let mut ranges = Vec::new();
    for (index, text) in spec.cidrs.iter().flatten().enumerate() {
        let field = format!("spec.cidrs[{index}]");
        ranges.extend(findings.take_noted(&field, range(text)));
    }
    podway_intent::ServiceCidr {
        name: shared(object.metadata.name.as_ref()),
        ranges,
    }
}
