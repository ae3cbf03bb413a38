//! Which programs serve names to others.

use std::collections::HashSet;
use std::fs;

const DNS_PORT: u16 = 53;

/// Whether a process has a UDP socket at port 53 of this network.
pub(crate) fn serves_names(pid: u32) -> bool {
    let mut sockets = HashSet::new();
    for table in ["/proc/net/udp", "/proc/net/udp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        sockets.extend(text.lines().filter_map(at_dns_port));
    }
    if sockets.is_empty() {
        return false;
    }
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
    let mut links = descriptors
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.any(|link| sockets.contains(&*link.to_string_lossy()))
}

/// How links to the socket of this line look, if that is at the port (proc_net_udp(5)).
fn at_dns_port(line: &str) -> Option<String> {
    let mut words = line.split_ascii_whitespace();
    let (_, port) = words.nth(1)?.rsplit_once(':')?;
    let inode = words.nth(7)?;
    (u16::from_str_radix(port, 16) == Ok(DNS_PORT)).then(|| format!("socket:[{inode}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_port_and_socket() {
        let line = |port: &str| {
            format!(
                " 4104: 3500007F:{port} 00000000:0000 07 00000000:00000000 00:00000000 00000000   \
                 101        0 6174 2 00000000a44bf7d1 0"
            )
        };
        assert_eq!(at_dns_port(&line("0035")), Some("socket:[6174]".to_owned()));
        assert_eq!(at_dns_port(&line("14E9")), None);
        assert_eq!(at_dns_port("  sl  local_address rem_address   st"), None);
    }
}
