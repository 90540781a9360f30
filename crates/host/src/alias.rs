//! Aliases of devices: they tell whose device it is, also when whoever made it is gone.

/// How the alias of a pod's device starts; the pod's `NAMESPACE/NAME` follows.
const POD: &str = "podway:";
/// IFALIASZ of if.h without the final zero; the names of namespaces and pods are ASCII, and longer ones are cut.
const LIMIT: usize = 255;

/// The alias of a pod's device.
pub fn pod_alias(pod: &str) -> String {
    let mut alias = format!("{POD}{pod}");
    alias.truncate(LIMIT);
    alias
}

/// The pod whose device has this alias; `None` if it is no pod's.
pub fn pod_of_alias(alias: &str) -> Option<&str> {
    alias.strip_prefix(POD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_names_its_pod_and_is_never_too_long() {
        assert_eq!(pod_of_alias(&pod_alias("shop/web")), Some("shop/web"));
        assert_eq!(pod_of_alias("somebody's"), None);
        assert_eq!(pod_alias(&"x".repeat(300)).len(), LIMIT);
    }
}
