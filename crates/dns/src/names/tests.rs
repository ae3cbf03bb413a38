use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::table::KEEP;
use super::*;

mod users;

fn names(v4: &str, v6: Option<&str>, capacity: usize) -> Arc<Names> {
    let v6 = v6.map(|block| block.parse().unwrap());
    Arc::new(Names::new(v4.parse().unwrap(), v6, capacity))
}

fn standard() -> Arc<Names> {
    names("198.18.0.0/15", Some("fd6f:6666:7261:6d70::/64"), 1000)
}

fn name(text: &str) -> DomainName {
    DomainName::parse(text).unwrap()
}

fn saved(names: &Names) -> Vec<u8> {
    let mut file = Vec::new();
    names.save(&mut file).unwrap();
    file
}

#[test]
fn an_address_stands_for_one_name_in_each_family() {
    let names = standard();
    let v4 = names
        .address_for(&name("a.example"), Family::V4, 0)
        .ok()
        .unwrap();
    let v6 = names
        .address_for(&name("a.example"), Family::V6, 0)
        .ok()
        .unwrap();
    assert!(v4.is_ipv4() && v6.is_ipv6());
    assert_eq!(
        names.address_for(&name("A.example."), Family::V4, 0).ok(),
        Some(v4)
    );
    assert_eq!(names.name_of(v4, 0), Some(name("a.example")));
    assert_eq!(names.name_of(v6, 0), Some(name("a.example")));
    let other = names
        .address_for(&name("b.example"), Family::V4, 0)
        .ok()
        .unwrap();
    assert_ne!(other, v4);
}

#[test]
fn a_v4_mapped_address_is_its_ipv4_address() {
    let names = standard();
    let address = names
        .address_for(&name("a.example"), Family::V4, 0)
        .ok()
        .unwrap();
    let IpAddr::V4(v4) = address else {
        panic!("not IPv4: {address}")
    };
    let mapped = IpAddr::V6(v4.to_ipv6_mapped());
    assert!(names.contains(mapped));
    assert_eq!(names.name_of(mapped, 0), Some(name("a.example")));
    assert_eq!(names.hold(mapped, 0).unwrap().address(), address);
}

#[test]
fn without_a_block_a_family_has_no_addresses() {
    let names = names("198.18.0.0/15", None, 10);
    assert_eq!(
        names.address_for(&name("a.example"), Family::V6, 0).ok(),
        None
    );
    assert!(!names.contains("fd6f:6666:7261:6d70::1000".parse().unwrap()));
    assert_eq!(names.name_of("fd00::1".parse().unwrap(), 0), None);
}

#[test]
fn the_ends_of_the_block_are_never_given() {
    let names = names("198.18.0.0/22", None, usize::MAX);
    let mut seen = std::collections::HashSet::new();
    for i in 0..512 {
        let address = names
            .address_for(&name(&format!("n{i}.example")), Family::V4, 0)
            .ok();
        assert!(seen.insert(address.unwrap()));
    }
    let first = seen.iter().min().unwrap().to_string();
    let last = seen.iter().max().unwrap().to_string();
    assert_eq!(
        (first.as_str(), last.as_str()),
        ("198.18.1.0", "198.18.2.255")
    );
    assert_eq!(
        names.address_for(&name("more.example"), Family::V4, 0).ok(),
        None
    );
    assert!(names.contains("198.18.0.1".parse().unwrap()));
    assert!(names.hold("198.18.0.1".parse().unwrap(), 0).is_none());
}

#[test]
fn blocks_without_room_give_nothing() {
    for block in ["198.18.0.0/32", "198.18.0.0/23"] {
        let names = names(block, None, 10);
        assert_eq!(
            names.address_for(&name("a.example"), Family::V4, 0).ok(),
            None
        );
    }
    let none = names("198.18.0.0/15", None, 0);
    assert_eq!(
        none.address_for(&name("a.example"), Family::V4, 0).ok(),
        None
    );
    let all = names("0.0.0.0/0", Some("::/0"), 2);
    assert!(
        all.address_for(&name("a.example"), Family::V4, 0)
            .ok()
            .is_some()
    );
    assert!(
        all.address_for(&name("a.example"), Family::V6, 0)
            .ok()
            .is_some()
    );
}

