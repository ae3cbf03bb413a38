use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::IpAddr;
use std::time::Duration;

use offramp_rules::DomainName;

/// A name, an IPv6 address, seconds, a few users with seconds, and what ends each.
const LONGEST_LINE: usize = 254 + 46 + 21 + 8 * 32;

/// What a synthetic address stands for, how long it was unused, and who asked for the name, each with
/// how long that user did not use it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) name: DomainName,
    pub(crate) address: IpAddr,
    pub(crate) unused: Duration,
    pub(crate) askers: Vec<(u32, Duration)>,
}

pub(crate) fn write(writer: impl Write, lines: &[Line]) -> io::Result<()> {
    let mut writer = BufWriter::new(writer);
    for line in lines {
        let seconds = line.unused.as_secs();
        write!(writer, "{} {} {seconds}", line.name, line.address)?;
        for (number, (uid, unused)) in line.askers.iter().enumerate() {
            let before = if number == 0 { ' ' } else { ',' };
            write!(writer, "{before}{uid}:{}", unused.as_secs())?;
        }
        writeln!(writer)?;
    }
    writer.flush()
}

/// At most `limit` lines, in the order of the file.
pub(crate) fn read(reader: impl Read, limit: usize) -> io::Result<Vec<Line>> {
    let longest = limit.saturating_mul(LONGEST_LINE) as u64;
    let mut reader = BufReader::new(reader.take(longest));
    let mut lines = Vec::new();
    let mut text = Vec::new();
    while lines.len() < limit {
        text.clear();
        // Without its end a line may be torn, and its last number another one.
        if reader.read_until(b'\n', &mut text)? == 0 || text.pop() != Some(b'\n') {
            break;
        }
        lines.extend(std::str::from_utf8(&text).ok().and_then(line));
    }
    Ok(lines)
}

/// A line of three words is of a time when nobody noted who asked: then only root sees it, until
/// somebody asks for the name again.
fn line(text: &str) -> Option<Line> {
    let mut words = text.split(' ');
    let line = Line {
        name: DomainName::parse(words.next()?).ok()?,
        address: words.next()?.parse().ok()?,
        unused: seconds(words.next()?)?,
        askers: match words.next() {
            None => Vec::new(),
            Some(askers) => askers.split(',').map(asker).collect::<Option<_>>()?,
        },
    };
    words.next().is_none().then_some(line)
}

fn asker(text: &str) -> Option<(u32, Duration)> {
    let (uid, unused) = text.split_once(':')?;
    Some((uid.parse().ok()?, seconds(unused)?))
}

fn seconds(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_secs)
}
