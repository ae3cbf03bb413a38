//! What the person sees.

use offramp_control::ProfileState;
use serde::Serialize;

use super::attempt::Attempt;
use super::doors::{BUS_DOOR, Door};
use super::verdict::Verdict;
use crate::output::{self, Cell, Table, Tone};

/// All that came of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// As it was asked for; none for the only one that there is.
    pub(super) profile: Option<String>,
    /// Whether the machine's devices were watched, which takes root.
    pub(super) watched: bool,
    /// How the profile stood, and why.
    #[serde(skip)]
    pub(super) state: Option<(ProfileState, Option<String>)>,
    pub(super) rows: Vec<Row>,
}

/// One door.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    door: &'static str,
    target: Option<String>,
    verdict: Verdict,
    reason: String,
    milliseconds: u64,
}

impl Row {
    pub(super) fn new(door: &Door, attempt: &Attempt, told: (Verdict, String)) -> Self {
        Self {
            door: door.name,
            target: attempt.trace.target.map(|target| target.to_string()),
            verdict: told.0,
            reason: told.1,
            milliseconds: attempt.took,
        }
    }

    /// Whether it is about a name that was told to systemd-resolved over the bus.
    fn is_bus(&self) -> bool {
        self.verdict == Verdict::Leaked && self.door == BUS_DOOR
    }

    /// A door whose test has not ended.
    pub(super) fn unfinished(door: &Door) -> Self {
        Self {
            door: door.name,
            target: None,
            verdict: Verdict::Unclear,
            reason: "its test did not end".to_owned(),
            milliseconds: 0,
        }
    }
}

impl Report {
    /// Whether every door leads to the daemon, or nowhere, or where the profile says.
    pub(super) fn is_tight(&self) -> bool {
        self.count(Verdict::Leaked) == 0 && self.count(Verdict::Unclear) == 0
    }

    fn count(&self, verdict: Verdict) -> usize {
        let rows = self.rows.iter();
        rows.filter(|row| row.verdict == verdict).count()
    }

    pub(super) fn render(&self, colour: bool) -> String {
        let mut table = Table::new(["DOOR", "VERDICT", "WHY"]);
        for row in &self.rows {
            let (word, tone) = word(row.verdict);
            table.row([
                row.door.into(),
                Cell::toned(word, tone),
                row.reason.as_str().into(),
            ]);
        }
        let mut text = table.render(colour);
        text.push('\n');
        for note in self.notes() {
            text.push_str(&output::clean(&note));
            text.push('\n');
        }
        text
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some((state, reason)) = &self.state
            && *state != ProfileState::Connected
        {
            let reason = reason.as_deref().unwrap_or("no server has answered yet");
            notes.push(format!(
                "The proxy is away ({reason}): doors are shut for now."
            ));
        }
        if self.rows.iter().any(Row::is_bus) {
            let note = "No profile shuts the system bus, where any program may ask any other.";
            notes.push(note.to_owned());
        }
        notes.push(match self.watched {
            true => "Known from the sockets, the daemon and the wire of this machine.".to_owned(),
            false => "Known from the sockets and the daemon; run as root, the wire is watched too."
                .to_owned(),
        });
        notes.push(self.summary());
        notes
    }

    fn summary(&self) -> String {
        let counts: Vec<_> = [
            Verdict::Leaked,
            Verdict::Unclear,
            Verdict::Captured,
            Verdict::Refused,
            Verdict::Direct,
            Verdict::Absent,
        ]
        .into_iter()
        .filter(|verdict| self.count(*verdict) > 0)
        .map(|verdict| {
            let word = word(verdict).0.to_lowercase();
            format!("{} {word}", self.count(verdict))
        })
        .collect();
        let head = match (self.count(Verdict::Leaked), self.is_tight()) {
            (0, true) => "No leak",
            (0, false) => "Nothing leaked that could be told",
            _ => "LEAK",
        };
        format!("{head}: {}.", counts.join(", "))
    }
}

fn word(verdict: Verdict) -> (&'static str, Tone) {
    match verdict {
        Verdict::Captured => ("captured", Tone::Good),
        Verdict::Refused => ("refused", Tone::Good),
        Verdict::Direct => ("direct", Tone::Doubtful),
        Verdict::Leaked => ("LEAKED", Tone::Bad),
        Verdict::Unclear => ("unclear", Tone::Doubtful),
        Verdict::Absent => ("not there", Tone::Plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: &[Verdict]) -> Report {
        let row = |verdict: &Verdict| Row {
            door: "TCP",
            target: None,
            verdict: *verdict,
            reason: "seen".into(),
            milliseconds: 1,
        };
        Report {
            profile: None,
            watched: false,
            state: Some((ProfileState::Connected, None)),
            rows: verdicts.iter().map(row).collect(),
        }
    }

    #[test]
    fn a_table_and_a_summary() {
        let tight = report(&[Verdict::Captured, Verdict::Refused, Verdict::Captured]);
        assert!(tight.is_tight());
        let expected = "\
DOOR  VERDICT   WHY
TCP   captured  seen
TCP   refused   seen
TCP   captured  seen

Known from the sockets and the daemon; run as root, the wire is watched too.
No leak: 2 captured, 1 refused.
";
        assert_eq!(tight.render(false), expected);
        let leak = report(&[Verdict::Captured, Verdict::Leaked]);
        assert!(!leak.is_tight());
        assert!(
            leak.render(false)
                .ends_with("LEAK: 1 leaked, 1 captured.\n")
        );
        assert!(!report(&[Verdict::Unclear]).is_tight());
        assert!(report(&[Verdict::Direct, Verdict::Absent]).is_tight());
    }

    #[test]
    fn a_proxy_that_is_away_is_told() {
        let mut away = report(&[Verdict::Refused]);
        away.state = Some((ProfileState::Disconnected, Some("no route".into())));
        let text = away.render(false);
        assert!(text.contains("The proxy is away (no route): "), "{text}");
    }
}
