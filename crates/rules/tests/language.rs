//! The texts by which rules name apps, users and files: every text is read or refused, and what is
//! printed is read back.

use offramp_rules::{
    Glob, Identity, InvalidIdentity, InvalidUser, Program, Requirement, User, UserCondition,
};
use proptest::prelude::*;

fn requirement() -> impl Strategy<Value = Requirement> {
    let term = prop_oneof![
        any::<[u8; 32]>().prop_map(Requirement::Sha256),
        "[a-zé 0-9@.\\\\]{1,8}".prop_map(Requirement::Owner),
    ];
    term.prop_recursive(8, 32, 2, |inner| {
        let two = (inner.clone(), inner.clone()).prop_map(|(a, b)| (Box::new(a), Box::new(b)));
        prop_oneof![
            two.clone().prop_map(|(a, b)| Requirement::And(a, b)),
            two.prop_map(|(a, b)| Requirement::Or(a, b)),
            inner.prop_map(|a| Requirement::Not(Box::new(a))),
        ]
    })
}

/// What the pattern means, without any thought of time.
fn is_like(pattern: &[char], text: &[char], at_part: bool) -> bool {
    let ends_part = |rest: &[char]| rest.first().is_none_or(|c| *c == '/');
    match (pattern, text) {
        (['*', '*', rest @ ..], _) if at_part && ends_part(rest) => match rest {
            [] => true,
            // No part, or one more.
            ['/', rest @ ..] => {
                is_like(rest, text, true)
                    || text
                        .iter()
                        .position(|c| *c == '/')
                        .is_some_and(|at| is_like(pattern, &text[at + 1..], true))
            }
            _ => false,
        },
        (['*', rest @ ..], _) => {
            is_like(rest, text, false) || !ends_part(text) && is_like(pattern, &text[1..], false)
        }
        (['?', rest @ ..], [c, text @ ..]) => *c != '/' && is_like(rest, text, false),
        ([p, rest @ ..], [c, text @ ..]) => p == c && is_like(rest, text, *p == '/'),
        ([], text) => text.is_empty(),
        (_, []) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_an_identity_or_is_not(
        text in prop_oneof![
            ".{0,40}",
            "(exe|unit|user-unit|cgroup|flatpak|snap|app|wrapper|x|):?[ab/.*?\\[\\]@ -]{0,12}",
        ],
    ) {
        if let Ok(identity) = text.parse::<Identity>() {
            prop_assert_eq!(identity.to_string().parse(), Ok(identity));
        }
    }

    #[test]
    fn any_text_is_a_requirement_or_is_not(
        text in prop_oneof![
            ".{0,60}",
            "((owner|sha256|package|not|and|or|[(]|[)]|=|\"a\"|root|\"|é|\\\\)[ ]?){0,12}",
        ],
    ) {
        match text.parse::<Requirement>() {
            Ok(requirement) => prop_assert_eq!(requirement.to_string().parse(), Ok(requirement)),
            Err(error) => {
                prop_assert!(text.is_char_boundary(error.at));
                prop_assert!(!error.what.is_empty());
            }
        }
    }

    #[test]
    fn any_text_is_a_user_or_is_not(text in prop_oneof![".{0,20}", "@?[0-9a-]{0,12}"]) {
        if let Ok(user) = text.parse::<UserCondition>() {
            prop_assert_eq!(user.to_string().parse(), Ok(user));
        }
    }

    #[test]
    fn a_printed_requirement_is_read_back(requirement in requirement()) {
        prop_assert_eq!(requirement.to_string().parse(), Ok(requirement));
    }

    #[test]
    fn nothing_follows_from_what_is_not_known(requirement in requirement(), owner in any::<u32>()) {
        let unknown = Program::default();
        let contrary = Requirement::Not(Box::new(requirement.clone()));
        prop_assert!(!requirement.matches(&unknown));
        prop_assert!(!contrary.matches(&unknown));
        let known = Program {
            owner: Some(owner),
            owner_name: Some("alice".to_owned()),
            sha256: Some([0; 32]),
            ..Program::default()
        };
        prop_assert_ne!(requirement.matches(&known), contrary.matches(&known));
        // What is known in part says nothing that the whole does not.
        for part in [Program { sha256: None, ..known.clone() }, Program { owner: None, ..known.clone() }] {
            prop_assert!(!requirement.matches(&part) || requirement.matches(&known));
            prop_assert!(!contrary.matches(&part) || contrary.matches(&known));
        }
    }

    #[test]
    fn patterns_mean_what_they_say(
        pattern in "([ab?*]|[*][*]|/){0,8}", text in "[ab/]{0,8}",
    ) {
        if let Ok(glob) = pattern.parse::<Glob>() {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            let expected = is_like(&chars(&pattern), &chars(&text), true);
            prop_assert_eq!(glob.matches(&text), expected, "{} {}", pattern, text);
        }
    }
}

#[test]
fn identities_that_are_none_say_why() {
    let check = |text: &str, expected: InvalidIdentity| {
        assert_eq!(text.parse::<Identity>(), Err(expected), "{text}");
    };
    check("", InvalidIdentity::Nothing);
    check("exe:", InvalidIdentity::Empty("exe".to_owned()));
    check("EXE:curl", InvalidIdentity::UnknownKind("EXE".to_owned()));
    check("/usr/bin/curl", InvalidIdentity::Slash);
    check("exe:bin/curl", InvalidIdentity::Relative);
    check("exe:*/curl", InvalidIdentity::Relative);
    check("exe:/usr/bin/", InvalidIdentity::EmptyPart);
    check("exe:/usr//bin/curl", InvalidIdentity::EmptyPart);
    check("exe:/", InvalidIdentity::EmptyPart);
    check("exe:/usr/../bin/curl", InvalidIdentity::Dots);
    check("exe:/usr/./bin/*", InvalidIdentity::Dots);
    check("exe: curl", InvalidIdentity::Blank);
    check("exe:cu\nrl", InvalidIdentity::Blank);
    check("unit:system.slice/cups.service", InvalidIdentity::Slash);
    check("cgroup:system.slice", InvalidIdentity::Relative);
    check("cgroup:/a/../b", InvalidIdentity::Dots);
    check("flatpak:org.a.*", InvalidIdentity::Wildcard);
    check("firefox*", InvalidIdentity::Wildcard);
    check("app:-a", InvalidIdentity::Sign);
    for text in ["exe:/usr/bin/[", "exe:a**", "exe:/a/b**/c", "unit:***"] {
        let wrong = text.parse::<Identity>();
        assert!(matches!(wrong, Err(InvalidIdentity::Pattern(_))), "{text}");
    }
}

#[test]
fn identities_have_one_form() {
    let check = |text: &str, expected: &str| {
        assert_eq!(text.parse::<Identity>().unwrap().to_string(), expected);
    };
    check("unit:cups", "unit:cups.service");
    check("unit:user.slice", "unit:user.slice");
    check("unit:org.cups.cupsd", "unit:org.cups.cupsd.service");
    check("unit:getty@", "unit:getty@*.service");
    check("unit:getty@.service", "unit:getty@*.service");
    check("user-unit:getty@tty1", "user-unit:getty@tty1.service");
    check("unit:session-*", "unit:session-*");
    check("cgroup:/system.slice/", "cgroup:/system.slice");
    check("cgroup:/", "cgroup:/");
    check("exe:[[]", "exe:[[]");
    check("firefox", "firefox");
}

#[test]
fn requirements_bind_as_they_should() {
    let check = |text: &str, expected: &str| {
        assert_eq!(text.parse::<Requirement>().unwrap().to_string(), expected);
    };
    check("owner=a", "owner = \"a\"");
    check(
        "owner=a or owner=b and not owner=c",
        "owner = \"a\" or owner = \"b\" and not owner = \"c\"",
    );
    check(
        "(owner=a or owner=b) and owner=c",
        "(owner = \"a\" or owner = \"b\") and owner = \"c\"",
    );
    check(
        "((owner=a and owner=b)) or owner=c",
        "owner = \"a\" and owner = \"b\" or owner = \"c\"",
    );
    check(
        "not(owner=a and owner=b)",
        "not (owner = \"a\" and owner = \"b\")",
    );
    let hash = "9F".repeat(32);
    check(
        &format!("sha256={hash}"),
        &format!("sha256 = \"{}\"", hash.to_lowercase()),
    );
}

#[test]
fn requirements_stay_small() {
    let many = |count: usize| vec!["owner=a"; count].join(" or ");
    assert!(many(256).parse::<Requirement>().is_ok());
    let error = many(100_000).parse::<Requirement>().unwrap_err();
    assert_eq!(error.what, "there are more than 256 terms");
    for sign in ["(", "not "] {
        let error = sign.repeat(100_000).parse::<Requirement>().unwrap_err();
        assert_eq!(error.what, "nested more than 32 deep");
    }
    let deep = format!("{}owner=a{}", "(".repeat(32), ")".repeat(32));
    assert!(deep.parse::<Requirement>().is_ok());
}

#[test]
fn users_and_groups() {
    let check = |text: &str, expected: Result<UserCondition, InvalidUser>| {
        assert_eq!(text.parse::<UserCondition>(), expected, "{text}");
    };
    check(
        "alice@example.com",
        Ok(UserCondition::Name("alice@example.com".to_owned())),
    );
    check(
        "@domain users@example.com",
        Ok(UserCondition::GroupName(
            "domain users@example.com".to_owned(),
        )),
    );
    check("1000-1999", Ok(UserCondition::Ids(1000, 1999)));
    check("@7", Ok(UserCondition::GroupIds(7, 7)));
    check("@", Err(InvalidUser::Empty));
    for text in ["1000-+1999", "1000-", "5-4", "4294967296", "1-2-3", "1x"] {
        check(text, Err(InvalidUser::Range(text.to_owned())));
    }
    for text in ["a,b", "-1", " alice", "a:b", "a\nb"] {
        check(text, Err(InvalidUser::Name(text.to_owned())));
    }
    let user = User {
        id: 1000,
        groups: [20, 1000].into(),
        ..User::default()
    };
    let is = |text: &str| text.parse::<UserCondition>().unwrap().matches(&user);
    assert!(is("1000") && is("0-1000") && is("@20") && is("@1-20"));
    assert!(!is("alice") && !is("1001-2000") && !is("@21-999") && !is("@wheel"));
}

#[test]
fn patterns_take_no_more_time_than_they_are_long() {
    let pattern = format!("/{}b/**/{}b/x", "*a".repeat(60), "*a".repeat(60));
    let text = format!("/{0}/{0}/{0}/{0}/x", "a".repeat(250));
    assert!(!pattern.parse::<Glob>().unwrap().matches(&text));
    let text = text.replace("a/", "b/");
    assert!(pattern.parse::<Glob>().unwrap().matches(&text));
    let pattern = "/**/a".repeat(100) + "/b";
    assert!(!pattern.parse::<Glob>().unwrap().matches(&"/a".repeat(2000)));
}
