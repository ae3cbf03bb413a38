//! `offramp doctor`.

use offramp_control::{Check, Client, Outcome};

use crate::arguments::Json;
use crate::failure::{FAILED, Failure, UNAVAILABLE};
use crate::output::{self, Cell, Table, Tone};

/// Status 1 where a check has failed, 69 where nobody was there to make them.
pub(crate) async fn run(client: &Client, arguments: Json) -> Result<(), Failure> {
    let (checks, status) = match client.doctor().await {
        Ok(checks) => (checks, FAILED),
        Err(error) if error.code().is_none() => (vec![away(Failure::from(error))], UNAVAILABLE),
        Err(error) => return Err(error.into()),
    };
    if arguments.json {
        output::print_json(&checks)?;
    } else {
        output::print(&render(&checks, output::colour()))?;
    }
    match checks.iter().any(|check| check.outcome == Outcome::Failure) {
        true => Err(Failure::silent(status)),
        false => Ok(()),
    }
}

fn away(failure: Failure) -> Check {
    let text = failure.to_string();
    let (message, hint) = text.split_once("\n  ").unwrap_or((&text, ""));
    Check {
        name: "daemon".into(),
        outcome: Outcome::Failure,
        detail: message.trim_start_matches("offramp: ").to_owned(),
        remedy: Some(hint.to_owned()).filter(|hint| !hint.is_empty()),
    }
}

fn render(checks: &[Check], colour: bool) -> String {
    let mut table = Table::new(["CHECK", "OUTCOME", "DETAIL"]);
    for check in checks {
        let outcome = match check.outcome {
            Outcome::Ok => Cell::toned("ok", Tone::Good),
            Outcome::Warning => Cell::toned("warning", Tone::Doubtful),
            Outcome::Failure => Cell::toned("failure", Tone::Bad),
        };
        table.row([
            check.name.as_str().into(),
            outcome,
            check.detail.as_str().into(),
        ]);
        if let Some(remedy) = &check.remedy {
            table.row(["".into(), "".into(), format!("what to do: {remedy}").into()]);
        }
    }
    table.render(colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_stand_below_their_check() {
        let check = |name: &str, outcome, remedy: Option<&str>| Check {
            name: name.into(),
            outcome,
            detail: "seen".into(),
            remedy: remedy.map(str::to_owned),
        };
        let checks = [
            check("kernel", Outcome::Ok, None),
            check("bpffs", Outcome::Failure, Some("mount")),
        ];
        let expected = "\
CHECK   OUTCOME  DETAIL
kernel  ok       seen
bpffs   failure  seen
                 what to do: mount
";
        assert_eq!(render(&checks, false), expected);
    }
}
