//! Who sees what an address stands for, and how many names a user may have.

use std::collections::{BTreeSet, HashMap};

use super::*;
use crate::names::table::ROOT;

const EVE: u32 = 1000;
const BOB: u32 = 1001;

fn ask(names: &Names, text: &str, asker: u32) -> Result<IpAddr, NoAddress> {
    names.address_for(&name(text), Family::V4, asker)
}

#[test]
fn an_address_stands_for_nothing_to_who_has_not_asked() {
    let names = standard();
    let bobs = ask(&names, "secret.example", BOB).unwrap();
    let roots = ask(&names, "daemon.example", ROOT).unwrap();
    let sees = |address, asker| {
        let seen = names.name_of(address, asker);
        assert_eq!(names.peek(address, asker), seen);
        assert_eq!(
            names.hold(address, asker).map(|held| held.name().clone()),
            seen
        );
        let listed = names.list(asker, 10, |_, _| true).names;
        let listed = listed.into_iter().find(|known| known.address == address);
        assert_eq!(listed.map(|known| known.name), seen);
        if let Some(name) = &seen {
            assert_eq!(names.addresses_of(name, asker), [address]);
        }
        seen.is_some()
    };
    assert!(sees(bobs, BOB) && sees(bobs, ROOT) && !sees(bobs, EVE));
    assert!(sees(roots, BOB) && sees(roots, ROOT) && sees(roots, EVE));
    assert!(names.addresses_of(&name("secret.example"), EVE).is_empty());
    assert_eq!(
        ask(&names, "secret.example", EVE),
        Ok(bobs),
        "it is the same for all"
    );
    assert!(sees(bobs, EVE));
    let listed = |asker| {
        let listed = names
            .list(asker, 10, |name, _| name.as_str().starts_with("secret"))
            .names;
        listed
            .into_iter()
            .flat_map(|known| known.askers)
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(EVE), [EVE], "who else asked is for root to know");
    assert_eq!(listed(ROOT), [EVE, BOB]);
}

#[test]
fn who_asked_is_known_after_a_restart() {
    let before = standard();
    let bobs = ask(&before, "bobs.example", BOB).unwrap();
    let both = ask(&before, "both.example", BOB).unwrap();
    ask(&before, "both.example", ROOT).unwrap();
    let mut new = Vec::new();
    assert!(before.save_new(&mut new).unwrap());
    let file = saved(&before);
    for (file, new) in [
        (&file[..], &b""[..]),
        (b"", &new[..]),
        (&file[..], &new[..]),
    ] {
        let after = standard();
        assert_eq!(after.load(file, new).unwrap(), 2);
        assert_eq!(after.name_of(bobs, EVE), None);
        assert_eq!(after.name_of(bobs, BOB), Some(name("bobs.example")));
        assert_eq!(after.name_of(both, EVE), Some(name("both.example")));
    }
    let old = format!("bobs.example {bobs} 0\n");
    let after = standard();
    assert_eq!(after.load(old.as_bytes(), &b""[..]).unwrap(), 1);
    assert_eq!(
        after.name_of(bobs, BOB),
        None,
        "an old file does not say who asked"
    );
    assert_eq!(after.name_of(bobs, ROOT), Some(name("bobs.example")));
    assert_eq!(ask(&after, "bobs.example", BOB), Ok(bobs));
    assert_eq!(after.name_of(bobs, BOB), Some(name("bobs.example")));
}

#[test]
fn what_is_new_is_saved_once_and_in_order() {
    let names = standard();
    let new = |names: &Names| {
        let mut text = Vec::new();
        assert!(names.save_new(&mut text).unwrap());
        String::from_utf8(text).unwrap()
    };
    let a = ask(&names, "a", EVE).unwrap();
    ask(&names, "a", EVE).unwrap();
    assert_eq!(new(&names), format!("a {a} 0 {EVE}:0\n"));
    assert_eq!(new(&names), "");
    ask(&names, "a", BOB).unwrap();
    assert_eq!(new(&names), format!("a {a} 0 {EVE}:0,{BOB}:0\n"));
    ask(&names, "b", BOB).unwrap();
    saved(&names);
    assert_eq!(new(&names), "", "everything is saved");
    for number in 0..300 {
        ask(&names, &format!("n{number}"), ROOT).unwrap();
    }
    let text = new(&names);
    let after = standard();
    assert_eq!(after.load(&b""[..], text.as_bytes()).unwrap(), 300);
    let listed = after.list(ROOT, 2, |_, _| true);
    let latest: Vec<_> = listed
        .names
        .iter()
        .map(|known| known.name.as_str())
        .collect();
    assert_eq!(latest, ["n299", "n298"]);
    assert!(listed.is_cut);
}

