use super::{Format, Key, Shape, key, required};

const IDENTIFIER: Key = key(
    "Identifier",
    Shape::Text(Format::NotEmpty),
    "What the rule is called. Default: the SigningIdentifier; of equal ones the second gets #2.",
);

const SIGNING_IDENTIFIER: Key = required(
    "SigningIdentifier",
    Shape::Text(Format::Identity),
    "The app, such as exe:NAME, unit:NAME or app:ID. In full: exe:NAME, exe:/PATH, unit:NAME, user-unit:NAME, cgroup:/PATH, flatpak:ID, snap:NAME, app:ID \
     (a desktop entry), wrapper:ID (what offramp run --profile ID starts), or ID for a Flatpak, snap \
     or desktop entry. Names and paths may hold *, ? and [...].",
);

const PATH: Key = key(
    "Path",
    Shape::Text(Format::Path),
    "Where the executable or script has to be, too.",
);

const REQUIREMENT: Key = key(
    "DesignatedRequirement",
    Shape::Text(Format::Requirement),
    "What else has to be true of the file: sha256 = \"HEX\", owner = \"USER\", and, or, not, ( ).",
);

const USER: Key = key(
    "User",
    Shape::Text(Format::User),
    "Whose processes are meant: NAME, UID, UID-UID, @GROUP, @GID or @GID-GID. Default: everybody's.",
);

const DOMAINS: Key = key(
    "MatchDomains",
    Shape::Some(&Shape::Text(Format::Domain)),
    "Only what goes to these names, and to names below them. Default: all.",
);

pub(super) static APP_RULE: &[Key] = &[
    IDENTIFIER,
    SIGNING_IDENTIFIER,
    PATH,
    REQUIREMENT,
    USER,
    DOMAINS,
    key(
        "MatchTools",
        Shape::Some(&Shape::Object(TOOL)),
        "Only these programs, where the app or something below it starts them. Default: the app and \
         all that it starts.",
    ),
];

static TOOL: &[Key] = &[
    IDENTIFIER,
    SIGNING_IDENTIFIER,
    PATH,
    REQUIREMENT,
    USER,
    DOMAINS,
    key(
        "MatchTools",
        Shape::Misplaced("a tool has no tools of its own"),
        "Not here: a tool has no tools of its own.",
    ),
];
