//! `/etc/hosts`: names that programs look up there by themselves, and ask nobody about.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

use offramp_rules::{Claims, DomainName, Prefix, Profiles, Verdict, Why, World, decide_name};

pub(crate) const PATH: &str = "/etc/hosts";
/// Addresses that are looked at; lists of what is to be blocked have names by the thousand, of
/// addresses that no app reaches.
const ADDRESSES: usize = 1024;
/// Names that are looked at for one address.
const NAMES: usize = 64;

/// What the file says, by address.
#[derive(Debug, Default)]
pub(crate) struct Hosts(BTreeMap<IpAddr, Vec<DomainName>>);

impl Hosts {
    /// What the file says of addresses that `is_openable` lets pass; nothing where it is missing.
    pub(crate) fn read(is_openable: impl Fn(IpAddr) -> bool) -> Self {
        Self::parse(&fs::read_to_string(PATH).unwrap_or_default(), is_openable)
    }

    fn parse(text: &str, is_openable: impl Fn(IpAddr) -> bool) -> Self {
        let mut all = BTreeMap::<IpAddr, Vec<DomainName>>::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else {
                continue;
            };
            let address = address.to_canonical();
            let is_full = all.len() >= ADDRESSES && !all.contains_key(&address);
            if is_full || !is_openable(address) {
                continue;
            }
            let names = words.filter_map(|name| DomainName::parse(name).ok());
            let known = all.entry(address).or_default();
            known.extend(names.take(NAMES + 1 - known.len().min(NAMES)));
        }
        // Of too many names not all were looked at.
        all.retain(|_, names| !names.is_empty() && names.len() <= NAMES);
        Self(all)
    }

    /// The addresses all of whose names are excluded for apps with these claims.
    pub(crate) fn excluded<'a>(
        &'a self,
        rules: &'a Profiles,
        claims: &'a Claims,
        world: &'a World,
    ) -> impl Iterator<Item = Prefix> + 'a {
        // There the addresses of excluded names are never open: flows are decided one by one.
        let mut claiming = rules.iter().filter(|profile| claims.is_under(&profile.id));
        let is_open = !claiming.any(|profile| profile.real_addresses);
        let is_excluded = move |name: &DomainName| {
            let verdict = decide_name(rules, claims, name, world).verdict;
            matches!(verdict, Verdict::Direct(Why::Excluded(..)))
        };
        let all = self.0.iter();
        all.filter(move |(_, names)| is_open && names.iter().all(is_excluded))
            .map(|(address, _)| Prefix::host(*address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_an_address_and_names() {
        let text = "# 192.0.2.9 no\n192.0.2.1 a.example A # b\n\n::1 localhost\n192.0.2.1 c\n\
                    192.0.2.2\nx y\n::ffff:192.0.2.3\td\n";
        let Hosts(all) = Hosts::parse(text, |address| !address.is_loopback());
        let found: Vec<String> = all
            .iter()
            .map(|(address, names)| format!("{address} {names:?}"))
            .collect();
        assert_eq!(
            found,
            [
                r#"192.0.2.1 [DomainName("a.example"), DomainName("a"), DomainName("c")]"#,
                r#"192.0.2.3 [DomainName("d")]"#
            ]
        );
        let many = format!("192.0.2.1 a\n192.0.2.2{}\n", " a".repeat(NAMES + 1));
        assert_eq!(Hosts::parse(&many, |_| true).0.len(), 1);
    }
}