#[test]
fn what_is_used_on_is_saved_again_now_and_then() {
    let start = Instant::now();
    let mut table = Table::new("198.18.0.0/22".parse().unwrap(), 8);
    let address = table.address_for(&name("a"), EVE, start).unwrap();
    assert_eq!(table.take_unsaved(start).unwrap().len(), 1);
    let mut lines = 0;
    for second in (0..1200).step_by(10) {
        let now = start + Duration::from_secs(second);
        assert!(table.name_of(address, EVE, now).is_some());
        for line in table.take_unsaved(now).unwrap() {
            assert_eq!(line.unused, Duration::ZERO);
            lines += 1;
        }
    }
    assert_eq!(lines, 3);
}

#[test]
fn of_two_lines_the_later_one_is_true() {
    let names = standard();
    let saved = b"a 198.18.1.1 5 1000:5\nb 198.18.1.2 9 1000:9\n";
    let new = b"c 198.18.1.1 0 1001:0\nb 198.18.1.3 0 1001:0\na 198.18.1.9 0 1001:0\n";
    assert_eq!(names.load(&saved[..], &new[..]).unwrap(), 3);
    let seen = |address: &str, asker| names.name_of(address.parse().unwrap(), asker);
    assert_eq!(seen("198.18.1.1", 1001), Some(name("c")));
    assert_eq!(seen("198.18.1.1", 1000), None);
    assert_eq!(seen("198.18.1.2", 0), None);
    assert_eq!(seen("198.18.1.3", 1001), Some(name("b")));
    assert_eq!(seen("198.18.1.9", 1001), Some(name("a")));
}

#[test]
fn a_user_who_asks_without_end_leaves_names_to_others() {
    let names = names("198.18.0.0/22", None, 64);
    let used = ask(&names, "used.example", BOB).unwrap();
    let got = (0..100_000).map_while(|n| ask(&names, &format!("n{n}.example"), EVE).ok());
    assert_eq!(got.count(), 16);
    assert_eq!(ask(&names, "more.example", EVE), Err(NoAddress::User(16)));
    assert_eq!(
        ask(&names, "used.example", EVE),
        Err(NoAddress::User(16)),
        "that others have asked for it is not to be learned"
    );
    let roots = ask(&names, "root.example", ROOT);
    assert_eq!(
        ask(&names, "root.example", EVE),
        roots,
        "but root's are for all"
    );
    assert_eq!(names.name_of(used, BOB), Some(name("used.example")));
    assert!(ask(&names, "other.example", BOB).is_ok());
    for asker in 2000..2006 {
        let _ = (0..64)
            .map_while(|n| ask(&names, &format!("u{asker}-{n}.example"), asker).ok())
            .count();
    }
    assert!(
        ask(&names, "last.example", 3000).is_ok(),
        "there are always some left"
    );
    let root = (0..64).map_while(|n| ask(&names, &format!("root{n}.example"), ROOT).ok());
    assert!(root.count() >= 14, "a quarter is root's");
}

#[test]
fn users_without_end_do_not_fill_the_memory() {
    let names = names("198.18.0.0/22", None, 64);
    for n in 0..8 {
        ask(&names, &format!("n{n}.example"), ROOT).unwrap();
    }
    for asker in 1000..3000 {
        for n in 0..8 {
            assert!(ask(&names, &format!("n{n}.example"), asker).is_ok());
        }
    }
    let tables = names.lock();
    let claims = tables.v4.entries.values().map(|entry| entry.claims.len());
    assert!(claims.sum::<usize>() <= 2 * 64 + 8);
}