#[test]
fn an_address_is_reused_only_after_ten_minutes_without_use() {
    let mut table = Table::new("198.18.0.0/15".parse().unwrap(), 2);
    let start = Instant::now();
    let a = table.address_for(&name("a"), 0, start).ok().unwrap();
    let b = table.address_for(&name("b"), 0, start).ok().unwrap();
    let almost = start + KEEP - Duration::from_secs(1);
    assert_eq!(table.address_for(&name("c"), 0, almost).ok(), None);
    assert_eq!(table.name_of(a, 0, almost), Some(name("a")));

    let later = start + KEEP;
    assert!(table.address_for(&name("c"), 0, later).ok().is_some());
    assert_eq!(table.name_of(b, 0, later), None, "b was the longest unused");
    assert_eq!(table.name_of(a, 0, later), Some(name("a")));
    assert_eq!(table.address_for(&name("b"), 0, later).ok(), None);
}

#[test]
fn a_held_address_is_never_reused() {
    let mut table = Table::new("198.18.0.0/15".parse().unwrap(), 1);
    let start = Instant::now();
    let a = table.address_for(&name("a"), 0, start).ok().unwrap();
    assert_eq!(table.hold(a, 0).map(|held| held.0), Some(name("a")));
    assert_eq!(table.hold(a, 0).map(|held| held.0), Some(name("a")));
    let later = start + 10 * KEEP;
    table.release(a, Some(0), later);
    assert_eq!(table.address_for(&name("b"), 0, later + KEEP).ok(), None);
    table.release(a, Some(0), later + KEEP);
    assert_eq!(table.address_for(&name("b"), 0, later + KEEP).ok(), None);
    assert!(
        table
            .address_for(&name("b"), 0, later + 2 * KEEP)
            .ok()
            .is_some()
    );
    assert_ne!(table.name_of(a, 0, later), Some(name("a")));
}

#[test]
fn a_hold_ends_with_its_value() {
    let names = names("198.18.0.0/15", None, 1);
    let address = names
        .address_for(&name("a.example"), Family::V4, 0)
        .ok()
        .unwrap();
    let held = names.hold(address, 0).unwrap();
    assert_eq!(held.name(), &name("a.example"));
    let much_later = Instant::now() + 2 * KEEP;
    let refused = names
        .lock()
        .v4
        .address_for(&name("b.example"), 0, much_later)
        .ok();
    assert_eq!(refused, None);
    drop(held);
    let later = Instant::now() + KEEP;
    let other = names
        .lock()
        .v4
        .address_for(&name("b.example"), 0, later)
        .ok();
    assert!(other.is_some());
}

#[test]
fn a_new_start_maps_equal_without_any_file() {
    let (before, after) = (standard(), standard());
    let address = before.address_for(&name("a.example"), Family::V6, 0).ok();
    after
        .address_for(&name("other.example"), Family::V6, 0)
        .ok();
    assert_eq!(
        after.address_for(&name("a.example"), Family::V6, 0).ok(),
        address
    );
}

#[test]
fn the_place_of_a_name_does_not_change_between_releases() {
    let address = standard()
        .address_for(&name("example.com"), Family::V4, 0)
        .ok();
    assert_eq!(address.unwrap().to_string(), "198.19.92.104");
}

#[test]
fn a_torn_or_foreign_file_does_no_harm() {
    let names = names("198.18.0.0/15", None, 4);
    let file = b"a.example 198.18.1.1 0\nnonsense\n\xff\xfe\nb.example 10.0.0.1 0\n\
        c.example 198.18.0.1 0\nd.example 198.18.1.1 0\nf.example 198.18.1.7 -1\n\
        g.example 198.18.1.8 0 0\n\n";
    assert_eq!(names.load(&file[..], &[][..]).unwrap(), 1);
    let known = names.name_of("198.18.1.1".parse().unwrap(), 0);
    assert_eq!(known, Some(name("a.example")));
    let torn = b"e.example 198.18.1.9 0\nf.example 198.18.1.23 1";
    assert_eq!(names.load(&torn[..], &[][..]).unwrap(), 1);
    assert_eq!(names.name_of("198.18.1.23".parse().unwrap(), 0), None);
}

#[test]
fn what_was_unused_for_long_makes_room_after_a_restart() {
    let load = |unused: &str| {
        let names = names("198.18.0.0/15", None, 1);
        let line = format!("a.example 198.18.1.1 {unused}\n");
        assert_eq!(names.load(line.as_bytes(), &[][..]).unwrap(), 1);
        names.address_for(&name("b.example"), Family::V4, 0).ok()
    };
    assert_eq!(load("0"), None);
    assert_eq!(
        load("899"),
        None,
        "it may have been used since it was saved"
    );
    assert!(load("900").is_some());
    assert!(load("18446744073709551615").is_some());
}

