//! The part of JSON Schema that `openapi.json` uses. An unknown keyword is an error, so that no
//! rule of the document is skipped.

use serde_json::Value;

/// Returns the violations of the schema in a value, with their locations.
pub(super) fn problems(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(document, schema, value, "$", &mut found);
    found
}

fn check(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        match keyword.as_str() {
            "$ref" => {
                let pointer = rule
                    .as_str()
                    .and_then(|path| path.strip_prefix('#'))
                    .expect("a local reference");
                let schema = document.pointer(pointer).expect("it leads somewhere");
                check(document, schema, value, at, found);
            }
            "type" => {
                let allowed = rule
                    .as_array()
                    .cloned()
                    .unwrap_or_else(|| vec![rule.clone()]);
                if !allowed
                    .iter()
                    .any(|kind| is(value, kind.as_str().expect("a word")))
                {
                    found.push(format!("{at}: {value} is not {rule}"));
                }
            }
            "enum" => {
                if !rule.as_array().expect("a list").contains(value) {
                    found.push(format!("{at}: {value} is not one of {rule}"));
                }
            }
            "minimum" => {
                if value
                    .as_f64()
                    .is_some_and(|value| value < rule.as_f64().expect("a number"))
                {
                    found.push(format!("{at}: {value} is below {rule}"));
                }
            }
            "items" => {
                for (place, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(document, rule, item, &format!("{at}[{place}]"), found);
                }
            }
            "required" => {
                for name in rule
                    .as_array()
                    .expect("a list")
                    .iter()
                    .filter(|_| value.is_object())
                {
                    if value.get(name.as_str().expect("a name")).is_none() {
                        found.push(format!("{at}: {name} is missing"));
                    }
                }
            }
            "properties" => {
                for (name, schema) in rule.as_object().expect("an object") {
                    if let Some(value) = value.get(name) {
                        check(document, schema, value, &format!("{at}.{name}"), found);
                    }
                }
            }
            "additionalProperties" => additional(document, schema, rule, value, at, found),
            "propertyNames" => {
                for name in value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(name, _)| name)
                {
                    check(document, rule, &Value::from(name.as_str()), at, found);
                }
            }
            "description" => {}
            other => panic!("the keyword {other} is not known here"),
        }
    }
}

fn additional(
    document: &Value,
    schema: &Value,
    rule: &Value,
    value: &Value,
    at: &str,
    found: &mut Vec<String>,
) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let known = schema.get("properties").and_then(|known| known.get(name));
        match (known, rule) {
            (Some(_), _) | (None, Value::Bool(true)) => {}
            (None, Value::Bool(false)) => found.push(format!("{at}: {name} is not described")),
            (None, rule) => check(document, rule, value, &format!("{at}.{name}"), found),
        }
    }
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type {other}"),
    }
}

#[test]
fn violations_of_the_schema_are_found() {
    let document: Value = serde_json::from_str(
        r##"{"a": {"type": "object", "additionalProperties": false, "required": ["n", "l"],
            "properties": {"n": {"type": ["integer", "null"], "minimum": 0},
                           "l": {"type": "array", "items": {"$ref": "#/word"}}}},
            "word": {"type": "string", "enum": ["x", "y"]}}"##,
    )
    .expect("JSON");
    let wrong = serde_json::json!({"n": -1, "l": ["x", "z", 1], "more": 0});
    insta::assert_snapshot!(problems(&document, &document["a"], &wrong).join("\n"), @r#"
    $: more is not described
    $.l[1]: "z" is not one of ["x","y"]
    $.l[2]: 1 is not one of ["x","y"]
    $.l[2]: 1 is not "string"
    $.n: -1 is below 0
    "#);
    let right = serde_json::json!({"n": null, "l": ["x"]});
    assert_eq!(problems(&document, &document["a"], &right), [""; 0]);
}
