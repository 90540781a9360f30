//! What paths name.

use std::fmt;

/// A kind of objects by its place in the API, such as `/api/v1` and `pods`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// `/api/v1`, or `/apis/GROUP/VERSION`.
    pub prefix: String,
    /// The kind in plural and lower case.
    pub plural: String,
}

impl Resource {
    /// The resource whose objects are all listed under this path, as in `/apis/networking.k8s.io/v1/networkpolicies`.
    pub fn of_path(path: &str) -> Option<Resource> {
        let (prefix, plural) = path.rsplit_once('/')?;
        Some(Resource {
            prefix: prefix.to_owned(),
            plural: plural.to_owned(),
        })
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.prefix, self.plural)
    }
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) resource: Resource,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    /// Such as `status`.
    pub(crate) part: Option<String>,
}

impl Target {
    /// Reads `/api/v1/namespaces/shop/pods/web/status` and its like.
    pub(crate) fn of_path(path: &str) -> Option<Target> {
        let mut segments = path.strip_prefix('/')?.split('/');
        let prefix = match segments.next()? {
            "api" => format!("/api/{}", segments.next()?),
            "apis" => format!("/apis/{}/{}", segments.next()?, segments.next()?),
            _ => return None,
        };
        let rest: Vec<&str> = segments.collect();
        let own = |text: &&str| (*text).to_owned();
        let (namespace, rest) = match rest.as_slice() {
            // Namespaces are objects themselves, with parts of their own.
            ["namespaces", namespace, plural, rest @ ..] if *plural != "status" => {
                (Some(namespace), [&[*plural], rest].concat())
            }
            rest => (None, rest.to_vec()),
        };
        Some(Target {
            resource: Resource {
                prefix,
                plural: rest.first().map(own)?,
            },
            namespace: namespace.map(own),
            name: rest.get(1).map(own),
            part: rest.get(2).map(own),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_kinds_namespaces_and_objects() {
        let read = |path| {
            let it = Target::of_path(path).expect("a target");
            let text = |it: Option<String>| it.unwrap_or_default();
            (
                it.resource.to_string(),
                text(it.namespace),
                text(it.name),
                text(it.part),
            )
        };
        let own = |parts: [&str; 4]| {
            let [resource, namespace, name, part] = parts.map(str::to_owned);
            (resource, namespace, name, part)
        };
        for (path, parts) in [
            ("/api/v1/pods", ["/api/v1/pods", "", "", ""]),
            (
                "/api/v1/namespaces/shop",
                ["/api/v1/namespaces", "", "shop", ""],
            ),
            (
                "/api/v1/nodes/n1/status",
                ["/api/v1/nodes", "", "n1", "status"],
            ),
            (
                "/api/v1/namespaces/shop/pods/web/status",
                ["/api/v1/pods", "shop", "web", "status"],
            ),
            (
                "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies",
                ["/apis/networking.k8s.io/v1/networkpolicies", "shop", "", ""],
            ),
        ] {
            assert_eq!(read(path), own(parts), "{path}");
        }
        assert_eq!(Target::of_path("/healthz"), None);
    }
}
