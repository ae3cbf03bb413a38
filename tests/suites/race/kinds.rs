//! What is started over and over.

/// A way to be named by a rule, and what is started over and over.
pub(crate) struct Kind {
    pub(crate) label: &'static str,
    /// How it is started: see the probe.
    pub(crate) way: &'static str,
    pub(crate) program: &'static str,
    /// What starts it; the probe where nothing is said.
    pub(crate) starter: Option<&'static str>,
}

pub(crate) const KINDS: [Kind; 4] = [
    kind("a known executable", "same", "known"),
    kind("a new executable of a known name", "fresh", "named"),
    kind("replaced by an upgrade", "replaced", "upgraded"),
    Kind {
        starter: Some("parent"),
        ..kind("a child of an app", "same", "child")
    },
];

/// Variants, with fewer starts.
pub(crate) const VARIANTS: [Kind; 2] = [
    kind("under a link's name", "same", "link"),
    Kind {
        starter: Some("parent"),
        ..kind("a new child of an app", "fresh", "newborn")
    },
];

/// Only where every executable may be meant.
pub(crate) const WILD: [Kind; 2] = [
    kind("like a pattern", "same", "wild-one"),
    kind("a new one like a pattern", "fresh", "wild-two"),
];

/// Programs that no rule names: nothing like any rule, and at other places than rules say.
pub(crate) const NEIGHBOURS: [Kind; 3] = [
    kind("another name", "same", "plain"),
    kind("the same name elsewhere", "same", "elsewhere/known"),
    kind("a new executable", "fresh", "stranger"),
];

const fn kind(label: &'static str, way: &'static str, program: &'static str) -> Kind {
    Kind {
        label,
        way,
        program,
        starter: None,
    }
}
