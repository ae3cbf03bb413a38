//! What is printed: aligned tables in plain words, colour on a terminal alone.

use std::io::{self, IsTerminal, Write};

use offramp_control::App;
use serde::Serialize;

use crate::failure::{FAILED, Failure};

/// Prints text to standard output; a reader that has left ends the program quietly.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::silent(FAILED)),
        Err(error) => Err(Failure::new(
            FAILED,
            format!("cannot write the output: {error}"),
        )),
    }
}

/// Prints a value as JSON, readable.
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(FAILED, format!("cannot write JSON: {error}")))?;
    text.push('\n');
    print(&text)
}

/// Prints a value as JSON on one line.
pub(crate) fn print_line<T: Serialize>(value: &T) -> Result<(), Failure> {
    let mut text = serde_json::to_string(value)
        .map_err(|error| Failure::new(FAILED, format!("cannot write JSON: {error}")))?;
    text.push('\n');
    print(&text)
}

/// Why a stream of events is over.
pub(crate) const STREAM_ENDED: &str = "the daemon has ended the stream";

/// Prints an event of a stream, as JSON or as `line` has it.
pub(crate) fn print_event<E: Serialize>(
    event: &E,
    json: bool,
    line: impl Fn(&E) -> String,
) -> Result<(), Failure> {
    match json {
        true => print_line(event),
        false => print(&line(event)),
    }
}

/// The line for events that a stream has left out.
pub(crate) fn missed(count: u64) -> String {
    format!("({count} events are left out here: the reader was too slow)\n")
}

/// The name of an app's program.
pub(crate) fn program(app: &App) -> &str {
    let path = &app.executable;
    path.rsplit('/').next().unwrap_or(path)
}

/// How a cell is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Doubtful,
    Bad,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "\x1b[32m",
            Self::Doubtful => "\x1b[33m",
            Self::Bad => "\x1b[31m",
        }
    }
}

/// One cell of a table.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: clean(&text.into()),
            tone,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// Rows below a head; columns are as wide as their widest cell, two spaces apart.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self {
            rows: vec![head.into_iter().map(Cell::from).collect()],
        }
    }

    /// A table without a head.
    pub(crate) fn plain() -> Self {
        Self { rows: Vec::new() }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.into());
    }

    /// The table as text; with colour where asked for.
    pub(crate) fn render(&self, colour: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                self.rows
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(width)
                    .max()
            })
            .map(|width| width.unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let blanks = " ".repeat(width - self::width(cell) + 2);
                if colour && cell.tone != Tone::Plain {
                    line.push_str(&format!("{}{}\x1b[0m{blanks}", cell.tone.code(), cell.text));
                } else {
                    line.push_str(&cell.text);
                    line.push_str(&blanks);
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Whether standard output is a terminal that colour was not denied for.
pub(crate) fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Bytes in a unit that keeps the number short.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" {
                format!("{count} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// Milliseconds in a unit that keeps the number short.
pub(crate) fn duration(milliseconds: u64) -> String {
    match milliseconds / 1000 {
        0..10 => format!("{milliseconds} ms"),
        seconds @ 10..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// What stands where there is nothing to say.
pub(crate) fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty())
        .unwrap_or("-")
        .to_owned()
}

/// Text from others with its control characters taken out: a terminal would obey them.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn width(cell: &Cell) -> usize {
    cell.text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_clean() {
        let mut table = Table::new(["A", "LONG", "C"]);
        table.row(["wide cell".into(), "x".into(), "".into()]);
        table.row(["höhe".into(), "".into(), "z".into()]);
        let expected = "A          LONG  C\nwide cell  x\nhöhe             z\n";
        assert_eq!(table.render(false), expected);
    }

    #[test]
    fn colour_does_not_move_columns() {
        let mut table = Table::new(["A", "B"]);
        table.row([Cell::toned("ok", Tone::Good), "x".into()]);
        assert_eq!(table.render(true), "A   B\n\x1b[32mok\x1b[0m  x\n");
        assert_eq!(table.render(false), "A   B\nok  x\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }

    #[test]
    fn amounts_are_short() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 30, "1.0 GiB"),
            (1 << 50, "1024.0 TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        for (count, text) in [
            (0, "0 ms"),
            (9_999, "9999 ms"),
            (10_000, "10 s"),
            (119_999, "119 s"),
            (120_000, "2 min"),
            (7_200_000, "2 h"),
            (172_800_000, "2 days"),
        ] {
            assert_eq!(duration(count), text);
        }
    }
}
