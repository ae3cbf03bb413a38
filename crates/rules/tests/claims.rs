//! Which rules name an app, for every set of rules and every app.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use offramp_rules::{
    App, Bundle, Candidates, Cgroup, Claim, Claims, DomainName, Found, Host, Identity, Layer,
    Overlay, Prefix, Profile, ProfileId, Profiles, Program, Requirement, Rule, State, Target,
    UnavailableAction, User, UserCondition, Verdict, World, candidates, claims, decide,
    direct_routes, examine, is_settled,
};
use proptest::collection::{btree_set, vec};
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

// Few of everything, so that things meet.
const PATHS: &[&str] = &[
    "/usr/bin/curl",
    "/usr/bin/vi",
    "/opt/a/tool",
    "/opt/b/tool",
    "/opt/b/vi",
    "/home/u/.x",
    "/var/lib/flatpak/app/bin/tool",
];
const NAMES: &[&str] = &["curl", "vi", "tool", ".x", "other"];
const IDENTITIES: &[&str] = &[
    "exe:curl",
    "exe:vi",
    "exe:t*l",
    "exe:?i",
    "exe:/usr/bin/curl",
    "exe:/opt/b/tool",
    "exe:/opt/*/tool",
    "exe:/opt/**",
    "exe:/**/vi",
    "unit:cups",
    "unit:getty@",
    "unit:getty@tty*",
    "unit:session-*.scope",
    "unit:c*",
    "user-unit:app-*",
    "user-unit:x.slice",
    "cgroup:/",
    "cgroup:/system.slice",
    "cgroup:/a/b",
    "flatpak:org.a.B",
    "snap:foo",
    "app:firefox",
    "app:foo-bar",
    "app:foo@bar.desktop",
    "org.a.B",
    "foo",
    "wrapper:p",
    "wrapper:other",
];
const PARTS: &[&str] = &[
    "system.slice",
    "user.slice",
    "user-1000.slice",
    "user@1000.service",
    "session-2.scope",
    "app.slice",
    "x.slice",
    "cups.service",
    "getty@tty1.service",
    "init.scope",
    "a",
    "b",
    "..",
    "",
];
const USERS: &[(u32, &str)] = &[(0, "root"), (1000, "alice"), (1001, "bob@example.com")];

fn id() -> impl Strategy<Value = String> {
    prop_oneof![
        select(
            &[
                "org.a.B", "firefox", "foo-bar", "foo@bar", "foo", "snap", "é"
            ][..]
        )
        .prop_map(str::to_owned),
        "[ab@.-]{1,4}",
    ]
}

/// As systemd-escape(1) has it.
fn escape(id: &str) -> String {
    id.replace('\\', "\\x5c")
        .replace('-', "\\x2d")
        .replace('@', "\\x40")
        .replace('é', "\\xc3\\xa9")
}

fn part() -> impl Strategy<Value = String> {
    let heads = &[
        "app-",
        "app-gnome-",
        "app-flatpak-",
        "dbus-:1.2-",
        "snap.",
        "",
    ][..];
    let ends = &["", "-12", "@0", ".x", "-a-b", "-"][..];
    let kinds = &[".scope", ".service", ".slice", ""][..];
    let made = (
        select(heads),
        id(),
        any::<bool>(),
        select(ends),
        select(kinds),
    )
        .prop_map(|(head, id, escaped, end, kind)| {
            let id = if escaped { escape(&id) } else { id };
            format!("{head}{id}{end}{kind}")
        });
    prop_oneof![2 => select(PARTS).prop_map(str::to_owned), 1 => made]
}

fn cgroup() -> impl Strategy<Value = Cgroup> {
    const SESSION: &str = "user.slice/user-1000.slice/user@1000.service/app.slice/";
    let head = select(vec!["", "system.slice/", SESSION]);
    (head, vec(part(), 0..4))
        .prop_map(|(head, parts)| Cgroup::new(&format!("/{head}{}", parts.join("/"))))
}

