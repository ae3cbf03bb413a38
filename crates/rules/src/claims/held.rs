use super::{Claims, key, of};
use crate::{DomainName, Identity, Profile, Rule};

/// A rule that claims a process.
pub(crate) struct Held<'a> {
    pub(crate) name: String,
    /// Names that are meant alone: a target has to be within one of each list that is not empty.
    pub(crate) domains: [&'a [DomainName]; 2],
}

impl Claims {
    /// The rules of `profile` that name the process, in the order of the profile. The implied
    /// `wrapper:` comes last.
    pub(crate) fn of<'a>(&'a self, profile: &'a Profile) -> impl Iterator<Item = Held<'a>> {
        let claims: Vec<_> = of(&self.rules, &profile.id).collect();
        let rules: &[Rule] = match claims.is_empty() {
            true => &[],
            false => &profile.rules,
        };
        let each = rules.iter().flat_map(|rule| {
            let tools = rule.tools.iter().map(move |tool| (rule, Some(tool)));
            std::iter::once((rule, None)).chain(tools)
        });
        let held = each.filter_map(move |(rule, tool)| {
            let key = key(rule, tool);
            let at = claims
                .binary_search_by_key(&key, |claim| claim.key())
                .ok()?;
            Some(Held {
                name: claims[at].label(),
                domains: [&rule.domains, tool.map_or(&[], |tool| &tool.domains)],
            })
        });
        let implied = (self.wrapper.as_ref() == Some(&profile.id)).then(|| Held {
            name: Identity::Wrapper(profile.id.clone()).to_string(),
            domains: [&[], &[]],
        });
        held.chain(implied)
    }
}
