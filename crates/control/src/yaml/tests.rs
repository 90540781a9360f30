use serde_json::json;

use super::*;

fn one(text: &str) -> Document {
    documents(text).unwrap().pop().unwrap()
}

fn fault(text: &str) -> (u32, String, String) {
    let fault = documents(text).err().unwrap();
    (fault.line, fault.field, fault.message)
}

#[test]
fn documents_know_their_lines() {
    let text = "# a comment\na: 1\nb:\n  - x\n  - z: [2, three]\n---\n---\nc: null\n";
    let documents = documents(text).unwrap();
    assert_eq!(documents.len(), 2);
    assert_eq!(
        documents[0].value,
        json!({"a": 1, "b": ["x", {"z": [2, "three"]}]})
    );
    let line = |path: &str| documents[0].lines[path];
    let paths = ["", "a", "b", "b[0]", "b[1].z", "b[1].z[1]"];
    assert_eq!(paths.map(line), [2, 2, 3, 4, 5, 5]);
    assert_eq!(documents[1].lines["c"], 8);
}

#[test]
fn json_with_tabs_is_read() {
    let document = one("{\n\t\"a\": {\n\t\t\"b\": [1,\n\t\t2]\n\t}\n}\n");
    assert_eq!(document.value, json!({"a": {"b": [1, 2]}}));
    assert_eq!(document.lines["a.b[1]"], 4);
}

#[test]
fn m1_json_values_follow_one_another() {
    let text = "\n{\"a\": 1}{\"a\": 2}\n{\n\"a\": {\"b\": 3}\n}\n\n{\"a\": \"\\ud83d\\ude00\"}\n";
    let documents = documents(text).unwrap();
    let values: Vec<&Value> = documents.iter().map(|document| &document.value).collect();
    assert_eq!(
        values,
        [
            &json!({"a": 1}),
            &json!({"a": 2}),
            &json!({"a": {"b": 3}}),
            &json!({"a": "\u{1f600}"})
        ]
    );
    let line = |index: usize, path: &str| documents[index].lines[path];
    assert_eq!(
        (line(0, "a"), line(1, "a"), line(2, "a.b"), line(3, "")),
        (2, 2, 4, 7)
    );
    // Not JSON, but a flow mapping all the same.
    assert_eq!(one("{ a: b }\n").value, json!({"a": "b"}));
}

#[test]
fn m1_marks_line_ends_and_empty_documents_mean_nothing() {
    let text =
        "\u{feff}---\r\n# a comment\r\n---\r\na: 1\r\nb:\r\n  - c\r\n...\r\n---\r\nnull\r\n---\r\n";
    let documents = documents(text).unwrap();
    assert_eq!(documents.len(), 1);
    assert_eq!(documents[0].value, json!({"a": 1, "b": ["c"]}));
    assert_eq!(documents[0].lines["b[0]"], 6);
    for nothing in ["", "\u{feff}", "---\n", "# x\n", "~\n", "---\n...\n---\n"] {
        assert!(super::documents(nothing).unwrap().is_empty(), "{nothing:?}");
    }
}

#[test]
fn anchors_stand_for_copies_and_are_bounded() {
    let document = one("a: &x {b: 1}\nc: *x\n");
    assert_eq!(document.value, json!({"a": {"b": 1}, "c": {"b": 1}}));
    let mut bomb = String::from("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n");
    for level in 1..10 {
        let below = format!("*a{},", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    assert!(fault(&bomb).2.contains("more than a million"));
    let inside = format!("[{}]", "1,".repeat(50_000));
    let nested = (0..40).fold(inside, |inner, level| format!("&n{level} [{inner}]"));
    assert!(fault(&nested).2.contains("more than a million"));
    assert!(fault("a: &x [*x]\n").2.contains("inside what it names"));
}

#[test]
fn m1_merge_keys_take_what_they_name() {
    let base = "a: &a {x: 1, k: 2}\nb: &b {k: 3, z: 4}\n";
    let merged = |rest: &str| one(&format!("{base}c: {rest}\n")).value["c"].clone();
    assert_eq!(merged("{<<: *a, k: 9}"), json!({"x": 1, "k": 9}));
    assert_eq!(merged("{<<: [*a, *b]}"), json!({"x": 1, "k": 2, "z": 4}));
    assert_eq!(merged("{<<: {w: 5}, v: 6}"), json!({"w": 5, "v": 6}));
    // As kubectl reads it, whatever the specification of merge keys says.
    assert_eq!(merged("{k: 9, <<: *a}"), json!({"x": 1, "k": 2}));
    assert_eq!(merged("{'<<': *a}"), json!({"<<": {"x": 1, "k": 2}}));
    assert_eq!(
        fault("a: {<<: 1}\n").2,
        "<< takes a mapping, or a list of them"
    );
    assert_eq!(
        fault("a: {<<: [1]}\n").2,
        "<< takes a mapping, or a list of them"
    );
}

#[test]
fn m1_of_a_key_that_is_there_twice_the_last_counts() {
    let document = one("spec:\n  a: 1\n  b: 2\n  a: 3\n");
    assert_eq!(document.value, json!({"spec": {"a": 3, "b": 2}}));
    assert_eq!(document.lines["spec.a"], 4);
    let said = document
        .repeated
        .iter()
        .map(|fault| (fault.line, &*fault.field));
    assert_eq!(said.collect::<Vec<_>>(), [(4, "spec.a")]);
}

#[test]
fn m1_keys_and_tags_are_words() {
    assert_eq!(
        one("80: a\nyes: b\n'no': c\nd: !!str 5\ne: !ours f\n").value,
        json!({"80": "a", "true": "b", "no": "c", "d": "5", "e": "f"})
    );
    assert_eq!(
        fault("a: !!int x\n").2,
        "x is no !!int: correct one of both"
    );
}

#[test]
fn faults_name_line_and_field() {
    assert_eq!(fault("~: x\n").2, "a key must be a word, not nothing");
    assert_eq!(
        fault("? [a]\n: b\n").2,
        "a key must be a word, not a list or a mapping"
    );
    assert!(fault(&"[".repeat(200)).2.starts_with("more than 100 lists"));
    assert!(fault("a: b: c\n").2.starts_with("this is not YAML: "));
    assert_eq!(fault("a:\n  - b\n c: d\n").0, 3);
    assert_eq!(fault("{\"a\": 1}\n{\"a\": [}\n").0, 2);
}