#[test]
fn what_a_user_has_not_used_for_long_makes_room_for_the_users_own() {
    let start = Instant::now();
    let mut table = Table::new("198.18.0.0/22".parse().unwrap(), 8);
    let ask =
        |table: &mut Table, text: &str, asker, now| table.address_for(&name(text), asker, now);
    let a = ask(&mut table, "a", EVE, start).unwrap();
    let shared = ask(&mut table, "shared", EVE, start).unwrap();
    ask(&mut table, "shared", BOB, start).unwrap();
    assert_eq!(ask(&mut table, "b", EVE, start), Err(NoAddress::User(2)));
    let later = start + KEEP;
    assert!(ask(&mut table, "b", EVE, later).is_ok(), "a makes room");
    assert_eq!(table.name_of(a, ROOT, later), None);
    assert!(ask(&mut table, "c", EVE, later).is_ok());
    assert_eq!(table.name_of(shared, EVE, later), None);
    assert_eq!(
        table.name_of(shared, BOB, later),
        Some(name("shared")),
        "what others use stays theirs"
    );
    assert_eq!(ask(&mut table, "d", EVE, later), Err(NoAddress::User(2)));
}

#[derive(Clone, Debug)]
enum Step {
    Ask(u8, u32),
    Hold(u8, u32),
    Release(usize),
    Look(u8, u32),
    Wait(u64),
    Reload,
}

fn step() -> impl Strategy<Value = Step> {
    let user = || prop_oneof![Just(ROOT), 1000..1004_u32];
    prop_oneof![
        8 => (0..24_u8, user()).prop_map(|(n, uid)| Step::Ask(n, uid)),
        3 => (0..24_u8, user()).prop_map(|(n, uid)| Step::Hold(n, uid)),
        3 => any::<usize>().prop_map(Step::Release),
        3 => (0..24_u8, user()).prop_map(|(n, uid)| Step::Look(n, uid)),
        2 => (0..400_u64).prop_map(Step::Wait),
        1 => Just(Step::Reload),
    ]
}

fn numbered(n: u8) -> DomainName {
    name(&format!("n{n}.example"))
}

/// What an outsider knows: who was told which address when, and who holds which.
#[derive(Default)]
struct Told {
    /// The last address that each user was told for a name, and when it was told or used last.
    addresses: HashMap<(u8, u32), (IpAddr, Instant)>,
    /// Who ever asked.
    askers: BTreeSet<(u8, u32)>,
    held: Vec<(u8, u32, IpAddr, Option<u32>)>,
}

impl Told {
    /// Whether a user has to be able to go on with what was told.
    fn is_fresh(&self, n: u8, uid: u32, now: Instant) -> bool {
        let told = self.addresses.get(&(n, uid));
        told.is_some_and(|(_, used)| now.saturating_duration_since(*used) < KEEP)
            || self
                .held
                .iter()
                .any(|held| (held.0, held.3) == (n, Some(uid)))
    }

    fn check(&self, table: &Table, now: Instant) -> Result<(), TestCaseError> {
        for (&(n, uid), (address, _)) in &self.addresses {
            let seen = table.peek(*address, uid);
            if self.is_fresh(n, uid, now) {
                prop_assert_eq!(seen, Some(&numbered(n)));
                prop_assert_eq!(table.find(&numbered(n), uid), Some(*address));
                prop_assert_eq!(table.peek(*address, ROOT), Some(&numbered(n)));
            }
        }
        for (n, _, address, _) in &self.held {
            prop_assert_eq!(table.peek(*address, ROOT), Some(&numbered(*n)));
        }
        for n in 0..24 {
            for uid in 1000..1004 {
                let may = self.askers.contains(&(n, uid)) || self.askers.contains(&(n, ROOT));
                prop_assert!(may || table.find(&numbered(n), uid).is_none());
            }
        }
        counted(table)
    }
}

