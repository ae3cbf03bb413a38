use offramp_rules::{
    Host, Layer, Prefix, Profile, ProfileId, Profiles, Reason, State, Target, UnavailableAction,
    Verdict, World,
};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn name(text: &str) -> DomainName {
    DomainName::parse(text).unwrap()
}

fn address(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

fn app(profile: &str) -> Arc<Claims> {
    Arc::new(Claims {
        wrapper: Some(ProfileId::new(profile)),
        ..Claims::default()
    })
}

fn tell(told: &Told, uid: u32, text: &str, by: By, last: u8) {
    told.tell(
        (uid, &app("p")),
        &name(text),
        by,
        &[(address(last), MINUTE)],
    );
}

fn names(told: &Told, uid: u32, last: u8) -> Vec<String> {
    let known = told
        .known(uid, &app("p"), address(last))
        .unwrap_or_default();
    known
        .names
        .iter()
        .map(|(name, _)| name.to_string())
        .collect()
}

#[test]
fn what_one_was_told_nobody_else_was() {
    let told = Told::default();
    tell(&told, 1, "a.test", By::Far, 1);
    tell(&told, 1, "b.test", By::System, 1);
    tell(&told, 1, "a.test", By::Far, 1);
    assert_eq!(
        names(&told, 1, 1),
        ["a.test", "b.test"],
        "the last one first"
    );
    assert!(names(&told, 1, 2).is_empty() && names(&told, 2, 1).is_empty());
    assert_eq!(told.known(1, &app("q"), address(1)), None, "another app");
    let mapped = "::ffff:192.0.2.1".parse().unwrap();
    assert!(told.known(1, &app("p"), mapped).is_some());
}

#[test]
fn what_the_systems_resolver_said_stays_said() {
    let told = Told::default();
    for by in [By::Far, By::System, By::Far] {
        tell(&told, 1, "a.test", by, 1);
    }
    let known = told.known(1, &app("p"), address(1)).unwrap();
    assert_eq!(known.names, [(name("a.test"), By::System)]);
}

/// Moves the clock of all that is remembered.
fn pass(told: &Told, time: Duration) {
    let mut table = told.lock();
    let places: Vec<_> = table.entries.keys().cloned().collect();
    for place in places {
        table.unlist(&place);
        let entry = table.entries.get_mut(&place).unwrap();
        entry.turn.0 = entry.turn.0.checked_sub(time).unwrap();
        table.list(&place);
    }
}

#[test]
fn names_of_an_address_are_forgotten_together_and_not_under_a_flow() {
    let told = Arc::new(Told::default());
    tell(&told, 1, "a.test", By::Far, 1);
    pass(&told, 9 * MINUTE);
    tell(&told, 1, "b.test", By::System, 1);
    pass(&told, 9 * MINUTE);
    assert_eq!(names(&told, 1, 1).len(), 2);
    let held = told.hold(1, &app("p"), address(1)).unwrap();
    pass(&told, 60 * MINUTE);
    tell(&told, 1, "c.test", By::Far, 2);
    assert_eq!(names(&told, 1, 1).len(), 2, "a flow uses it");
    drop(held);
    assert_eq!(names(&told, 1, 1).len(), 2, "an app may use it again");
    pass(&told, 10 * MINUTE);
    assert!(names(&told, 1, 1).is_empty());
    tell(&told, 1, "c.test", By::Far, 2);
    let table = told.lock();
    assert_eq!(
        (table.entries.len(), table.idle.len(), table.own_idle.len()),
        (1, 1, 1)
    );
}

#[test]
fn a_user_without_room_forgets_the_oldest_address_whole() {
    let told = Told::with(16);
    tell(&told, 2, "other.test", By::Far, 9);
    for last in 1..=2 {
        tell(&told, 1, "a.test", By::Far, last);
        tell(&told, 1, "b.test", By::System, last);
        pass(&told, MINUTE);
    }
    tell(&told, 1, "c.test", By::Far, 3);
    assert!(names(&told, 1, 1).is_empty());
    assert_eq!(names(&told, 1, 2).len(), 2);
    assert_eq!((names(&told, 1, 3).len(), names(&told, 2, 9).len()), (1, 1));
    // Where nothing can give way, it is remembered that there is more.
    let told = Arc::new(Told::with(4));
    tell(&told, 1, "a.test", By::System, 1);
    let held = told.hold(1, &app("p"), address(1)).unwrap();
    tell(&told, 1, "b.test", By::Far, 1);
    tell(&told, 1, "b.test", By::Far, 2);
    assert!(told.known(1, &app("p"), address(1)).unwrap().more);
    assert_eq!(told.known(1, &app("p"), address(2)), None);
    drop(held);
}

#[test]
fn more_names_than_one_address_may_have_are_noted() {
    let told = Told::default();
    for number in 0..NAMES + 2 {
        tell(&told, 0, &format!("n{number}.test"), By::Far, 1);
    }
    let known = told.known(0, &app("p"), address(1)).unwrap();
    assert_eq!((known.names.len(), known.more), (NAMES, true));
}

#[test]
fn what_is_saved_comes_back() {
    let told = Arc::new(Told::default());
    tell(&told, 1, "a.test", By::Far, 1);
    tell(&told, 1, "b.test", By::System, 1);
    tell(&told, 2, "c.test", By::Far, 1);
    told.lock().entries.values_mut().next().unwrap().more = true;
    let text = told.save().unwrap();
    let again = Told::default();
    again.load(&text).unwrap();
    for uid in [1, 2] {
        let known = |told: &Told| told.known(uid, &app("p"), address(1)).unwrap();
        assert_eq!(known(&again), known(&told));
    }
    assert!(again.load(b"[{").is_err() && again.load(b"{}").is_err());
    let odd = String::from_utf8(text).unwrap().replace("a.test", "a b");
    let again = Told::default();
    again.load(odd.as_bytes()).unwrap();
    assert_eq!(
        again.known(1, &app("p"), address(1)),
        None,
        "one name would be left"
    );
    assert!(again.known(2, &app("p"), address(1)).is_some());
}

fn profile(id: &str, order: u32) -> Profile {
    Profile {
        layer: Layer::Managed,
        order,
        id: ProfileId::new(id),
        owner: None,
        enabled: true,
        rules: Vec::new(),
        excluded_domains: vec![name("direct.test")],
        excluded_fqdns: Vec::new(),
        excluded_routes: Vec::<Prefix>::new(),
        exclude_local_networks: false,
        unavailable: UnavailableAction::Drop,
        real_addresses: true,
        refuse_encrypted: true,
        encrypted_resolvers: Vec::new(),
        overlays: BTreeMap::new(),
    }
}

/// What is decided where an app was told these names, and says this one itself.
fn chosen(known: &[(&str, By)], more: bool, state: State, seen: Option<&str>) -> (String, bool) {
    chosen_at(address(1), known, more, state, seen)
}

fn chosen_at(
    at: IpAddr,
    known: &[(&str, By)],
    more: bool,
    state: State,
    seen: Option<&str>,
) -> (String, bool) {
    let mut world = World::new([]);
    world.set_state(ProfileId::new("p"), state);
    let known = Known {
        names: known.iter().map(|(text, by)| (name(text), *by)).collect(),
        more,
    };
    let target = Target {
        host: Host::Address(at),
        port: 443,
    };
    let profiles = Profiles::new([profile("p", 1)]);
    let seen = seen.map(name);
    let choice = choose(&profiles, &app("p"), &world, &target, &known, seen.as_ref());
    let way = match choice.decision.verdict {
        Verdict::Relay(_) => "relay",
        Verdict::Direct(_) => "direct",
        Verdict::Refuse(_) => "refuse",
    };
    let by = choice
        .name
        .map_or("address".into(), |name| name.to_string());
    (format!("{way} by {by}"), choice.may_change)
}

#[test]
fn names_decide() {
    use By::{Far, System};
    let up = State::Connected;
    let down = State::Disconnected(Reason::Unreachable);
    let check = |known: &[(&str, By)], seen, expected: &str| {
        let (said, _) = chosen(known, false, up, seen);
        assert_eq!(said, expected, "{known:?} {seen:?}");
    };
    let (relayed, direct) = (("a.test", Far), ("direct.test", System));
    check(&[relayed], None, "relay by a.test");
    check(&[direct], None, "direct by direct.test");
    check(&[relayed, ("b.test", Far)], None, "relay by a.test");
    check(&[], None, "relay by address");
    // Which is meant?
    check(&[relayed, direct], None, "relay by a.test");
    check(&[direct, relayed], None, "relay by a.test");
    check(
        &[direct, relayed],
        Some("direct.test"),
        "direct by direct.test",
    );
    check(&[direct, relayed], Some("a.test"), "relay by a.test");
    check(&[direct, relayed], Some("x.direct.test"), "relay by a.test");
    check(&[direct], Some("b.test"), "relay by b.test");
    // A claim alone opens nothing, nor does what the far side says of an excluded name.
    check(&[relayed], Some("direct.test"), "relay by a.test");
    check(&[("direct.test", Far)], None, "relay by address");
    check(
        &[("direct.test", Far)],
        Some("direct.test"),
        "relay by address",
    );
    assert_eq!(chosen(&[direct], true, up, None).0, "relay by address");
    assert_eq!(
        chosen(&[relayed, direct], false, down, None).0,
        "refuse by a.test"
    );
    assert_eq!(
        chosen(&[direct], false, down, None).0,
        "direct by direct.test"
    );
    assert!(
        chosen(&[relayed, direct], false, up, None).1,
        "a name could tell"
    );
    assert!(!chosen(&[relayed], false, up, None).1);
    // A refused resolver is refused under another name as well, and direct where that is excluded.
    let resolver = [1, 1, 1, 1].into();
    let said = chosen_at(resolver, &[relayed], false, up, None).0;
    assert_eq!(said, "refuse by a.test");
    let said = chosen_at(resolver, &[direct], false, up, None).0;
    assert_eq!(said, "direct by direct.test");
}