fn identity() -> impl Strategy<Value = Identity> {
    let kinds = &["flatpak:", "snap:", "app:", "unit:", "user-unit:", ""][..];
    let made = (select(kinds), id()).prop_filter_map("no identity", |(kind, id)| {
        format!("{kind}{id}").parse().ok()
    });
    prop_oneof![
        3 => select(IDENTITIES).prop_map(|text| text.parse().unwrap()),
        1 => made,
    ]
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let term = prop_oneof![
        (0..3u8).prop_map(|byte| Requirement::Sha256([byte; 32])),
        select(&["root", "alice", "1000", "a b"][..])
            .prop_map(|owner| Requirement::Owner(owner.to_owned())),
    ];
    term.prop_recursive(6, 24, 2, |inner| {
        let two = (inner.clone(), inner.clone()).prop_map(|(a, b)| (Box::new(a), Box::new(b)));
        prop_oneof![
            two.clone().prop_map(|(a, b)| Requirement::And(a, b)),
            two.prop_map(|(a, b)| Requirement::Or(a, b)),
            inner.prop_map(|a| Requirement::Not(Box::new(a))),
        ]
    })
}

fn user_condition() -> impl Strategy<Value = UserCondition> {
    select(
        &[
            "alice",
            "1000",
            "0-1000",
            "@wheel",
            "@10-20",
            "@1001",
            "bob@example.com",
        ][..],
    )
    .prop_map(|text| text.parse().unwrap())
}

fn domain() -> impl Strategy<Value = DomainName> {
    select(
        &[
            "example.com",
            "a.example.com",
            "b.example.com",
            "example.org",
            "com",
        ][..],
    )
    .prop_map(|name| DomainName::parse(name).unwrap())
}

fn simple_rule() -> impl Strategy<Value = Rule> {
    (
        identity(),
        of(select(PATHS).prop_map(PathBuf::from))
            .prop_map(|path| path.filter(|p| p.ends_with("vi"))),
        prop::option::weighted(0.2, requirement()),
        prop::option::weighted(0.2, user_condition()),
        vec(domain(), 0..3),
    )
        .prop_map(|(identity, path, requirement, user, domains)| Rule {
            path,
            requirement,
            user,
            domains,
            ..Rule::new(identity)
        })
}

fn apart(mut rules: Vec<Rule>) -> Vec<Rule> {
    for (index, rule) in rules.iter_mut().enumerate() {
        rule.identifier = format!("{index} {}", rule.identity);
    }
    rules
}

fn rule() -> impl Strategy<Value = Rule> {
    let tools = prop_oneof![2 => Just(Vec::new()), 1 => vec(simple_rule(), 1..3)];
    (simple_rule(), tools).prop_map(|(rule, tools)| Rule {
        tools: apart(tools),
        ..rule
    })
}

fn profile() -> impl Strategy<Value = Profile> {
    let owner = of(select(USERS)).prop_map(|user| user.map(|(id, _)| id));
    let overlay = (vec(domain(), 0..2), of(any::<bool>())).prop_map(|(domains, local)| Overlay {
        excluded_domains: domains,
        exclude_local_networks: local,
        ..Overlay::default()
    });
    let overlays = vec((select(USERS), overlay), 0..2).prop_map(|all| {
        all.into_iter()
            .map(|((id, _), overlay)| (id, overlay))
            .collect()
    });
    (
        select(&["p", "q", "r"][..]),
        select(&[Layer::Managed, Layer::User][..]),
        prop::bool::weighted(0.9),
        owner,
        vec(rule(), 0..4),
        vec(domain(), 0..2),
        overlays,
    )
        .prop_map(
            |(id, layer, enabled, owner, rules, excluded_domains, overlays)| Profile {
                layer,
                order: 1,
                id: ProfileId::new(id),
                owner,
                enabled,
                rules: apart(rules),
                excluded_domains,
                excluded_fqdns: Vec::new(),
                excluded_routes: Vec::new(),
                exclude_local_networks: false,
                unavailable: UnavailableAction::Drop,
                real_addresses: false,
                refuse_encrypted: false,
                encrypted_resolvers: Vec::new(),
                overlays,
            },
        )
}

fn profiles() -> impl Strategy<Value = Profiles> {
    vec(profile(), 0..4).prop_map(Profiles::new)
}

