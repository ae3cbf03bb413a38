use super::{Format, Key, Shape, key, required};

/// The `Type` of what a user changes of a profile.
pub(crate) const OVERLAY_TYPE: &str = "org.offramp.overlay";

/// What can be in `UserOverridableKeys`.
pub(crate) static OVERRIDABLE: [&str; 4] = [
    "ExcludedDomains",
    "NetworkRouting.ExcludedRoutes",
    "NetworkRouting.ExcludeLocalNetworks",
    "UnavailableAction",
];

/// A user's changes of a profile that is not the user's.
pub(crate) static OVERLAY: &[Key] = &[
    required(
        "Type",
        Shape::Text(Format::OverlayType),
        "The kind of declaration.",
    ),
    required(
        "Identifier",
        Shape::Text(Format::Identifier),
        "The profile that is changed, for the user's own processes.",
    ),
    key("PayloadVersion", Shape::Version, "The format's version, 1."),
    key(
        "PayloadDescription",
        Shape::Text(Format::Any),
        "What the changes are for, as shown to people.",
    ),
    key(
        "PayloadDisplayName",
        Shape::Text(Format::Any),
        "What a tool calls the declaration.",
    ),
    required(
        "Payload",
        Shape::Object(OVERLAY_PAYLOAD),
        "The changes: only keys that the profile has in its UserOverridableKeys.",
    ),
];

static OVERLAY_PAYLOAD: &[Key] = &[
    key(
        "ExcludedDomains",
        Shape::List(&Shape::Text(Format::Domain)),
        "More names that are reached directly, with all names below them.",
    ),
    key(
        "NetworkRouting",
        Shape::Object(&[
            key(
                "ExcludedRoutes",
                Shape::List(&Shape::Text(Format::Block)),
                "More address blocks that are reached directly.",
            ),
            key(
                "ExcludeLocalNetworks",
                Shape::Bool,
                "Whether the machine's own networks are reached directly, instead of what the \
                 profile says.",
            ),
        ]),
        "What is reached directly by address.",
    ),
    key(
        "UnavailableAction",
        Shape::Choice {
            now: &["Drop", "Direct"],
            later: &[],
        },
        "What happens to flows while no server can be reached, instead of what the profile says.",
    ),
];
