//! Firewalls: nftables and iptables, in the ways in which people set them up.

use std::time::Duration;

use offramp_tests::addresses::ORIGIN;
use offramp_tests::{Daemon, Digest, Gateway, Lab, Running, User, binary, pattern, port};

use super::doctor::{RELAYED, assert_told, assert_well, flows, unmanaged};

const WAY: &str = "way to the daemon";
const LIMIT: Duration = Duration::from_secs(60);

/// Rulesets beside which all works.
const KIND: [(&str, &str); 6] = [
    (
        "a workstation's: policy drop, lo and replies are let in",
        "table inet filter {
           chain input { type filter hook input priority 0; policy drop;
             iif lo accept; ct state established,related accept; ct state invalid drop;
             meta l4proto icmpv6 accept; }
           chain forward { type filter hook forward priority 0; policy drop; }
         }",
    ),
    (
        "a strict one, which lets out HTTPS, HTTP, look-ups and echo alone",
        "table inet filter {
           chain input { type filter hook input priority 0; policy drop;
             iif lo accept; ct state established,related accept; meta l4proto icmpv6 accept; }
           chain output { type filter hook output priority 0; policy drop;
             oif lo accept; ct state established,related accept; meta l4proto icmpv6 accept;
             tcp dport { 80, 443, 53 } accept; udp dport { 53, 9 } accept; }
         }",
    ),
    (
        "firewalld's, with its default zone and reverse path check",
        "table inet firewalld {
           chain mangle_PREROUTING { type filter hook prerouting priority mangle + 10; policy accept; }
           chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10; policy accept; }
           chain filter_PREROUTING { type filter hook prerouting priority filter + 10; policy accept;
             icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept;
             meta nfproto ipv6 fib saddr . mark . iif oif missing drop; }
           chain filter_INPUT { type filter hook input priority filter + 10; policy accept;
             ct state { established, related } accept; ct status dnat accept; iifname lo accept;
             ct state invalid drop; jump public;
             reject with icmpx admin-prohibited; }
           chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept;
             ct state { established, related } accept; ct status dnat accept; iifname lo accept;
             ct state invalid drop; reject with icmpx admin-prohibited; }
           chain filter_OUTPUT { type filter hook output priority filter + 10; policy accept;
             ct state { established, related } accept; oifname lo accept;
             ip6 daddr { ::/96, ::ffff:0.0.0.0/96, 2002::/24 } reject with icmpv6 addr-unreachable; }
           chain public { tcp dport 22 ct state { new, untracked } accept;
             ip6 daddr fe80::/64 udp dport 546 ct state { new, untracked } accept;
             meta l4proto { icmp, ipv6-icmp } accept; }
         }",
    ),
    (
        "a reverse path check over both families",
        "table inet rpfilter {
           chain prerouting { type filter hook prerouting priority raw;
             icmpv6 type { nd-neighbor-solicit, nd-router-advert, nd-neighbor-advert } accept;
             fib saddr . mark . iif oif missing drop; }
         }",
    ),
    (
        "masquerade of everything that leaves, as routers have it",
        "table inet nat {
           chain postrouting { type nat hook postrouting priority srcnat;
             oifname != { lo, offramp0 } masquerade; }
         }",
    ),
    (
        "marks of connections kept in the low bits, as Tailscale does",
        "table ip mangle {
           chain prerouting { type filter hook prerouting priority mangle;
             ct state established,related meta mark set ct mark and 0x000fffff or 0x0; }
           chain output { type route hook output priority mangle;
             ct state new meta mark and 0x000fffff != 0 ct mark set mark and 0x000fffff; }
         }",
    ),
];

