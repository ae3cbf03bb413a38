//! The texts of profiles, and what users may call their programs and control groups.

use offramp_fuzz::fuzz;

use crate::{Cgroup, DomainName, Glob, Identity, Prefix, Requirement, UserCondition};

/// What is printed means what was read.
fn round_trip<T>(text: &str)
where
    T: std::str::FromStr + std::fmt::Display + PartialEq + std::fmt::Debug,
    T::Err: std::fmt::Debug + std::fmt::Display,
{
    match text.parse::<T>() {
        Ok(value) => assert_eq!(value.to_string().parse::<T>().unwrap(), value, "{text}"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[test]
fn identities() {
    let seeds: &[&[u8]] = &[
        b"exe:/opt/*/msedge",
        b"exe:wild-[a-z]?*",
        b"exe:/a/**/b",
        b"unit:worker@*.service",
        b"user-unit:x.service",
        b"cgroup:/machine.slice/build",
        b"flatpak:org.mozilla.firefox",
        b"snap:firefox",
        b"app:org.gnome.Terminal",
        b"wrapper:com.example.other",
        b"org.x.Y",
    ];
    fuzz("identities", seeds, |input| {
        if let Ok(text) = std::str::from_utf8(input) {
            round_trip::<Identity>(text);
        }
    });
}

#[test]
fn requirements() {
    let seeds: &[&[u8]] = &[
        b"owner = \"root\" and not sha256 = \"00\"",
        b"(owner = \"0\" or path = \"/a\") and not x",
        b"sha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"",
        b"not not owner = \"a\\\"b\"",
    ];
    fuzz("requirements", seeds, |input| {
        if let Ok(text) = std::str::from_utf8(input) {
            round_trip::<Requirement>(text);
        }
    });
}

#[test]
fn patterns() {
    let seeds: &[&[u8]] = &[
        b"*a*b\0aaaaaaaaab",
        b"/opt/*/x\0/opt/a/x",
        b"/a/**/[!b]?\0/a/b/c/d",
        b"[a-\0-",
    ];
    fuzz("patterns", seeds, |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        let (pattern, text) = text.split_once('\0').unwrap_or((text, text));
        // As long as a path and a pattern of a profile may be.
        let pattern: String = pattern.chars().take(256).collect();
        let text: String = text.chars().take(4096).collect();
        if let Ok(glob) = pattern.parse::<Glob>() {
            glob.matches(&text);
            assert!(!glob.is_literal() || glob.matches(&pattern));
        }
    });
}

#[test]
fn conditions_and_blocks() {
    let seeds: &[&[u8]] = &[
        b"alice",
        b"1000-1999",
        b"@staff",
        b"@10-20",
        b"0",
        b"10.0.0.0/8",
        b"2001:db8::/32",
        b"::ffff:1.2.3.4/120",
        b"192.0.2.1",
    ];
    fuzz("conditions_and_blocks", seeds, |input| {
        if let Ok(text) = std::str::from_utf8(input) {
            round_trip::<UserCondition>(text);
            round_trip::<Prefix>(text);
        }
    });
}

#[test]
fn names() {
    let seeds: &[&[u8]] = &[
        b"Example.COM.",
        "bücher.example。".as_bytes(),
        b"_sip._tcp.example.com",
        b"xn--bcher-kva.de",
    ];
    fuzz("names", seeds, |input| {
        if let Ok(text) = std::str::from_utf8(input)
            && let Ok(name) = DomainName::parse(text)
        {
            assert_eq!(DomainName::parse(name.as_str()).as_ref(), Ok(&name));
            assert!(name.as_str().len() <= 253 && name.is_within(&name));
        }
    });
}

#[test]
fn control_groups() {
    let seeds: &[&[u8]] = &[
        b"/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-org.x.Y\\x2dZ-12.scope",
        b"/system.slice/snap.firefox.firefox-1.scope",
        b"/app-flatpak-org.x.Y-1.scope",
        b"/a.slice/user@1.service/dbus-:1.2-org.x.Y@0.service",
    ];
    fuzz("control_groups", seeds, |input| {
        let text = String::from_utf8_lossy(input);
        // The kernel's limit for a path.
        let text: String = text.chars().take(4096).collect();
        let group = Cgroup::new(&text);
        group.bundles();
        assert!(group.is_within("/") && group.is_within(&group.to_string()));
        let units = group.system_units().chain(group.user_units());
        assert!(units.map(str::len).sum::<usize>() <= text.len());
    });
}
