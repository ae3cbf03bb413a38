use std::fmt;
use std::path::PathBuf;

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
    /// It is none of the tools, or was not started by the app.
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
        if !self.identity.matches(app) {
            return Some(Mismatch::Identity);
        }
        let is_there =
            |program: &Program| self.path.as_deref().is_none_or(|path| program.is_at(path));
        if self.path.is_some() && !app.programs().any(is_there) {
            return Some(Mismatch::Path);
        }
        if let Some(user) = &self.user
            && !user.matches(&app.user)
        {
            return Some(Mismatch::User);
        }
        let requirement = self.requirement.as_ref()?;
        // Of a script and its interpreter, that one counts which the rule names.
        let named = |program: &&Program| {
            let alone = App {
                executable: Some((*program).clone()),
                script: None,
                ..app.clone()
            };
            self.identity.matches(&alone) && is_there(program)
        };
        let is_met = app
            .programs()
            .filter(named)
            .any(|program| requirement.matches(program));
        (!is_met).then_some(Mismatch::Requirement)
    }

    /// Whether it manages only what `domains` names.
    pub fn is_for_domains(&self) -> bool {
        !self.domains.is_empty()
    }

    /// Whether more than file, control group and real user has to be known to tell, so that the same
    /// program may match at one time and not at another.
    pub fn is_volatile(&self) -> bool {
        let user = self
            .user
            .as_ref()
            .is_some_and(UserCondition::asks_for_groups);
        user || self.requirement.is_some() || self.tools.iter().any(Rule::is_volatile)
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mismatch::Identity => "names another app",
            Mismatch::Path => "names another path",
            Mismatch::Requirement => "requires another file",
            Mismatch::User => "names another user",
            Mismatch::Tools => "names other tools, or another app that starts them",
        })
    }
}
