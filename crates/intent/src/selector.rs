//! Which labels a selector matches.

use std::sync::Arc;

use crate::{Labels, Requirement, Selector};

impl Selector {
    /// True if all requirements hold; so everything matches a selector without any.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|one| one.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        let has_one_of = |key: &Arc<str>, values: &[Arc<str>]| {
            labels.get(key).is_some_and(|value| values.contains(value))
        };
        match self {
            Requirement::In(key, values) => has_one_of(key, values),
            Requirement::NotIn(key, values) => !has_one_of(key, values),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Absent(key) => !labels.contains_key(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n4_an_empty_selector_matches_all_and_an_empty_value_list_none() {
        let labels: Labels = [("app".into(), "web".into())].into();
        let matches = |requirements: Vec<Requirement>| Selector { requirements }.matches(&labels);
        let (app, tier): (Arc<str>, Arc<str>) = ("app".into(), "tier".into());
        let one_of = |values: &[&str]| values.iter().map(|value| Arc::from(*value)).collect();
        assert!(matches(vec![]));
        assert!(matches(vec![Requirement::In(
            app.clone(),
            one_of(&["db", "web"])
        )]));
        assert!(!matches(vec![Requirement::In(app.clone(), one_of(&[]))]));
        assert!(!matches(vec![Requirement::In(
            tier.clone(),
            one_of(&["web"])
        )]));
        assert!(!matches(vec![Requirement::NotIn(
            app.clone(),
            one_of(&["web"])
        )]));
        assert!(matches(vec![Requirement::NotIn(
            tier.clone(),
            one_of(&["web"])
        )]));
        assert!(!matches(vec![
            Requirement::Exists(app.clone()),
            Requirement::Absent(app)
        ]));
        assert!(matches(vec![Requirement::Absent(tier)]));
    }
}