fn program() -> impl Strategy<Value = Program> {
    (
        of(select(PATHS)),
        select(NAMES),
        btree_set(select(PATHS).prop_map(PathBuf::from), 0..2),
        of(select(USERS)),
        of(0..3u8),
    )
        .prop_map(|(path, name, known_as, owner, hash)| Program {
            name: Some(
                path.map_or(name, |path| path.rsplit('/').next().unwrap())
                    .to_owned(),
            ),
            path: path.map(PathBuf::from),
            known_as,
            owner: owner.map(|(id, _)| id),
            owner_name: owner.map(|(_, name)| name.to_owned()),
            sha256: hash.map(|byte| [byte; 32]),
        })
}

fn user() -> impl Strategy<Value = User> {
    (
        select(USERS),
        btree_set(select(&[10u32, 1001][..]), 0..2),
        any::<bool>(),
    )
        .prop_map(|((id, name), groups, is_wheel)| User {
            id,
            name: Some(name.to_owned()),
            groups,
            group_names: is_wheel.then(|| "wheel".to_owned()).into_iter().collect(),
        })
}

fn app() -> impl Strategy<Value = App> {
    let bundle = prop_oneof![
        id().prop_map(Bundle::Flatpak),
        id().prop_map(Bundle::Snap),
        id().prop_map(Bundle::Desktop),
    ];
    (
        prop::option::weighted(
            0.2,
            select(&["p", "q", "other"][..]).prop_map(ProfileId::new),
        ),
        user(),
        of(program()),
        prop::option::weighted(0.2, program()),
        of(cgroup()),
        prop_oneof![3 => Just(BTreeSet::new()), 1 => btree_set(bundle, 0..2)],
    )
        .prop_map(|(wrapper, user, executable, script, cgroup, bundles)| App {
            wrapper,
            user,
            executable,
            script,
            cgroup,
            bundles,
        })
}

fn none() -> Claims {
    Claims::default()
}

fn all(claims: &Claims) -> impl Iterator<Item = &Claim> {
    claims.rules.iter().chain(&claims.below)
}

/// What the kernel programs see at an exec, where the desktop entries, the interpreters of scripts
/// and the containers of bundles are left aside.
fn is_seen_by_the_kernel(candidates: &Candidates, app: &App) -> bool {
    let has_name = |name: &str| candidates.names.contains(name);
    let is_listed = |path: &PathBuf| {
        candidates.paths.contains(path) || has_name(path.file_name().unwrap().to_str().unwrap())
    };
    let by_file = [&app.executable, &app.script]
        .into_iter()
        .flatten()
        .any(|program| {
            program.name.as_deref().is_some_and(has_name) || program.known_as.iter().any(is_listed)
        });
    let has = |text: &str| candidates.cgroup_names.contains(text);
    let is_seen = |part: &str| {
        let mut piece = 0;
        let mut found = has(part) || has(&part[part.rfind('-').map_or(0, |at| at + 1)..]);
        for (at, sign) in part.char_indices() {
            if matches!(sign, '-' | '@' | '.') {
                found |= has(&part[..at]);
            }
            if matches!(sign, '-' | '@') {
                found |= has(&part[piece..at]);
            }
            if sign == '-' {
                piece = at + 1;
            }
        }
        found
    };
    let by_group = app
        .cgroup
        .as_ref()
        .is_some_and(|cgroup| cgroup.to_string().split('/').any(is_seen));
    !candidates.any.is_empty() || by_file || by_group
}

