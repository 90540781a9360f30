//! What is kept of objects, and what is read of them.

use podway_intent::PodPhase;

use super::super::filled::filled;
use super::*;

fn decoded(kind: Kind, json: &str) -> Decoded {
    let head = head(kind, json).expect("it has a name");
    decode(kind, head, json, &mut Interner::new())
}

#[test]
fn a_trimmed_pod_says_what_the_whole_one_says() {
    let json = r#"{"metadata":{"name":"web","namespace":"shop","uid":"u1","resourceVersion":"7",
            "labels":{"app":"web"},"annotations":{"long":"text"},"managedFields":[{"manager":"kubelet"}],"deletionTimestamp":"2026-01-01T00:00:00Z"},
            "spec":{"nodeName":"n1","containers":[{"name":"c","image":"i","ports":[{"name":"http","containerPort":8080}]}],
            "initContainers":[{"name":"s","restartPolicy":"Always","ports":[{"name":"side","containerPort":15020}]},
            {"name":"i","ports":[{"name":"once","containerPort":1}]}],
            "volumes":[{"name":"v","emptyDir":{}}]},
            "status":{"phase":"Running","podIP":"10.0.0.9","podIPs":[{"ip":"10.0.0.9"},{"ip":"fd00::9"}],"conditions":[]}}"#;
    let whole: Pod = serde_json::from_str(json).expect("a pod");
    let expected = convert::pod(&whole);
    let pod = &expected.reading.value;
    let names: Vec<&str> = pod.ports.iter().map(|port| &*port.name).collect();
    assert_eq!(
        (names, pod.phase),
        (vec!["http", "side"], PodPhase::Leaving)
    );
    let fact = decoded(Kind::Pod, json).fact;
    assert_eq!(fact, Ok(Some(expected.map(Change::Pod))));
}

#[test]
fn what_is_kept_of_an_object_says_what_the_object_says() {
    let pod = r#"{"metadata":{"name":"web","namespace":"shop","uid":"u1","resourceVersion":"7","labels":{"app":"web"}},
            "spec":{"nodeName":"n1","containers":[{"name":"c","image":"i","ports":[{"containerPort":80}]}]},"status":{}}"#;
    let node = r#"{"metadata":{"name":"n1","uid":"u","resourceVersion":"9","labels":{"zone":"a"},
            "annotations":{"a":"b","kubectl.kubernetes.io/last-applied-configuration":"long"},"managedFields":[{}]},
            "spec":{"podCIDRs":["10.244.1.0/24"]},
            "status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"}],"images":[{"names":["long"]}]}}"#;
    let service = r#"{"metadata":{"name":"web","namespace":"shop"},
            "spec":{"clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1"],"ports":[{"port":80}]},"status":{"loadBalancer":{}}}"#;
    for (kind, json) in [
        (Kind::Pod, pod),
        (Kind::Node, node),
        (Kind::Service, service),
    ] {
        let kept = trimmed(kind, json).expect("JSON");
        let [whole, kept_too] = [json, &kept].map(|json| decoded(kind, json));
        assert_eq!((whole.key, whole.version), (kept_too.key, kept_too.version));
        assert_eq!(whole.fact.expect("legal"), kept_too.fact.expect("legal"));
        assert!(!kept.contains('\n') && !kept.contains("long"), "{kept}");
        assert_eq!(trimmed(kind, &kept).expect("JSON"), kept);
    }
}

/// The conversion of an object as the directory's way has it: nothing was trimmed.
fn untrimmed(kind: Kind, object: &Value) -> Option<Fact> {
    let json = object.to_string();
    match kind {
        Kind::Pod => {
            let pod: Pod = serde_json::from_str(&json).ok()?;
            Some(Ok(Some(convert::pod(&pod).map(Change::Pod))))
        }
        Kind::Node
        | Kind::Namespace
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::NetworkPolicy
        | Kind::ClusterNetworkPolicy
        // What can't be read has no fields to lose.
        | Kind::ServiceCidr => decoded(kind, &json).fact.ok().map(Ok),
    }
}

/// Takes each field away, or has it say something else, and returns those that the conversion reads; whatever it
/// reads has to be there after trimming.
fn read_fields(kind: Kind, base: &Value) -> Vec<String> {
    let before = untrimmed(kind, base).expect("a legal object");
    let mut read = Vec::new();
    let mut left = vec![String::new()];
    while let Some(parent) = left.pop() {
        let children: Vec<String> = match base.pointer(&parent) {
            Some(Value::Object(fields)) => fields.keys().cloned().collect(),
            Some(Value::Array(items)) => (0..items.len()).map(|it| it.to_string()).collect(),
            Some(_) | None => Vec::new(),
        };
        for child in children {
            let path = format!("{parent}/{}", child.replace('/', "~1"));
            let mut is_read = false;
            for object in others(base, &parent, &child, &path) {
                // What has no name is refused before anything is trimmed.
                if !object["metadata"]["name"].is_string() {
                    is_read = true;
                    continue;
                }
                let Some(whole) = untrimmed(kind, &object) else {
                    continue;
                };
                let kept = trimmed(kind, &object.to_string()).expect("JSON");
                assert_eq!(decoded(kind, &kept).fact, whole, "{kind} without {path}");
                is_read |= whole != before;
            }
            if is_read {
                left.push(path.clone());
                read.push(path);
            }
        }
    }
    read
}

