use serde_json::{Map, Value, json};

use crate::keys::{
    DECLARATION, DECLARATIONS, Format, Key, OVERLAY, OVERLAY_TYPE, OVERRIDABLE, Shape, TYPE,
};

/// The JSON Schema (draft 2020-12) of a profile file, made from the same table as the reader.
///
/// What a schema cannot say is left to the reader, and `OptionalKeys` is one such thing.
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "offramp profile",
        "description": "One declaration, or a list of them; in a user's own file, an overlay is one too.",
        "if": { "required": [DECLARATIONS] },
        "then": {
            "type": "object",
            "additionalProperties": false,
            "properties": {
                DECLARATIONS: { "type": "array", "items": { "$ref": "#/$defs/Any" } },
            },
        },
        "else": { "$ref": "#/$defs/Any" },
        "$defs": {
            "Any": {
                "if": {
                    "properties": { "Type": { "const": OVERLAY_TYPE } },
                    "required": ["Type"],
                },
                "then": { "$ref": "#/$defs/Overlay" },
                "else": { "$ref": "#/$defs/Declaration" },
            },
            "Declaration": object(DECLARATION),
            "Overlay": object(OVERLAY),
        },
    })
}

fn object(keys: &[Key]) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        .map(|key| (key.name.to_owned(), property(key)))
        .collect();
    let required: Vec<_> = keys
        .iter()
        .filter(|key| key.required)
        .map(|key| key.name)
        .collect();
    let mut object = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

fn property(key: &Key) -> Value {
    let mut value = shape(&key.shape);
    value["description"] = json!(key.about);
    value
}

fn shape(shape: &Shape) -> Value {
    match shape {
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Integer(least) => {
            json!({ "type": "integer", "minimum": least, "maximum": u32::MAX })
        }
        Shape::Version => json!({ "const": 1 }),
        Shape::Text(format) => text(*format),
        Shape::Choice { now, .. } => json!({ "enum": now }),
        Shape::List(inner) => json!({ "type": "array", "items": self::shape(inner) }),
        Shape::Some(inner) => {
            json!({ "type": "array", "minItems": 1, "items": self::shape(inner) })
        }
        Shape::Object(keys) => object(keys),
        Shape::Opaque => json!({ "type": "object" }),
        // Nothing fits.
        Shape::Later | Shape::Misplaced(_) => json!({ "not": {} }),
    }
}

fn text(format: Format) -> Value {
    let pattern = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    match format {
        Format::Any => json!({ "type": "string" }),
        Format::NotEmpty
        | Format::KeyPath
        | Format::Domain
        | Format::ExactDomain
        | Format::Host => pattern(r"\S"),
        Format::Type => json!({ "const": TYPE }),
        Format::OverlayType => json!({ "const": OVERLAY_TYPE }),
        Format::Overridable => json!({ "enum": OVERRIDABLE }),
        Format::Identifier | Format::Token => {
            json!({ "type": "string", "minLength": 1, "maxLength": 64 })
        }
        Format::Block | Format::Synthetic6 => pattern(r"^[0-9A-Fa-f:.]+/[0-9]{1,3}$"),
        Format::Synthetic4 => pattern(r"^[0-9.]+/[0-9]{1,2}$"),
        Format::ServerUrl => pattern(r"^https://[^/?#@]+/?$"),
        Format::Asset => pattern(r"^credential:[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$"),
        Format::Identity => {
            pattern(r"^([^:/]+|(exe|unit|user-unit|flatpak|snap|app|wrapper):.+|cgroup:/.*)$")
        }
        Format::Path => pattern(r"^/.*[^/]$"),
        Format::Requirement | Format::User | Format::Resolver => pattern(r"\S"),
    }
}
