//! What the demo shows at its end.

use offramp_control::{Flow, Way};

use crate::output::{self, Cell, Table, Tone};

/// One line of the table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) app: String,
    pub(super) target: String,
    pub(super) way: Way,
    pub(super) upstream: Option<String>,
    pub(super) bytes: u64,
    pub(super) milliseconds: u64,
    pub(super) seen: String,
}

impl Row {
    /// A flow as the daemon tells it, with what the origin saw.
    pub(super) fn of(flow: &Flow, app: &str, seen: impl Into<String>) -> Self {
        Self {
            app: app.to_owned(),
            target: flow.target.clone(),
            way: flow.way,
            upstream: flow.upstream.clone(),
            bytes: flow.sent + flow.received,
            milliseconds: flow.duration_ms,
            seen: seen.into(),
        }
    }
}

pub(super) fn render(rows: &[Row], colour: bool) -> String {
    let mut table = Table::new([
        "APP",
        "TARGET",
        "WAY",
        "UPSTREAM",
        "BYTES",
        "TIME",
        "THE ORIGIN SAW",
    ]);
    for row in rows {
        let way = match row.way {
            Way::Relay => Cell::toned("relay", Tone::Good),
            Way::Direct => Cell::toned("direct", Tone::Plain),
            Way::Refused => Cell::toned("refused", Tone::Bad),
        };
        table.row([
            row.app.as_str().into(),
            row.target.as_str().into(),
            way,
            output::or_dash(row.upstream.as_deref()).into(),
            row.bytes.to_string().into(),
            output::duration(row.milliseconds).into(),
            row.seen.as_str().into(),
        ]);
    }
    table.render(colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_tell_way_and_what_the_origin_saw() {
        let row = |app: &str, way, upstream: Option<&str>, seen: &str| Row {
            app: app.into(),
            target: "203.0.113.2:80".into(),
            way,
            upstream: upstream.map(str::to_owned),
            bytes: 180,
            milliseconds: 9,
            seen: seen.into(),
        };
        let rows = [
            row(
                "curl, managed",
                Way::Relay,
                Some("198.51.100.2:443"),
                "198.51.100.2",
            ),
            row("curl", Way::Direct, None, "192.0.2.2"),
        ];
        let expected = "\
APP            TARGET          WAY     UPSTREAM          BYTES  TIME  THE ORIGIN SAW
curl, managed  203.0.113.2:80  relay   198.51.100.2:443  180    9 ms  198.51.100.2
curl           203.0.113.2:80  direct  -                 180    9 ms  192.0.2.2
";
        assert_eq!(render(&rows, false), expected);
    }
}
