//! The table of the README: a line for each sort of ways, a column for each state.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use offramp_tests::addresses::{PROXY, PROXY6};

use crate::batch::{Outcome, Way};

const STATES: [&str; 6] = [
    "proxy up",
    "proxy away",
    "daemon killed",
    "daemon hung",
    "restart loop",
    "rule just applied",
];
const BEGIN: &str = "<!-- leaks: written by scripts/leaks -->";
const END: &str = "<!-- leaks: end -->";
/// What may be measured in the column that is never twice the same.
const UNSTEADY: &str = "captured or refused";

/// What was measured in one state.
pub(crate) struct Column {
    state: &'static str,
    /// In the order in which they were added.
    rows: Vec<String>,
    cells: BTreeMap<String, BTreeSet<&'static str>>,
    said: Vec<String>,
}

impl Column {
    pub(crate) fn new(state: &'static str) -> Self {
        assert!(STATES.contains(&state), "{state}");
        Self {
            state,
            rows: Vec::new(),
            cells: BTreeMap::new(),
            said: Vec::new(),
        }
    }

    /// Adds what came of one way, of which nothing was on the wire.
    #[track_caller]
    pub(crate) fn add(&mut self, way: &Way, said: &[&Outcome]) {
        if !self.rows.contains(&way.row) {
            self.rows.push(way.row.clone());
        }
        self.said.push(format!("{}: {said:?}", way.name));
        let cell = self.cells.entry(way.row.clone()).or_default();
        cell.extend(said.iter().map(|said| word(way, said)));
    }

    /// Fails unless the README says what was measured; writes it there where that is asked for.
    #[track_caller]
    pub(crate) fn check(&self) {
        let cells = |row: &String| {
            let mut words = self.cells[row].clone();
            // Which of the two it is may be a matter of time: the sweep tells what the guard shut.
            if words.contains("refused") {
                words.remove("nothing");
            }
            words.into_iter().collect::<Vec<_>>().join(" or ")
        };
        self.compare(&cells);
    }

    /// The same where chance decides what is captured.
    #[track_caller]
    pub(crate) fn check_unsteady(&self) {
        let known = read();
        self.compare(&|row| {
            let up = known.get(row).map_or("", |cells| cells[0].as_str());
            if up.contains("captured") {
                return UNSTEADY.to_owned();
            }
            assert!(!self.cells[row].contains("captured"), "{row}: {up}");
            up.to_owned()
        });
    }

    #[track_caller]
    fn compare(&self, cell: &dyn Fn(&String) -> String) {
        eprintln!("{}:\n{}", self.state, self.said.join("\n"));
        let at = STATES.iter().position(|state| *state == self.state);
        let at = at.expect("it is one of them");
        let known = read();
        if std::env::var_os("OFFRAMP_WRITE_LEAKS").is_some() {
            let rows = self.rows.iter().map(|row| {
                let mut cells = known.get(row).cloned().unwrap_or_default();
                cells[at] = cell(row);
                (row.clone(), cells)
            });
            return write(&rows.collect::<Vec<_>>());
        }
        for row in &self.rows {
            let written = known.get(row).map(|cells| cells[at].as_str());
            assert_eq!(
                written,
                Some(&*cell(row)),
                "{row}, {}: the README's table is not what was measured: run scripts/leaks",
                self.state
            );
        }
        let rows: BTreeSet<_> = self.rows.iter().collect();
        let old: Vec<_> = known.keys().filter(|row| !rows.contains(row)).collect();
        assert!(old.is_empty(), "{old:?} are no ways: run scripts/leaks");
    }
}

fn word(way: &Way, said: &Outcome) -> &'static str {
    match said {
        Outcome::Seen(peer) if *peer == PROXY || *peer == PROXY6 || stands_for_name(peer) => {
            "captured"
        }
        Outcome::Seen(peer) => panic!("{} was seen as {peer}", way.name),
        Outcome::Refused(_) => "refused",
        Outcome::Sent | Outcome::Silence => "nothing",
    }
}

/// Whether the daemon gave this address, which stands for a name.
fn stands_for_name(address: &std::net::IpAddr) -> bool {
    matches!(address, std::net::IpAddr::V4(four) if matches!(four.octets(), [198, 18 | 19, ..]))
}

fn readme() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../README.md")
}

/// The README before the table, its lines, and after it.
fn parts() -> [String; 3] {
    let text = std::fs::read_to_string(readme()).expect("it is there");
    let (before, rest) = text.split_once(BEGIN).expect("the table begins");
    let (table, after) = rest.split_once(END).expect("the table ends");
    [before, table, after].map(str::to_owned)
}

type Cells = [String; STATES.len()];

fn read() -> BTreeMap<String, Cells> {
    let [_, table, _] = parts();
    let mut rows = BTreeMap::new();
    for line in table.trim().lines().skip(2) {
        let mut words = line
            .trim_matches('|')
            .split('|')
            .map(|word| word.trim().to_owned());
        let row = words.next().expect("a line has words");
        rows.insert(
            row,
            std::array::from_fn(|_| words.next().unwrap_or_default()),
        );
    }
    rows
}

fn write(rows: &[(String, Cells)]) {
    let [before, _, after] = parts();
    let line = |first: &str, cells: &[&str]| format!("| {first} | {} |\n", cells.join(" | "));
    let mut table = line("way out", &STATES);
    table += &format!("|---|{}\n", "---|".repeat(STATES.len()));
    for (row, cells) in rows {
        table += &line(row, &cells.each_ref().map(String::as_str));
    }
    let text = format!("{before}{BEGIN}\n{table}{END}{after}");
    std::fs::write(readme(), text).expect("it is ours");
}
