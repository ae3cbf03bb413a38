use std::fmt;
use std::path::PathBuf;

use crate::facts::{Facts, Seen};
use crate::{App, DomainName, Identity, Program, Requirement, UserCondition};

/// One entry of a profile that names an app. Everything that it says has to be true.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// What people call the entry, unique within its profile; the identity as text where the profile
    /// gives no other name.
    pub identifier: String,
    /// Which apps it names.
    pub identity: Identity,
    /// Where the executable or the script has to be.
    pub path: Option<PathBuf>,
    /// What else has to be true of the executable or the script.
    pub requirement: Option<Requirement>,
    /// Whose processes alone are meant.
    pub user: Option<UserCondition>,
    /// Names that are meant alone, with those below them; empty: all targets.
    pub domains: Vec<DomainName>,
    /// Empty: the app is meant, with all that it starts. Otherwise these are meant alone, where the
    /// app or something below it starts them; they have no tools of their own.
    pub tools: Vec<Rule>,
}

/// What of a rule is not true of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It is another app.
    Identity,
    /// It is elsewhere.
    Path,
    /// Its file is not as the rule requires.
    Requirement,
    /// It is another user's.
    User,
    /// It was not started by the app whose tool the rule names.
    Tools,
}

impl Rule {
    /// A rule that names apps by `identity` alone.
    pub fn new(identity: Identity) -> Self {
        Self {
            identifier: identity.to_string(),
            identity,
            path: None,
            requirement: None,
            user: None,
            domains: Vec::new(),
            tools: Vec::new(),
        }
    }

    /// What of the rule is not true of `app`, its tools left aside.
    pub fn mismatch(&self, app: &App) -> Option<Mismatch> {
        self.mismatch_of(&Facts::of(app, None))
    }

    pub(crate) fn mismatch_of(&self, facts: &Facts<'_>) -> Option<Mismatch> {
        if !self.identity.is_of(facts) {
            return Some(Mismatch::Identity);
        }
        if let Some(path) = &self.path
            && !facts.programs.iter().any(|seen| seen.program.is_at(path))
        {
            return Some(Mismatch::Path);
        }
        if let Some(user) = &self.user
            && !user.matches(&facts.app.user)
        {
            return Some(Mismatch::User);
        }
        let requirement = self.requirement.as_ref()?;
        let is_met = self
            .program(facts)
            .is_some_and(|program| requirement.matches(program));
        (!is_met).then_some(Mismatch::Requirement)
    }

    /// The one program that the requirement is about: what the path or else the identity names; of a
    /// script and its interpreter, the script, unless the rule names the interpreter alone.
    pub(crate) fn program<'a>(&self, facts: &Facts<'a>) -> Option<&'a Program> {
        let is_meant = |seen: &&Seen<'_>| match &self.path {
            Some(path) => seen.program.is_at(path),
            None => self.identity.is_program(seen),
        };
        let meant = facts.programs.iter().find(is_meant);
        meant.map(|seen| seen.program)
    }

    /// Whether it manages only what `domains` names.
    pub fn is_for_domains(&self) -> bool {
        !self.domains.is_empty()
    }

    /// Whether it looks at what may change while the program and the real user stay the same, its
    /// tools left aside.
    pub fn is_volatile(&self) -> bool {
        let user = self.user.as_ref();
        self.requirement.is_some() || user.is_some_and(UserCondition::asks_for_groups)
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mismatch::Identity => "names another app",
            Mismatch::Path => "names another path",
            Mismatch::Requirement => "requires another file",
            Mismatch::User => "names another user",
            Mismatch::Tools => "names tools of an app that did not start this one",
        })
    }
}