#[test]
fn an_app_is_told_by_few_pieces_however_its_id_is_written() {
    let ids = [
        "org.example.App",
        "a-b",
        "a-b-c.desktop",
        "a@b",
        "a-",
        "ä-ö",
    ];
    let escape = |id: &str| -> String {
        let escaped = |c: char| match c {
            'a'..='z' | 'A'..='Z' | '.' | ':' | '_' => c.to_string(),
            c => {
                let mut bytes = [0; 4];
                let bytes = c.encode_utf8(&mut bytes).bytes();
                bytes.map(|byte| format!("\\x{byte:02x}")).collect()
            }
        };
        id.chars().map(escaped).collect()
    };
    for id in ids {
        for kind in ["app", "flatpak"] {
            let identity: Identity = format!("{kind}:{id}").parse().unwrap();
            let profiles = Profiles::new([sample(Rule::new(identity))]);
            let found = candidates(&profiles);
            assert!(found.cgroup_names.len() <= 10, "{found:?}");
            for id in [id.to_owned(), escape(id)] {
                for launcher in ["", "flatpak-", "gnome-"] {
                    for end in [".scope", "-12.scope", "@1.service", ".slice/x.service"] {
                        let path = format!(
                            "user.slice/user-1.slice/user@1.service/app.slice/app-{launcher}{id}{end}"
                        );
                        let app = App {
                            cgroup: Some(Cgroup::new(&path)),
                            ..App::default()
                        };
                        if claims(&profiles, &app, &none()).is_empty() {
                            assert!(kind == "flatpak" && launcher != "flatpak-", "{path}");
                        } else {
                            assert!(found.include(&app), "{path}: {found:?}");
                            assert!(is_seen_by_the_kernel(&found, &app), "{path}: {found:?}");
                        }
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn what_rules_name_is_a_candidate(profiles in profiles(), mut app in app()) {
        app.wrapper = None;
        let found = candidates(&profiles);
        if !claims(&profiles, &app, &none()).is_empty() {
            prop_assert!(found.include(&app));
        }
        app.bundles.clear();
        if !claims(&profiles, &app, &none()).is_empty() {
            prop_assert!(found.include(&app));
            prop_assert!(is_seen_by_the_kernel(&found, &app));
        }
        if !found.by_user {
            let own = claims(&profiles, &app, &none());
            for &(id, name) in USERS {
                app.user.id = id;
                app.user.name = Some(name.to_owned());
                prop_assert_eq!(&own, &claims(&profiles, &app, &none()));
            }
        }
    }

    #[test]
    fn the_order_of_rules_does_not_matter(
        (given, shuffled) in vec(profile(), 0..4).prop_flat_map(|mut given| {
            let mut seen = BTreeSet::new();
            given.retain(|profile| seen.insert(profile.id.clone()));
            let mut reversed = given.clone();
            reversed.iter_mut().for_each(|profile| profile.rules.reverse());
            (Just(given), Just(reversed).prop_shuffle())
        }),
        app in app(), parent in app(),
    ) {
        let (given, shuffled) = (Profiles::new(given), Profiles::new(shuffled));
        let inherited = claims(&given, &parent, &none());
        let found = claims(&given, &app, &inherited);
        prop_assert_eq!(&found, &claims(&given, &app, &inherited));
        prop_assert_eq!(&found, &claims(&shuffled, &app, &inherited));
    }

    #[test]
    fn examine_says_what_claims_has(profiles in profiles(), app in app(), parent in app()) {
        let inherited = claims(&profiles, &parent, &none());
        let found = claims(&profiles, &app, &inherited);
        let findings = examine(&profiles, &app, &inherited);
        let those = |is: fn(&Found) -> bool| -> BTreeSet<Claim> {
            let those = findings.iter().filter(|finding| is(&finding.found));
            those.map(|finding| finding.claim.clone()).collect()
        };
        prop_assert_eq!(&found.rules, &those(|found| matches!(found, Found::Matches | Found::Inherited)));
        prop_assert_eq!(&found.below, &those(|found| matches!(found, Found::Above)));
        for finding in &findings {
            prop_assert_eq!(finding.to_string(), format!("{}: {}", finding.claim, finding.sentence));
            prop_assert!(!finding.sentence.is_empty());
        }
    }

    #[test]
    fn nobody_elses_profile_claims(profiles in profiles(), app in app(), parent in app()) {
        let inherited = claims(&profiles, &parent, &none());
        for claim in all(&claims(&profiles, &app, &inherited)) {
            let profile = profiles.find(&claim.profile).unwrap();
            prop_assert!(profile.enabled);
            prop_assert!(profile.owner.is_none_or(|owner| owner == app.user.id));
        }
    }

    #[test]
    fn children_keep_what_names_their_ancestors(
        profiles in profiles(), parent in app(), child in app(), grandchild in app(),
    ) {
        let above = claims(&profiles, &parent, &none());
        let found = claims(&profiles, &child, &above);
        prop_assert!(child.wrapper.is_some() || found.wrapper == above.wrapper);
        let stays = |claim: &&Claim| {
            let owner = profiles.find(&claim.profile).unwrap().owner;
            owner.is_none_or(|owner| owner == child.user.id)
        };
        prop_assert!(above.rules.iter().filter(stays).all(|claim| found.rules.contains(claim)));
        prop_assert!(above.below.iter().filter(stays).all(|claim| found.below.contains(claim)));
        // A tool is one below its app alone, however far.
        for claim in found.rules.iter().filter(|claim| claim.tool.is_some()) {
            let app = Claim { tool: None, ..claim.clone() };
            prop_assert!(above.below.contains(&app));
        }
        prop_assert!(above.rules.iter().all(|claim| claim.tool.is_none()));
        let further = claims(&profiles, &grandchild, &found);
        let tools = found.rules.iter().filter(|claim| claim.tool.is_some());
        for claim in tools {
            let owner = profiles.find(&claim.profile).unwrap().owner;
            prop_assert!(owner.is_some() || further.rules.contains(claim));
        }
    }

    #[test]
    fn an_overlay_is_for_its_user_alone(profiles in profiles(), app in app(), name in domain()) {
        let found = claims(&profiles, &app, &none());
        let is_under = |profile: &&Profile| {
            found.wrapper.as_ref() == Some(&profile.id)
                || found.rules.iter().any(|claim| claim.profile == profile.id)
        };
        let changed = profiles
            .iter()
            .filter(|profile| profile.enabled)
            .filter(is_under)
            .any(|profile| profile.overlays.contains_key(&app.user.id));
        prop_assert_eq!(found.user, changed.then_some(app.user.id));
        let others = Profiles::new(profiles.iter().cloned().map(|mut profile| {
            profile.overlays.retain(|user, _| *user == app.user.id);
            profile
        }));
        let target = Target { host: Host::Name(name), port: 443 };
        let alone = claims(&others, &app, &none());
        prop_assert_eq!(
            decide(&profiles, &found, &target, &world()),
            decide(&others, &alone, &target, &world())
        );
    }

    #[test]
    fn rules_for_names_leave_all_else_alone(
        profiles in profiles(), app in app(), parent in app(), name in domain(),
    ) {
        let inherited = claims(&profiles, &parent, &none());
        let found = claims(&profiles, &app, &inherited);
        let domains = |claim: &Claim| -> Vec<Vec<DomainName>> {
            let rules = &profiles.find(&claim.profile).unwrap().rules;
            let rule = rules.iter().find(|rule| rule.identifier == claim.rule).unwrap();
            let tool = rule.tools.iter().find(|tool| claim.tool.as_ref() == Some(&tool.identifier));
            let lists = [Some(rule), tool].into_iter().flatten().map(|rule| rule.domains.clone());
            lists.filter(|list| !list.is_empty()).collect()
        };
        let by_address = found.rules.iter().any(|claim| domains(claim).is_empty());
        let address = Host::Address("192.0.2.1".parse().unwrap());
        let target = Target { host: address, port: 443 };
        if found.wrapper.is_none() && !by_address {
            let verdict = decide(&profiles, &found, &target, &world()).verdict;
            prop_assert!(matches!(verdict, Verdict::Direct(_)));
            let direct = direct_routes(&profiles, &found, &world());
            for all in ["0.0.0.0/0", "::/0"] {
                let all: Prefix = all.parse().unwrap();
                prop_assert!(direct.normalised().contains(&all));
            }
        }
        let target = Target { host: Host::Name(name.clone()), port: 443 };
        if let Verdict::Relay(id) = decide(&profiles, &found, &target, &world()).verdict {
            let mut own = found.rules.iter().filter(|claim| claim.profile == id);
            let is_meant = own.any(|claim| {
                domains(claim).iter().all(|list| list.iter().any(|suffix| name.is_within(suffix)))
            });
            prop_assert!(is_meant || found.wrapper == Some(id));
        }
    }

    #[test]
    fn what_is_settled_stays_while_the_kernels_key_does(
        profiles in profiles(), inherited in app(), mut app in app(), other in app(), hidden in any::<bool>(),
    ) {
        app.script = None;
        if let Some(program) = &mut app.executable {
            // A file is known at its path wherever it is seen.
            program.known_as.extend(program.path.clone());
        }
        let inherited = claims(&profiles, &inherited, &none());
        let found = candidates(&profiles);
        let is_candidate = |cgroup: &Option<Cgroup>| {
            let app = App { cgroup: cgroup.clone(), ..App::default() };
            let by_any = found.any.is_empty();
            by_any && found.include(&app) || !by_any && is_seen_by_the_kernel(
                &Candidates { any: BTreeSet::new(), ..found.clone() }, &app)
        };
        // Desktop entries are found by the executable, and Flatpaks have files of their own.
        let is_desktop = |bundle: &Bundle| matches!(bundle, Bundle::Desktop(_));
        let path = app.executable.as_ref().and_then(|program| program.path.as_deref());
        if path.is_some_and(|path| !path.starts_with("/var/lib/flatpak")) {
            app.bundles.retain(is_desktop);
        }
        let mut again = app.clone();
        if !app.bundles.iter().all(is_desktop) {
            again.bundles = other.bundles;
            again.bundles.retain(|bundle| !is_desktop(bundle));
            again.bundles.extend(app.bundles.iter().filter(|bundle| is_desktop(bundle)).cloned());
        }
        if !is_candidate(&app.cgroup) && !is_candidate(&other.cgroup) {
            again.cgroup = other.cgroup;
        }
        again.user.groups = other.user.groups.clone();
        again.user.group_names = other.user.group_names.clone();
        if !found.by_user {
            again.user = other.user;
        }
        if hidden && let Some(program) = &mut again.executable {
            // Seen from another mount namespace.
            program.path = None;
        }
        if is_settled(&profiles, &again) {
            prop_assert_eq!(claims(&profiles, &app, &inherited), claims(&profiles, &again, &inherited));
        }
    }
}

fn world() -> World {
    let mut world = World::default();
    for id in ["p", "q", "r"] {
        world.set_state(ProfileId::new(id), State::Connected);
    }
    world
}

fn sample(rule: Rule) -> Profile {
    Profile {
        layer: Layer::Managed,
        order: 1,
        id: ProfileId::new("work"),
        owner: None,
        enabled: true,
        rules: vec![rule],
        excluded_domains: Vec::new(),
        excluded_fqdns: Vec::new(),
        excluded_routes: Vec::new(),
        exclude_local_networks: false,
        unavailable: UnavailableAction::Drop,
        real_addresses: false,
        refuse_encrypted: false,
        encrypted_resolvers: Vec::new(),
        overlays: BTreeMap::new(),
    }
}

#[test]
fn a_wrapper_may_be_one_of_another_profile() {
    let profile = sample(Rule::new("wrapper:home".parse().unwrap()));
    let profiles = Profiles::new([profile]);
    let app = App {
        wrapper: Some(ProfileId::new("home")),
        ..App::default()
    };
    let found = claims(&profiles, &app, &none());
    assert_eq!(found.to_string(), "home: wrapper:home; work: wrapper:home");
    // The child is told by what it inherits, even where the rule is new.
    let inherited = Claims {
        wrapper: app.wrapper,
        ..none()
    };
    assert_eq!(claims(&profiles, &App::default(), &inherited), found);
}

#[test]
fn odd_octets_do_not_hide_a_program() {
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new(std::ffi::OsStr::from_bytes(b"/opt/a/t\xff\xfeol"));
    let app = App {
        executable: Some(Program {
            path: Some(path.to_owned()),
            ..Program::default()
        }),
        ..App::default()
    };
    for text in ["exe:/opt/**", "exe:/opt/a/*", "exe:t*", "exe:*ol"] {
        assert!(text.parse::<Identity>().unwrap().matches(&app), "{text}");
    }
    assert!(!"exe:/opt/*".parse::<Identity>().unwrap().matches(&app));
}