#[test]
fn the_time_without_use_is_saved() {
    let mut table = Table::new("198.18.0.0/15".parse().unwrap(), 3);
    let start = Instant::now();
    let a = table.address_for(&name("a"), 0, start).ok().unwrap();
    table.hold(a, 0);
    table.address_for(&name("b"), 0, start).ok();
    let lines = table.latest_first(start + KEEP);
    let unused: Vec<_> = lines.iter().map(|l| (l.name.as_str(), l.unused)).collect();
    assert_eq!(unused, [("a", Duration::ZERO), ("b", KEEP)]);
}

#[test]
fn when_room_is_short_the_latest_used_are_loaded() {
    let before = names("198.18.0.0/15", None, 10);
    for i in 0..10 {
        before
            .address_for(&name(&format!("n{i}")), Family::V4, 0)
            .ok();
    }
    let file = saved(&before);
    let after = names("198.18.0.0/15", None, 3);
    assert_eq!(after.load(&file[..], &[][..]).unwrap(), 3);
    let text = String::from_utf8(saved(&after)).unwrap();
    let kept: Vec<_> = text.lines().map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!(kept, ["n9", "n8", "n7"]);
}

#[derive(Clone, Debug)]
enum Step {
    Ask(u8, bool),
    Hold(u8, bool),
    Release(usize),
    Reload,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<u8>(), any::<bool>()).prop_map(|(n, v6)| Step::Ask(n, v6)),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(n, v6)| Step::Hold(n, v6)),
        2 => any::<usize>().prop_map(Step::Release),
        1 => Just(Step::Reload),
    ]
}

proptest! {
    /// While less than ten minutes pass, no address ever changes its name, nor a name its
    /// address, whatever is asked, held, let go and reloaded.
    #[test]
    fn one_name_per_address(steps in proptest::collection::vec(step(), 1..200), capacity in 1..300_usize) {
        let make = || names("198.18.0.0/22", Some("fd00::/64"), capacity);
        let mut names = make();
        let mut addresses: HashMap<(u8, bool), IpAddr> = HashMap::new();
        let mut owners: HashMap<IpAddr, u8> = HashMap::new();
        let mut held = Vec::new();
        for step in steps {
            match step {
                Step::Ask(n, v6) => {
                    let family = if v6 { Family::V6 } else { Family::V4 };
                    let Some(address) = names.address_for(&name(&format!("n{n}.example")), family, 0).ok() else {
                        prop_assert!(!addresses.contains_key(&(n, v6)));
                        prop_assert_eq!(addresses.keys().filter(|k| k.1 == v6).count(), capacity);
                        continue;
                    };
                    prop_assert!(names.contains(address));
                    prop_assert_eq!(*addresses.entry((n, v6)).or_insert(address), address);
                    prop_assert_eq!(*owners.entry(address).or_insert(n), n);
                }
                Step::Hold(n, v6) => {
                    if let Some(address) = addresses.get(&(n, v6)) {
                        held.push(names.hold(*address, 0).unwrap());
                    }
                }
                Step::Release(i) => {
                    if !held.is_empty() {
                        held.swap_remove(i % held.len());
                    }
                }
                Step::Reload => {
                    let after = make();
                    prop_assert_eq!(after.load(&saved(&names)[..], &[][..]).unwrap(), addresses.len());
                    names = after;
                }
            }
        }
        for (address, n) in owners {
            prop_assert_eq!(names.name_of(address, 0), Some(name(&format!("n{n}.example"))));
        }
    }

    #[test]
    fn saving_and_loading_keeps_the_order_too(count in 0..50_usize, touched in proptest::collection::vec(0..50_usize, 0..20)) {
        let before = standard();
        for n in (0..count).chain(touched.into_iter().filter(|n| *n < count)) {
            before.address_for(&name(&format!("n{n}")), Family::V4, 0).ok();
        }
        let file = saved(&before);
        let after = standard();
        prop_assert_eq!(after.load(&file[..], &[][..]).unwrap(), count);
        let pairs = |names: &Names| {
            let lines = names.lock().v4.latest_first(Instant::now());
            lines.into_iter().map(|line| (line.name, line.address)).collect::<Vec<_>>()
        };
        prop_assert_eq!(pairs(&after), pairs(&before));
    }

    #[test]
    fn any_file_can_be_loaded(file in proptest::collection::vec(any::<u8>(), 0..500)) {
        standard().load(&file[..], &[][..]).unwrap();
    }
}
