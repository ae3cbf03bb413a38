//! The browsers of this machine: apps whose desktop entries open links to web pages.

use std::collections::{BTreeMap, BTreeSet};

use offramp_rules::{Identity, Profile, Rule, UserCondition};

use super::Known;
use super::folders::{self, Folder};
use crate::facts::desktop;
use crate::facts::file::Opened;

/// How many entries of a folder are looked at, and how many browsers are taken: of everybody, and of
/// one user's own. Whoever writes entries is not to make much work for all.
const SHARED: Most = Most {
    entries: 8192,
    browsers: 128,
};
const OWN: Most = Most {
    entries: 256,
    browsers: 16,
};

struct Most {
    entries: usize,
    browsers: usize,
}

/// The browsers that were found, and where.
#[derive(Default)]
pub(crate) struct Browsers {
    found: BTreeSet<Browser>,
    known: Known,
}

/// One of them. What is in the home of a user is one for that user's processes alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Browser {
    user: Option<u32>,
    identity: Identity,
}

impl Browsers {
    /// Looks at all desktop entries.
    pub(crate) fn search() -> Self {
        Self::in_folders(folders::of_entries())
    }

    fn in_folders(folders: Vec<Folder>) -> Self {
        let mut browsers = Self::default();
        let mut counts: BTreeMap<Option<u32>, usize> = BTreeMap::new();
        for Folder { path, user } in folders {
            browsers.known.watch(&path);
            let most = if user.is_some() { OWN } else { SHARED };
            let names = folders::list(&path);
            let ids = names
                .iter()
                .filter_map(|name| name.strip_suffix(".desktop"));
            for id in ids.take(most.entries) {
                let file = path.join(format!("{id}.desktop"));
                browsers.known.watch(&file);
                let count = counts.entry(user).or_default();
                let entry = Opened::at(&file).ok().filter(|_| *count < most.browsers);
                let browser = entry.and_then(|entry| desktop::browser(&entry));
                let Some(identity) = browser.and_then(|browser| identity(browser, id)) else {
                    continue;
                };
                *count += 1;
                browsers.found.insert(Browser { user, identity });
            }
        }
        browsers
    }

    /// Whether all entries are as they were.
    pub(crate) fn is_current(&self) -> bool {
        self.known.is_current()
    }

    /// The rules that claim them for these names, called as no rule of the profile is, with whose
    /// each is.
    pub(crate) fn rules(
        &self,
        profile: &Profile,
        domains: &[offramp_rules::DomainName],
    ) -> Vec<(Rule, Option<u32>)> {
        let browsers = self.found.iter().filter(|_| !domains.is_empty());
        let rules = browsers.map(|browser| {
            let rule = Rule {
                identifier: browser.name(profile),
                user: browser.user.map(|user| UserCondition::Ids(user, user)),
                domains: domains.to_vec(),
                ..Rule::new(browser.identity.clone())
            };
            (rule, browser.user)
        });
        rules.collect()
    }
}

impl Browser {
    fn name(&self, profile: &Profile) -> String {
        let mut name = format!("BrowserDomains: {}", self.identity);
        if let Some(user) = self.user {
            name += &format!(" of {user}");
        }
        while profile.rules.iter().any(|rule| rule.identifier == name) {
            name.push('\'');
        }
        name
    }
}

fn identity(browser: desktop::Browser, id: &str) -> Option<Identity> {
    let text = match browser {
        desktop::Browser::Entry => format!("app:{id}"),
        desktop::Browser::Flatpak(id) => format!("flatpak:{id}"),
        desktop::Browser::Snap(name) => format!("snap:{name}"),
    };
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn entry(folder: &Path, name: &str, more: &str) {
        let text =
            format!("[Desktop Entry]\nExec=/bin/sh\nMimeType=x-scheme-handler/https;\n{more}");
        fs::write(folder.join(name), text).expect("there is room");
    }

    #[test]
    fn browsers_are_found_and_followed() {
        let shared = tempfile::tempdir().expect("there is room");
        let home = tempfile::tempdir().expect("there is room");
        let search = || {
            let folder = |path: &Path, user| Folder {
                path: path.to_owned(),
                user,
            };
            Browsers::in_folders(vec![
                folder(shared.path(), None),
                folder(home.path(), Some(1000)),
            ])
        };
        let told = |browsers: &Browsers| -> Vec<String> {
            let found = browsers.found.iter();
            found
                .map(|browser| format!("{:?} {}", browser.user, browser.identity))
                .collect()
        };
        entry(shared.path(), "one.desktop", "");
        entry(shared.path(), "two.desktop", "X-Flatpak=org.two.Two\n");
        entry(shared.path(), "no.desktop", "Hidden=true\n");
        entry(shared.path(), "none.txt", "");
        let before = search();
        let expected = ["None flatpak:org.two.Two", "None app:one"];
        assert_eq!(told(&before), expected);
        assert!(before.is_current());
        for number in 0..OWN.browsers + 10 {
            entry(home.path(), &format!("own{number}.desktop"), "");
        }
        assert!(!before.is_current());
        let now = search();
        let own = now.found.iter().filter(|own| own.user == Some(1000));
        assert_eq!(own.count(), OWN.browsers);
        // In place, without a trace in the folder.
        fs::write(shared.path().join("one.desktop"), "[Desktop Entry]\n").expect("it is there");
        assert!(!now.is_current());
        assert!(!told(&search()).contains(&"None app:one".to_owned()));
    }
}
