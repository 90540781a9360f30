//! Which groups and kinds there are.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::Store;

/// The answer at `/apis` or `/apis/GROUP/VERSION`; `None` if nothing is served there.
pub(crate) fn discovered(store: &Store, path: &str) -> Option<Value> {
    let served = store.served();
    let all = served.iter();
    if path == "/apis" {
        let groups = all.filter_map(|it| it.prefix.strip_prefix("/apis/"));
        let groups: BTreeSet<&str> = groups.collect();
        let groups = groups.into_iter().map(|group_version| {
            let name = group_version.split('/').next();
            let version = json!({"groupVersion": group_version});
            json!({"name": name, "versions": [version], "preferredVersion": version})
        });
        return Some(json!({"kind": "APIGroupList", "groups": groups.collect::<Vec<_>>()}));
    }
    let own = all.filter(|it| it.prefix == path);
    let resources: Vec<Value> = own
        .map(|it| json!({"name": it.plural, "kind": store.kind(it), "verbs": ["list"]}))
        .collect();
    (!resources.is_empty()).then(|| json!({"kind": "APIResourceList", "resources": resources}))
}