/// Rulesets that stop us: what `doctor` has to say, and how they are mended as it says.
const UNKIND: [(&str, &str, &str, &str); 4] = [
    (
        "nothing but lo is let in",
        "table inet filter {
           chain input { type filter hook input priority 0; policy drop;
             iif lo accept; iifname eth0 accept; }
         }",
        "goes into offramp0 and nothing comes back",
        "nft insert rule inet filter input iifname offramp0 accept",
    ),
    (
        "nothing but lo and one device is let out",
        "table inet filter {
           chain output { type filter hook output priority 0; policy drop;
             oif lo accept; oifname eth0 accept; }
         }",
        "is stopped before offramp0",
        "nft insert rule inet filter output oifname offramp0 accept",
    ),
    (
        "UDP is refused on the way out",
        "table inet filter {
           chain output { type filter hook output priority 0; policy accept;
             oifname != { lo, eth0 } meta l4proto udp reject; }
         }",
        "UDP over IPv4, UDP over IPv6 of apps is stopped before offramp0",
        "nft insert rule inet filter output oifname offramp0 accept",
    ),
    (
        "addresses that nobody should have are dropped",
        "table inet filter {
           chain input { type filter hook input priority 0; policy accept;
             ip saddr { 198.18.0.0/15, 240.0.0.0/4 } drop; }
         }",
        "TCP over IPv4, UDP over IPv4 of apps goes into offramp0 and nothing comes back",
        "nft insert rule inet filter input iifname offramp0 accept",
    ),
];

fn load(lab: &Lab, ruleset: &str) {
    let file = lab.directory().join("ruleset");
    std::fs::write(&file, format!("flush ruleset\n{ruleset}\n")).expect("the directory is ours");
    lab.client().sh(&format!("nft -f {}", file.display()));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn rulesets_of_nftables() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    load(&lab, KIND[0].1);
    // The first one is there before we are.
    let daemon = Daemon::start(&lab);
    for (what, ruleset) in KIND {
        load(&lab, ruleset);
        assert_well(&daemon, WAY, what);
        assert_eq!(flows(&daemon), RELAYED, "{what}");
        assert_eq!(unmanaged(&lab, "203.0.113.10"), "10.90.1.2", "{what}");
    }
    for (what, ruleset, words, remedy) in UNKIND {
        load(&lab, ruleset);
        let capture = lab.capture();
        assert_told(&daemon, WAY, words, what);
        // What is stopped in part may find another way, such as IPv6.
        if words.contains("offramp0 and") && !words.contains("over") || words.starts_with("is") {
            assert_ne!(flows(&daemon), RELAYED, "{what}");
        }
        capture.packets().assert_only_gateway();
        assert_eq!(unmanaged(&lab, "203.0.113.10"), "10.90.1.2", "{what}");
        lab.client().sh(remedy);
        assert_well(&daemon, WAY, what);
        assert_eq!(flows(&daemon), RELAYED, "{what}, as doctor says");
    }
    lab.client().sh("nft flush ruleset");
    assert_well(&daemon, WAY, "nothing");
    assert_eq!(
        daemon.counter("repairs"),
        0,
        "nothing of ours is in a firewall"
    );
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_firewall_is_flushed_and_loaded_while_bytes_flow() {
    const BYTES: usize = 256 << 20;
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let block = pattern();
    let mut digest = Digest::default();
    for _ in 0..BYTES / block.len() {
        digest.update(&block);
    }
    digest.update(&block[..BYTES % block.len()]);
    let mut command = daemon.command_as(User::Root, &binary("offramp-probe").display().to_string());
    let source = format!("{ORIGIN}:{}", port::SOURCE);
    command.args(["download", &source, &BYTES.to_string()]);
    let mut download = Running::start(command);
    let mut rounds = 0;
    while download.is_running() && rounds < 200 {
        load(&lab, KIND[rounds % KIND.len()].1);
        lab.client().sh(
            "nft flush ruleset
             for tables in iptables-legacy ip6tables-legacy iptables-nft ip6tables-nft; do
               $tables -P INPUT DROP; $tables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
               $tables -A INPUT -i lo -j ACCEPT; $tables -A INPUT -p icmpv6 -j ACCEPT 2>/dev/null || true
               $tables -P INPUT ACCEPT; $tables -F; $tables -X
             done",
        );
        rounds += 1;
    }
    let said = download.finish(LIMIT).success();
    assert_eq!(said, format!("seen {}\n", digest.finish()));
    assert!(rounds > 0, "the bytes were faster than the firewall");
    assert_eq!(daemon.counter("repairs"), 0);
    assert_eq!(flows(&daemon), RELAYED);
}
