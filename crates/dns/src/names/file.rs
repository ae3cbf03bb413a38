use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::IpAddr;

use offramp_rules::DomainName;

/// A name, a space, an IPv6 address and the end of the line.
const LONGEST_LINE: usize = 253 + 1 + 45 + 1;

pub(super) fn write(writer: impl Write, entries: &[(DomainName, IpAddr)]) -> io::Result<()> {
    let mut writer = BufWriter::new(writer);
    for (name, address) in entries {
        writeln!(writer, "{name} {address}")?;
    }
    writer.flush()
}

/// At most `limit` entries, in the order of the file.
pub(super) fn read(reader: impl Read, limit: usize) -> io::Result<Vec<(DomainName, IpAddr)>> {
    let longest = limit.saturating_mul(LONGEST_LINE) as u64;
    let mut reader = BufReader::new(reader.take(longest));
    let mut entries = Vec::new();
    let mut line = Vec::new();
    while entries.len() < limit {
        line.clear();
        // Without its end a line may be torn: 198.18.1.2 of what was to be 198.18.1.23.
        if reader.read_until(b'\n', &mut line)? == 0 || line.pop() != Some(b'\n') {
            break;
        }
        entries.extend(std::str::from_utf8(&line).ok().and_then(entry));
    }
    Ok(entries)
}

fn entry(line: &str) -> Option<(DomainName, IpAddr)> {
    let (name, address) = line.split_once(' ')?;
    Some((DomainName::parse(name).ok()?, address.parse().ok()?))
}
