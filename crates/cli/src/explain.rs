//! `offramp explain`.

use std::path::Path;

use offramp_control::{
    Client, Decided, ExplainRequest, ExplainTarget, Explanation, Finding, KernelView, Subject,
};

use crate::arguments::Explain;
use crate::failure::{Failure, USAGE};
use crate::output::{self, Cell, Table, Tone};
use crate::{apps, run};

pub(crate) async fn run(client: &Client, arguments: Explain) -> Result<(), Failure> {
    let subject = match (&arguments.exe, arguments.subject) {
        (Some(program), _) => Some(executable(program)?),
        (None, subject) => subject,
    };
    let target = match (arguments.target, arguments.name) {
        (Some(address), _) => Some(ExplainTarget::Address(address)),
        (None, name) => name.map(ExplainTarget::Name),
    };
    let explanation = client.explain(&ExplainRequest { subject, target }).await?;
    if arguments.json {
        output::print_json(&explanation)
    } else {
        output::print(&render(&explanation, output::colour()))
    }
}

/// A program as a shell finds it.
fn executable(program: &Path) -> Result<Subject, Failure> {
    let path = run::find(program.as_os_str()).map_err(|failure| failure.with_status(USAGE))?;
    match path.to_str() {
        Some(path) => Ok(Subject::Executable(path.to_owned())),
        None => Err(Failure::new(
            USAGE,
            format!("{} is not UTF-8", path.display()),
        )),
    }
}

/// What it is; what claims it and what does not; what the kernel has; what happens, and why.
fn render(explanation: &Explanation, colour: bool) -> String {
    let mut text = output::clean(&explanation.subject) + "\n";
    let mut facts = Table::plain();
    for fact in &explanation.facts {
        facts.row([
            "".into(),
            fact.label.as_str().into(),
            fact.value.as_str().into(),
        ]);
    }
    text.push_str(&facts.render(colour));
    text.push_str(&findings(&explanation.findings, colour));
    if let Some(kernel) = &explanation.kernel {
        text.push_str(&format!("\n{}", kernel_line(kernel, colour)));
    }
    for decided in &explanation.decisions {
        text.push_str(&format!("\n{}", decision(decided, colour)));
    }
    if !explanation.notes.is_empty() {
        text.push('\n');
    }
    for note in &explanation.notes {
        text.push_str(&format!("{}\n", output::clean(note)));
    }
    text
}

/// Profile by profile, each rule on a line.
fn findings(findings: &[Finding], colour: bool) -> String {
    let mut text = String::new();
    for of_one in findings.chunk_by(|one, other| one.profile == other.profile) {
        text.push_str(&format!("\n{}\n", output::clean(&of_one[0].profile)));
        let mut table = Table::plain();
        for finding in of_one {
            let mark = match finding.matches {
                true => Cell::toned("yes", Tone::Good),
                false => "no".into(),
            };
            table.row([
                "".into(),
                mark,
                finding.rule.as_deref().unwrap_or("").into(),
                finding.sentence.as_str().into(),
            ]);
        }
        text.push_str(&table.render(colour));
    }
    text
}

fn kernel_line(kernel: &KernelView, colour: bool) -> String {
    let tone = match kernel.agrees {
        true => Tone::Plain,
        false => Tone::Bad,
    };
    let mut table = Table::plain();
    table.row([
        "kernel:".into(),
        Cell::toned(kernel.sentence.as_str(), tone),
    ]);
    table.render(colour)
}

fn decision(decided: &Decided, colour: bool) -> String {
    let of = match &decided.profile {
        Some(profile) => format!("an app of {profile} to "),
        None => "to ".to_owned(),
    };
    let mut text = output::clean(&format!("{of}{}", decided.target)) + "\n";
    let mut table = Table::plain();
    if let Some(note) = &decided.note {
        text.push_str(&format!("  ({})\n", output::clean(note)));
    }
    for step in &decided.steps {
        table.row([
            "".into(),
            step.profile.as_str().into(),
            step.sentence.as_str().into(),
        ]);
    }
    text.push_str(&table.render(colour));
    let mut verdict = Table::plain();
    verdict.row([
        "=>".into(),
        Cell::toned(decided.verdict.as_str(), apps::tone(decided.way)),
    ]);
    text + &verdict.render(colour)
}

#[cfg(test)]
mod tests {
    use offramp_control::{DecidedStep, Fact, Way};

    use super::*;

    fn explanation() -> Explanation {
        let finding = |profile: &str, rule: &str, matches, sentence: &str| Finding {
            profile: profile.into(),
            rule: Some(rule.into()),
            matches,
            sentence: sentence.into(),
        };
        Explanation {
            subject: "process 1234".into(),
            facts: vec![
                Fact {
                    label: "user".into(),
                    value: "alice (1000)".into(),
                },
                Fact {
                    label: "executable".into(),
                    value: "/usr/bin/curl".into(),
                },
            ],
            findings: vec![
                finding("work", "exe:curl", true, "names the app"),
                finding("work", "exe:/opt/x", false, "names another program"),
                finding("home", "unit:a.service", false, "names a unit"),
            ],
            kernel: Some(KernelView {
                class: Some(3),
                agrees: true,
                sentence: "has the process in class 3, as the rules say".into(),
            }),
            decisions: vec![Decided {
                profile: None,
                target: "198.18.1.2:443".into(),
                steps: vec![DecidedStep {
                    profile: "work".into(),
                    rule: Some("exe:curl".into()),
                    sentence: "claimed by exe:curl, relays".into(),
                }],
                way: Way::Relay,
                verdict: "relay through work".into(),
                note: Some("198.18.1.2 stands for example.com".into()),
            }],
            notes: vec!["flow 1234 exists too: `offramp explain flow:1234`".into()],
        }
    }

    #[test]
    fn facts_then_rules_then_the_verdict() {
        let expected = "\
process 1234
  user        alice (1000)
  executable  /usr/bin/curl

work
  yes  exe:curl    names the app
  no   exe:/opt/x  names another program

home
  no  unit:a.service  names a unit

kernel:  has the process in class 3, as the rules say

to 198.18.1.2:443
  (198.18.1.2 stands for example.com)
  work  claimed by exe:curl, relays
=>  relay through work

flow 1234 exists too: `offramp explain flow:1234`
";
        assert_eq!(render(&explanation(), false), expected);
    }

    #[test]
    fn a_target_alone_is_told_for_each_profile() {
        let mut explanation = explanation();
        explanation.subject = "example.com:443, as if an app of each profile asked".into();
        (explanation.facts, explanation.findings) = (Vec::new(), Vec::new());
        (explanation.kernel, explanation.notes) = (None, Vec::new());
        let decided = &mut explanation.decisions[0];
        (decided.profile, decided.note) = (Some("work".into()), None);
        decided.target = "example.com:443".into();
        let expected = "\
example.com:443, as if an app of each profile asked

an app of work to example.com:443
  work  claimed by exe:curl, relays
=>  relay through work
";
        assert_eq!(render(&explanation, false), expected);
    }

    #[test]
    fn what_others_wrote_does_not_reach_the_terminal_raw() {
        let mut explanation = explanation();
        explanation.facts[1].value = "/tmp/\x1b[2J".into();
        explanation.subject = "\x1b[2J".into();
        explanation.notes = vec!["\x1b[2J".into()];
        assert!(!render(&explanation, false).contains('\x1b'));
    }
}
