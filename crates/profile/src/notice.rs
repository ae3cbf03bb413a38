//! What is right, and may not do what is meant, or do it at a cost.

use std::collections::HashMap;
use std::path::Path;

use nix::unistd::{Group, User};
use offramp_rules::{Identity, Profiles, Rule, UserCondition, candidates};

use crate::files;
use crate::json::{self, Value};
use crate::problem::{Code, Problem};
use crate::profile::Profile;
use crate::read::find_declaration;

/// How many notices of one profile are told; nobody reads more.
const MOST: usize = 20;

/// What a person should know about a profile that is right: rules that cost something, or that name
/// what is not there now. It asks the system for the users that the rules name.
pub fn notices(profile: &Profile) -> Vec<Problem> {
    Notices::default().of(profile)
}

/// Finds notices, and asks the system once for each user.
#[derive(Default)]
pub(crate) struct Notices {
    known: HashMap<UserCondition, bool>,
}

struct Notice {
    key: &'static str,
    message: String,
    hint: String,
}

impl Notices {
    pub(crate) fn of(&mut self, profile: &Profile) -> Vec<Problem> {
        let any = candidates(&Profiles::new([profile.rules.clone()])).any;
        let mut found = Vec::new();
        for (index, rule) in profile.rules.rules.iter().enumerate() {
            let every = any.contains(&format!("{}: {}", profile.id(), rule.identifier));
            let tools = rule.tools.iter().enumerate();
            let tools = tools.map(|(tool, rule)| ([Some(index), Some(tool)], rule, false));
            for (place, rule, every) in
                std::iter::once(([Some(index), None], rule, every)).chain(tools)
            {
                if found.len() >= MOST {
                    return locate(profile, found);
                }
                let all = self.of_rule(profile, rule, every);
                found.extend(all.into_iter().map(|notice| (place, notice)));
            }
        }
        locate(profile, found)
    }

    fn of_rule(&mut self, profile: &Profile, rule: &Rule, every: bool) -> Vec<Notice> {
        let mut found = Vec::new();
        if every {
            found.push(Notice {
                key: "SigningIdentifier",
                message: "could be any program: each start of a program that is new is looked at"
                    .to_owned(),
                hint: "name what it can be told by, or add a Path".to_owned(),
            });
        }
        found.extend(bundle(&rule.identity));
        // What a user's profile names may be a file that makes its reader wait.
        let may_read = profile.rules.owner.is_none();
        found.extend(script(rule, may_read));
        if let Some(user) = &rule.user
            && !self.is_known(user)
        {
            found.push(Notice {
                key: "User",
                message: format!("there is no {user} on this machine now"),
                hint: "until there is, the rule names nothing".to_owned(),
            });
        }
        found
    }

    fn is_known(&mut self, user: &UserCondition) -> bool {
        if let Some(known) = self.known.get(user) {
            return *known;
        }
        // An error is no answer.
        let known = match user {
            UserCondition::Name(name) => {
                User::from_name(name).map_or(true, |found| found.is_some())
            }
            UserCondition::GroupName(name) => {
                Group::from_name(name).map_or(true, |found| found.is_some())
            }
            UserCondition::Ids(..) | UserCondition::GroupIds(..) => true,
        };
        self.known.insert(user.clone(), known);
        known
    }
}

/// Names of programs where a bundle's is taken for them.
fn bundle(identity: &Identity) -> Option<Notice> {
    let (message, hint) = match identity {
        Identity::Any(id) if !id.contains('.') => (
            format!("means what is installed as {id}: a Flatpak, a snap or a desktop entry"),
            format!("write exe:{id} for every program of this name, or else snap:{id} or app:{id}"),
        ),
        Identity::Flatpak(id) if id.matches('.').count() < 2 => (
            format!("no Flatpak can be called {id}"),
            "write its whole id, such as org.mozilla.firefox".to_owned(),
        ),
        _ => return None,
    };
    Some(Notice {
        key: "SigningIdentifier",
        message,
        hint,
    })
}

fn script(rule: &Rule, may_read: bool) -> Option<Notice> {
    let path = match (&rule.path, &rule.identity) {
        (Some(path), _) | (None, Identity::Path(path)) => Some(&**path),
        _ => None,
    };
    let name = match (&rule.identity, path) {
        (_, Some(path)) => path.file_name()?.to_str()?,
        (Identity::Name(name), None) => name.as_str(),
        (Identity::Paths(pattern), None) => pattern.as_str(),
        _ => return None,
    };
    let interpreter = by_ending(name).map(str::to_owned);
    let interpreter = interpreter.or_else(|| shebang(path.filter(|_| may_read)?))?;
    Some(Notice {
        key: "SigningIdentifier",
        message: format!("names a script: each start of {interpreter} is looked at"),
        hint: "what starts faster is a program of its own, or a unit".to_owned(),
    })
}

fn by_ending(name: &str) -> Option<&'static str> {
    let (_, ending) = name.rsplit_once('.')?;
    Some(match ending {
        "js" | "mjs" | "cjs" => "node",
        "lua" => "lua",
        "php" => "php",
        "pl" => "perl",
        "py" => "python",
        "rb" => "ruby",
        "bash" => "bash",
        "sh" => "the shell",
        _ => return None,
    })
}

/// The interpreter that a script names in its first line.
fn shebang(path: &Path) -> Option<String> {
    let bytes = files::read(path, 0, 255).ok()?;
    let line = bytes.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line
        .split_whitespace()
        .filter_map(|word| Path::new(word).file_name()?.to_str());
    match words.next()? {
        "env" => words.find(|word| !word.starts_with('-') && !word.contains('=')),
        interpreter => Some(interpreter),
    }
    .map(str::to_owned)
}

type Place = [Option<usize>; 2];

fn locate(profile: &Profile, found: Vec<(Place, Notice)>) -> Vec<Problem> {
    if found.is_empty() {
        return Vec::new();
    }
    let source = &profile.source;
    let root = json::parse(&source.text).ok();
    let rules = root.as_ref().and_then(|root| {
        let declaration = find_declaration(root, profile.identifier())?;
        declaration.key("Payload")?.key("AppRules")
    });
    let problem = |([rule, tool], notice): (Place, Notice)| {
        let mut path = String::from("Payload.AppRules");
        let mut value: Option<&Value<'_>> = rules;
        for (index, step) in [(rule, None), (tool, Some("MatchTools"))] {
            let Some(index) = index else { continue };
            if let Some(step) = step {
                path += &format!(".{step}");
                value = value.and_then(|value| value.key(step));
            }
            path += &format!("[{index}]");
            value = value.and_then(|value| value.elements().get(index));
        }
        let value = value.and_then(|value| value.key(notice.key));
        let (line, column) = value.map_or((0, 0), |value| json::position(&source.text, value.at));
        Problem {
            code: Code::Notice,
            file: source.file.clone(),
            line,
            column,
            key_path: format!("{path}.{}", notice.key),
            message: notice.message,
            hint: Some(notice.hint),
        }
    };
    found.into_iter().map(problem).collect()
}