/// Everything that is counted or ordered, counted again.
fn counted(table: &Table) -> Result<(), TestCaseError> {
    let all = usize::MAX;
    let mut shares = HashMap::<u32, usize>::new();
    let mut uses = [BTreeSet::new(), BTreeSet::new()];
    let mut order = [BTreeSet::new(), BTreeSet::new()];
    for (place, entry) in &table.entries {
        order[usize::from(entry.holders > 0)].insert(*place);
        let held: usize = entry.claims.iter().map(|claim| claim.holders).sum();
        prop_assert!(held <= entry.holders);
        for claim in &entry.claims {
            prop_assert!(claim.used <= entry.used);
            uses[usize::from(claim.holders > 0)].insert((claim.uid, claim.turn, *place));
            *shares.entry(claim.uid).or_default() += 1;
        }
    }
    for is_held in [false, true] {
        let known: BTreeSet<_> = table
            .order
            .some(is_held, .., all)
            .iter()
            .map(|u| u.1)
            .collect();
        prop_assert_eq!(&known, &order[usize::from(is_held)]);
        let known = table.askers.uses.some(is_held, .., all);
        let known: BTreeSet<_> = known
            .iter()
            .map(|((uid, turn), place)| (*uid, *turn, *place))
            .collect();
        prop_assert_eq!(&known, &uses[usize::from(is_held)]);
    }
    for uid in 1000..1004 {
        let share = shares.get(&uid).copied().unwrap_or(0);
        prop_assert_eq!(table.askers.share(uid), share);
        prop_assert!(share <= (table.capacity() / 4).max(1));
    }
    prop_assert!(table.entries.len() <= table.capacity());
    Ok(())
}

proptest! {
    #[test]
    fn names_are_kept_for_who_asked_and_for_nobody_else(
        steps in proptest::collection::vec(step(), 1..150),
        capacity in 1..40_usize,
    ) {
        let block: Prefix = "198.18.0.0/22".parse().unwrap();
        let mut table = Table::new(block, capacity);
        let mut now = Instant::now();
        let mut told = Told::default();
        for step in steps {
            match step {
                Step::Ask(n, uid) => {
                    let fresh = told.is_fresh(n, uid, now);
                    match table.address_for(&numbered(n), uid, now) {
                        Ok(address) => {
                            told.askers.insert((n, uid));
                            let seen = table.peek(address, uid);
                            prop_assert_eq!(seen, Some(&numbered(n)));
                            if fresh {
                                prop_assert_eq!(told.addresses[&(n, uid)].0, address);
                            }
                            // A name of root's may be had without a part in it.
                            if table.entries.values().any(|e| e.name == numbered(n)
                                && e.claims.iter().any(|c| c.uid == uid)) {
                                told.addresses.insert((n, uid), (address, now));
                            }
                        }
                        Err(_) => prop_assert!(!fresh),
                    }
                }
                Step::Look(n, uid) => {
                    if let Some(&(address, _)) = told.addresses.get(&(n, uid))
                        && table.name_of(address, uid, now) == Some(numbered(n))
                        && table.entries.values().any(|e| e.name == numbered(n)
                            && e.claims.iter().any(|c| c.uid == uid))
                    {
                        told.addresses.insert((n, uid), (address, now));
                    }
                }
                Step::Hold(n, uid) => {
                    if let Some(address) = table.find(&numbered(n), uid) {
                        let (_, by) = table.hold(address, uid).unwrap();
                        told.held.push((n, uid, address, by));
                    }
                }
                Step::Release(i) => {
                    if !told.held.is_empty() {
                        let (n, _, address, by) = told.held.swap_remove(i % told.held.len());
                        table.release(address, by, now);
                        if let Some(by) = by {
                            told.addresses.insert((n, by), (address, now));
                        }
                    }
                }
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
                Step::Reload => {
                    for (n, _, address, by) in std::mem::take(&mut told.held) {
                        table.release(address, by, now);
                        if let Some(by) = by {
                            told.addresses.insert((n, by), (address, now));
                        }
                    }
                    let mut file = Vec::new();
                    file::write(&mut file, &table.latest_first(now)).unwrap();
                    let mut lines = file::read(&file[..], 1000).unwrap();
                    lines.reverse();
                    let names = Names::new(block, None, capacity);
                    names.restore(&lines, now);
                    table = names.tables.into_inner().unwrap().v4;
                }
            }
            told.check(&table, now)?;
        }
    }
}