/// The object without a field, and with other values of it.
fn others(base: &Value, parent: &str, child: &str, path: &str) -> Vec<Value> {
    let mut without = base.clone();
    match without.pointer_mut(parent) {
        Some(Value::Object(fields)) => drop(fields.remove(child)),
        Some(Value::Array(items)) => items.clear(),
        Some(_) | None => unreachable!("{parent} has {child}"),
    }
    let values: Vec<Value> = match base.pointer(path) {
        Some(Value::String(_)) => ["10.0.0.2", "Failed", "UDP", "Local"]
            .map(Value::from)
            .into(),
        Some(Value::Bool(value)) => vec![Value::from(!value)],
        Some(Value::Number(_)) => vec![Value::from(2)],
        Some(Value::Array(_) | Value::Object(_) | Value::Null) | None => Vec::new(),
    };
    let changed = values.into_iter().map(|value| {
        let mut object = base.clone();
        *object.pointer_mut(path).expect("it has the field") = value;
        object
    });
    std::iter::once(without).chain(changed).collect()
}

#[test]
fn no_field_that_is_read_of_a_manifest_is_lost_on_the_way_from_an_api_server() {
    let pod = filled::<Pod>(Kind::Pod, "v1");
    // Of a list and its first item, only one is read while both are there.
    let less = |object: &Value, parent: &str, field: &str| {
        let mut object = object.clone();
        let fields = object[parent].as_object_mut().expect("an object");
        fields.remove(field).expect("it is filled");
        object
    };
    let one_address = less(&pod, "status", "podIPs");
    let service = filled::<Service>(Kind::Service, "v1");
    let listed = less(&service, "spec", "clusterIP");
    let single = less(&service, "spec", "clusterIPs");
    let discovery = "discovery.k8s.io/v1";
    for (kind, object, known) in [
        (Kind::Pod, pod, "/spec/initContainers/0/ports/0/name"),
        (Kind::Pod, one_address, "/status/podIP"),
        (
            Kind::Node,
            filled::<Node>(Kind::Node, "v1"),
            "/status/addresses",
        ),
        (
            Kind::Namespace,
            filled::<Namespace>(Kind::Namespace, "v1"),
            "/metadata/labels",
        ),
        (Kind::Service, service, "/spec/externalIPs/0"),
        (Kind::Service, listed, "/spec/clusterIPs"),
        (Kind::Service, single, "/spec/clusterIP"),
        (
            Kind::EndpointSlice,
            filled::<EndpointSlice>(Kind::EndpointSlice, discovery),
            "/endpoints/0/addresses",
        ),
        (
            Kind::ServiceCidr,
            filled::<ServiceCIDR>(Kind::ServiceCidr, "networking.k8s.io/v1"),
            "/spec/cidrs",
        ),
    ] {
        let read = read_fields(kind, &object);
        assert!(
            read.iter().any(|it| it == known),
            "{kind}: {known} isn't among {read:?}"
        );
    }
}

#[test]
fn a_malformed_object_still_has_its_name_and_says_which_field_is_wrong() {
    let json = r#"{"metadata":{"name":"web","namespace":"shop","resourceVersion":"7"},
            "spec":{"clusterIP":"10.96.0.1","ports":[{"port":"http"}]}}"#;
    let decoded = decoded(Kind::Service, json);
    assert_eq!(decoded.key.to_string(), "service shop/web");
    let problems = decoded.fact.expect_err("malformed").to_string();
    assert!(
        problems.starts_with("Service shop/web: spec.ports[0].port: invalid type"),
        "{problems}"
    );
}

#[test]
fn what_is_not_ours_is_no_problem() {
    let json = r#"{"metadata":{"name":"db","namespace":"shop"},"spec":{"clusterIP":"None"}}"#;
    assert_eq!(decoded(Kind::Service, json).fact, Ok(None));
}

#[test]
fn versions_differ_with_uid_and_resource_version() {
    let version = |uid, version| {
        let json =
            format!(r#"{{"metadata":{{"name":"a","uid":"{uid}","resourceVersion":"{version}"}}}}"#);
        decoded(Kind::Namespace, &json).version
    };
    assert_eq!(version("u", "1"), version("u", "1"));
    assert_ne!(version("u", "1"), version("u", "2"));
    assert_ne!(version("u", "1"), version("v", "1"));
}

#[test]
fn a_nameless_object_is_a_problem_of_its_kind() {
    let error = head(Kind::Pod, r#"{"metadata":{}}"#);
    let text = error.expect_err("nameless").to_string();
    assert!(
        text.starts_with("Pod without a name: metadata: missing field `name`"),
        "{text}"
    );
}
