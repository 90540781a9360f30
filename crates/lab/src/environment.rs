//! What a container knows of itself: its variables, and references to them in its command line.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, ObjectFieldSelector, Pod, ResourceFieldSelector,
};

/// The variables of a container in order; what ConfigMaps and Secrets would give is left out, for a lab has none.
pub(crate) fn variables(pod: &Pod, container: &Container) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::new();
    for entry in container.env.iter().flatten() {
        let Some(value) = value(pod, container, entry, &variables) else {
            continue;
        };
        // As in a list of variables that a program is given, the last one of a name counts.
        variables.retain(|(name, _)| *name != entry.name);
        variables.push((entry.name.clone(), value));
    }
    variables
}

/// The text with each `$(NAME)` replaced that is a variable's; `$$` is a `$` that begins nothing.
pub(crate) fn expand(text: &str, variables: &[(String, String)]) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        let (before, from) = rest.split_at(start);
        expanded.push_str(before);
        rest = &from[1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match variables.iter().find(|(known, _)| known == name) {
                Some((_, value)) => expanded.push_str(value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded + rest
}

fn value(
    pod: &Pod,
    container: &Container,
    entry: &EnvVar,
    before: &[(String, String)],
) -> Option<String> {
    let Some(source) = &entry.value_from else {
        let text = entry.value.as_deref().unwrap_or_default();
        return Some(expand(text, before));
    };
    match (&source.field_ref, &source.resource_field_ref) {
        (Some(field), _) => of_field(pod, field),
        (None, Some(resource)) => of_resource(pod, container, resource),
        (None, None) => None,
    }
}

fn of_field(pod: &Pod, selector: &ObjectFieldSelector) -> Option<String> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let joined = |texts: Vec<String>| (!texts.is_empty()).then(|| texts.join(","));
    match &*selector.field_path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "spec.nodeName" => spec?.node_name.clone(),
        "spec.serviceAccountName" => {
            let given = spec?.service_account_name.clone();
            Some(given.unwrap_or_else(|| "default".to_owned()))
        }
        "status.podIP" => status?.pod_ip.clone(),
        "status.podIPs" => {
            let ips = status?.pod_ips.iter().flatten();
            joined(ips.map(|one| one.ip.clone()).collect())
        }
        "status.hostIP" => status?.host_ip.clone(),
        "status.hostIPs" => {
            let ips = status?.host_ips.iter().flatten();
            joined(ips.map(|one| one.ip.clone()).collect())
        }
        path => {
            let entry = |map: &Option<BTreeMap<String, String>>, list: &str| {
                let key = path
                    .strip_prefix(list)?
                    .strip_prefix("['")?
                    .strip_suffix("']")?;
                let value = map.as_ref().and_then(|map| map.get(key));
                Some(value.cloned().unwrap_or_default())
            };
            entry(&metadata.labels, "metadata.labels")
                .or_else(|| entry(&metadata.annotations, "metadata.annotations"))
        }
    }
}

/// A container's limit or request, in units of the divisor and rounded up.
fn of_resource(
    pod: &Pod,
    container: &Container,
    selector: &ResourceFieldSelector,
) -> Option<String> {
    let named = selector.container_name.as_deref().unwrap_or_default();
    let mut all = pod.spec.iter().flat_map(|spec| &spec.containers);
    let container = match named {
        "" => container,
        named => all.find(|container| container.name == named)?,
    };
    let resources = container.resources.as_ref()?;
    let (list, resource) = selector.resource.split_once('.')?;
    let (first, second) = match list {
        "limits" => (&resources.limits, &resources.limits),
        _ => (&resources.requests, &resources.limits),
    };
    let of = |list: &Option<BTreeMap<_, _>>| list.as_ref()?.get(resource).cloned();
    let amount = amount(&of(first).or_else(|| of(second))?.0)?;
    let divisor = selector.divisor.as_ref().and_then(|it| self::amount(&it.0));
    let divisor = divisor.filter(|it| *it > 0.0).unwrap_or(1.0);
    Some(format!("{:.0}", (amount / divisor).ceil()))
}

/// What a quantity such as `512Mi` or `250m` is in ones.
fn amount(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let scaled = SUFFIXES
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)));
    let (digits, unit) = scaled.unwrap_or((text, &1.0));
    digits.parse::<f64>().ok().map(|number| number * unit)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let resource = |name: &str, resource: &str, divisor: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}});
        let pod = json!({
            "metadata": {"name": "web-0", "namespace": "shop", "labels": {"app": "web"}, "annotations": {"a/b": "c"}},
            "spec": {"nodeName": "n1", "containers": [{
                "name": "c",
                "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}},
                "env": [
                    field("NAME", "metadata.name"), field("NS", "metadata.namespace"),
                    field("APP", "metadata.labels['app']"), field("AB", "metadata.annotations['a/b']"),
                    field("NONE", "metadata.labels['none']"), field("NODE", "spec.nodeName"),
                    field("ACCOUNT", "spec.serviceAccountName"), field("IP", "status.podIP"),
                    field("IPS", "status.podIPs"), field("HOST", "status.hostIP"), field("X", "spec.invented"),
                    resource("CPU", "limits.cpu", "0"), resource("MILLI", "requests.cpu", "1m"),
                    resource("MIB", "limits.memory", "1Mi"),
                    {"name": "WHO", "value": "$(NAME)@$(IP) $(LATER) $$(NAME) $5"},
                    {"name": "LATER", "value": "x"},
                    {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    {"name": "NS", "value": "$(NS)-2"},
                ],
            }]},
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "hostIP": "192.0.2.1"},
        });
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn m2_containers_know_of_their_pod() {
        let pod = pod();
        let container = &pod.spec.as_ref().expect("it is there").containers[0];
        let variables = variables(&pod, container);
        let expected = [
            ("NAME", "web-0"),
            ("APP", "web"),
            ("AB", "c"),
            ("NONE", ""),
            ("NODE", "n1"),
            ("ACCOUNT", "default"),
            ("IP", "10.0.0.1"),
            ("IPS", "10.0.0.1,fd00::1"),
            ("HOST", "192.0.2.1"),
            ("CPU", "2"),
            ("MILLI", "1500"),
            ("MIB", "64"),
            ("WHO", "web-0@10.0.0.1 $(LATER) $(NAME) $5"),
            ("LATER", "x"),
            ("NS", "shop-2"),
        ];
        let expected: Vec<(String, String)> = expected
            .map(|(name, value)| (name.into(), value.into()))
            .into();
        assert_eq!(variables, expected);
    }

    #[test]
    fn m2_references_are_replaced_as_kubernetes_does() {
        let variables = [
            ("A".to_owned(), "1".to_owned()),
            ("B".to_owned(), "$(A)".to_owned()),
        ];
        for (text, expanded) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(A)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(NONE)", "$(NONE)"),
            ("$(A", "$(A"),
            ("$A $", "$A $"),
            ("", ""),
        ] {
            assert_eq!(expand(text, &variables), expanded, "{text}");
        }
    }
}
