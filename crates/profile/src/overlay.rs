//! What users change of profiles that are not theirs.

use offramp_rules::{DomainName, Overlay, Prefix, UnavailableAction};

use crate::check::{Check, Fault, is_known, join};
use crate::json::{self, Value};
use crate::keys::{OVERLAY, OVERRIDABLE, PAYLOAD};
use crate::problem::{Code, Problem};
use crate::profile::{Profile, Source};
use crate::written;

/// A user's changes of one profile, checked but for what that profile allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserOverlay {
    /// The `Identifier` of the profile that is changed.
    pub identifier: String,
    /// The changes.
    pub overlay: Overlay,
    /// Where it was read.
    pub source: Source,
    /// Line and column of the `Identifier`.
    at: (usize, usize),
    /// The keys that are changed, with line and column.
    changed: Vec<(&'static str, (usize, usize))>,
}

/// Holds a declaration against what an overlay may have.
pub(crate) fn check(value: &Value<'_>, path: &str, check: &mut Check) {
    check.object(value, OVERLAY, path);
    let payload = join(path, "Payload.");
    for finding in &mut check.findings {
        let key = finding.path.strip_prefix(&payload);
        if finding.code == Code::UnknownPayloadKeys && key.is_some_and(|key| is_known(key, PAYLOAD))
        {
            finding.code = Code::IsInvalid;
            finding.message = "cannot be changed by users".to_owned();
            finding.hint = Some(format!("these can be given: {}", OVERRIDABLE.join(", ")));
        }
    }
}

/// Makes an overlay of a declaration that was checked.
pub(crate) fn build(value: &Value<'_>, source: &Source) -> Result<UserOverlay, Fault> {
    let wrong = |e: &dyn std::fmt::Display| Fault::invalid(e.to_string());
    let written: written::OverlayDeclaration = serde_json::from_str(value.text)
        .map_err(|e| Fault::new(Code::CannotBeDeserialized, e.to_string()))?;
    let payload = written.payload;
    let domains = payload.excluded_domains.iter();
    let routes = payload.network_routing.excluded_routes.iter();
    let overlay = Overlay {
        excluded_domains: domains
            .map(|text| DomainName::parse(text).map_err(|e| wrong(&e)))
            .collect::<Result<_, _>>()?,
        excluded_routes: routes
            .map(|text| text.parse::<Prefix>().map_err(|e| wrong(&e)))
            .collect::<Result<_, _>>()?,
        exclude_local_networks: payload.network_routing.exclude_local_networks,
        unavailable: payload.unavailable_action.map(UnavailableAction::from),
    };
    let place = |value: &Value<'_>| json::position(&source.text, value.at);
    let find = |key: &'static str| {
        let steps = std::iter::once("Payload").chain(key.split('.'));
        let found = steps
            .into_iter()
            .try_fold(value, |value, step| value.key(step))?;
        Some((key, place(found)))
    };
    Ok(UserOverlay {
        identifier: written.identifier,
        overlay,
        source: source.clone(),
        at: value.key("Identifier").map_or((0, 0), place),
        changed: OVERRIDABLE.into_iter().filter_map(find).collect(),
    })
}

impl UserOverlay {
    /// Everything that `profile` does not let users change, or that would break it.
    pub(crate) fn refused_by(&self, profile: &Profile) -> Vec<Problem> {
        let locked = self
            .changed
            .iter()
            .filter(|(key, _)| !profile.overridable.contains(*key))
            .map(|(key, at)| {
                let message = format!("is locked by {}", profile.id());
                self.problem(Code::IsInvalid, &format!("Payload.{key}"), *at, message)
                    .hint(allowed(profile))
            });
        let taken = |route: &&Prefix| {
            profile.synthetic_v4.overlaps(route)
                || profile
                    .synthetic_v6
                    .is_some_and(|block| block.overlaps(route))
        };
        let routes = "NetworkRouting.ExcludedRoutes";
        let at = self.changed.iter().find(|(key, _)| *key == routes);
        let overlapping = self
            .overlay
            .excluded_routes
            .iter()
            .filter(taken)
            .map(|route| {
                let message = format!("{route} has addresses that stand for names");
                let at = at.map_or((0, 0), |(_, at)| *at);
                self.problem(Code::IsInvalid, &format!("Payload.{routes}"), at, message)
            });
        locked.chain(overlapping).collect()
    }

    /// A problem of the whole overlay.
    pub(crate) fn problem_of_whole(&self, code: Code, message: String) -> Problem {
        self.problem(code, "Identifier", self.at, message)
    }

    fn problem(&self, code: Code, key: &str, at: (usize, usize), message: String) -> Problem {
        Problem {
            code,
            file: self.source.file.clone(),
            line: at.0,
            column: at.1,
            key_path: key.to_owned(),
            message,
            hint: None,
        }
    }
}

fn allowed(profile: &Profile) -> String {
    if profile.overridable.is_empty() {
        return "nothing of it can be changed".to_owned();
    }
    let keys: Vec<&str> = profile.overridable.iter().map(String::as_str).collect();
    format!("what can be changed: {}", keys.join(", "))
}
