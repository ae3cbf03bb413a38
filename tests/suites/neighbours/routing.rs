//! VPNs, containers and settings that have to do with routing.

use std::time::Duration;

use offramp_tests::{Daemon, Gateway, Host, Lab, Running, wait_until};

use super::doctor::{RELAYED, assert_told, assert_well, flows, unmanaged};

const LIMIT: Duration = Duration::from_secs(30);
const RULES: &str = "routing rules";
/// A second address of the client: who comes from it took the neighbour's route.
const OTHER: &str = "10.90.1.9";

/// What VPNs add: rules, and how they go again. Table 52 leads by `OTHER`.
const VPNS: [(&str, &str, &str); 4] = [
    (
        "Tailscale's",
        "for v in -4 -6; do
           ip $v rule add pref 5210 fwmark 0x80000/0xff0000 lookup main
           ip $v rule add pref 5230 fwmark 0x80000/0xff0000 lookup default
           ip $v rule add pref 5250 fwmark 0x80000/0xff0000 unreachable
           ip $v rule add pref 5270 lookup 52
         done",
        "for v in -4 -6; do for p in 5210 5230 5250 5270; do ip $v rule del pref $p; done; done",
    ),
    (
        "wg-quick's, with preferences that the kernel chooses",
        "for v in -4 -6; do
           ip $v rule add not fwmark 51820 table 52
           ip $v rule add table main suppress_prefixlength 0
         done",
        "for v in -4 -6; do
           ip $v rule del not fwmark 51820 table 52
           ip $v rule del table main suppress_prefixlength 0
         done",
    ),
    (
        "three such ones at once",
        "for v in -4 -6; do for mark in 1 2 3; do
           ip $v rule add not fwmark $mark table 52
           ip $v rule add table main suppress_prefixlength 0 proto $mark
         done; done",
        "for v in -4 -6; do for mark in 1 2 3; do
           ip $v rule del not fwmark $mark table 52
           ip $v rule del table main suppress_prefixlength 0 proto $mark
         done; done",
    ),
    (
        "one with a low preference",
        "ip rule add pref 50 lookup 52; ip -6 rule add pref 50 lookup 52",
        "ip rule del pref 50; ip -6 rule del pref 50",
    ),
];

fn own_rules(lab: &Lab) -> String {
    lab.client()
        .sh("ip rule | grep 'proto 198'; ip -6 rule | grep 'proto 198'")
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn rules_of_vpns() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    lab.client().sh(&format!(
        "ip addr add {OTHER}/24 dev eth0
         ip route add default via 10.90.1.1 src {OTHER} table 52"
    ));
    let mut rules = String::new();
    for (what, up, down) in VPNS {
        // Before us, and after us; then gone.
        lab.client().sh(up);
        assert_eq!(unmanaged(&lab, "203.0.113.11"), OTHER, "{what}, without us");
        let mut daemon = Daemon::start(&lab);
        for round in ["before us", "after us", "once more"] {
            assert_eq!(flows(&daemon), RELAYED, "{what}, {round}");
            assert_eq!(unmanaged(&lab, "203.0.113.11"), OTHER, "{what}, {round}");
            assert_well(&daemon, RULES, what);
            lab.client().sh(down);
            assert_eq!(unmanaged(&lab, "203.0.113.11"), "10.90.1.2", "{what}, gone");
            wait_until("our rules go back", LIMIT, || {
                own_rules(&lab).lines().all(|rule| rule.starts_with("10"))
            });
            let now = own_rules(&lab);
            rules = if rules.is_empty() { now.clone() } else { rules };
            assert_eq!(now.lines().count(), rules.lines().count(), "{what}: {now}");
            let capture = lab.capture();
            lab.client().sh(up);
            wait_until(what, LIMIT, || flows(&daemon) == RELAYED);
            capture.packets().assert_only_gateway_and_dns();
        }
        let end = daemon.stop();
        assert!(end.status.success(), "{what}: {end}");
        assert_eq!(unmanaged(&lab, "203.0.113.11"), OTHER, "{what}, after us");
        lab.client().sh(down);
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_rule_that_nothing_goes_before() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    lab.client()
        .sh("ip route add default via 10.90.1.1 table 52; ip rule add pref 3 lookup 52");
    let capture = lab.capture();
    wait_until("it is told", LIMIT, || {
        super::doctor::check(&daemon, RULES).0 == "failure"
    });
    assert_told(&daemon, RULES, "3: from all lookup 52", "told by name");
    assert_eq!(flows(&daemon)[..2], ["", ""], "refused, or dropped");
    capture.packets().assert_only(|packet| {
        packet.is_with(offramp_tests::addresses::GATEWAY)
            || packet.is_with((offramp_tests::addresses::DNS, 53).into())
    });
    // As doctor says.
    lab.client()
        .sh("ip rule add pref 10 lookup 52; ip rule del pref 3");
    wait_until("all is well", LIMIT, || {
        super::doctor::check(&daemon, RULES).0 == "ok"
    });
    assert_eq!(flows(&daemon), RELAYED);
}

/// wg-quick, with WireGuard in user space: the client's end, and the proxy's.
struct Tunnel {
    config: String,
    /// WireGuard in user space.
    program: String,
}

impl Tunnel {
    fn new(lab: &Lab) -> Self {
        let keys = |host: &Host| {
            let key = host.sh("wg genkey").trim().to_owned();
            let public = host
                .sh(&format!("echo {key} | wg pubkey"))
                .trim()
                .to_owned();
            (key, public)
        };
        let ((client_key, client), (proxy_key, proxy)) = (keys(lab.client()), keys(lab.proxy()));
        let file = lab.directory().join("wg7.conf");
        let config = format!(
            "[Interface]\nPrivateKey = {client_key}\nAddress = 10.66.0.2/24, fd66::2/64\n\
             [Peer]\nPublicKey = {proxy}\nEndpoint = 10.90.2.2:51820\nAllowedIPs = 0.0.0.0/0, ::/0\n"
        );
        std::fs::write(&file, config).expect("the directory is ours");
        for host in [lab.client(), lab.proxy()] {
            host.sh("mkdir -p /var/run/wireguard && mount -t tmpfs tmpfs /var/run/wireguard");
        }
        lab.proxy().sh(&format!(
            "setsid wireguard-go wg8 >/dev/null 2>&1
             echo {proxy_key} >$HOME/key
             wg set wg8 listen-port 51820 private-key $HOME/key \
               peer {client} allowed-ips 10.66.0.2/32,fd66::2/128
             ip addr add 10.66.0.1/24 dev wg8; ip addr add fd66::1/64 dev wg8 nodad; ip link set wg8 up
             sysctl -qw net.ipv4.ip_forward=1
             nft 'add table ip nat; add chain ip nat out {{ type nat hook postrouting priority 100; }};
                  add rule ip nat out ip saddr 10.66.0.0/24 oifname eth0 masquerade'"
        ));
        // A session of its own, or it would end with the command that starts it.
        let program = lab.directory().join("wireguard");
        std::fs::write(&program, "#!/bin/sh\nexec setsid wireguard-go \"$@\"\n")
            .expect("the directory is ours");
        lab.client().sh(&format!("chmod 755 {}", program.display()));
        Self {
            config: file.display().to_string(),
            program: program.display().to_string(),
        }
    }

    fn quick(&self, lab: &Lab, way: &str) {
        let Self { config, program } = self;
        lab.client().sh(&format!(
            "WG_QUICK_USERSPACE_IMPLEMENTATION={program} wg-quick {way} {config} 2>&1"
        ));
    }
}

#[track_caller]
fn assert_works(lab: &Lab, daemon: &Daemon<'_>, label: &str) {
    assert_well(daemon, RULES, label);
    assert_well(daemon, "way to the daemon", label);
    let capture = lab.capture();
    // The gateway's connection of before may end first.
    wait_until(label, LIMIT, || flows(daemon) == RELAYED);
    capture.packets().assert_only(|packet| {
        // The gateway's connection is in the tunnel, or from before it.
        packet.is_with("10.90.2.2:51820".parse().expect("an address"))
            || packet.is_with(offramp_tests::addresses::GATEWAY)
    });
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_tunnel_of_wg_quick() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let tunnel = Tunnel::new(&lab);
    let through = |label: &str| {
        // The far end of the tunnel is the proxy's machine.
        assert_eq!(unmanaged(&lab, "203.0.113.11"), "10.90.2.2", "{label}");
    };
    tunnel.quick(&lab, "up");
    through("without us");
    let mut daemon = Daemon::start(&lab);
    assert_works(&lab, &daemon, "before us");
    tunnel.quick(&lab, "down");
    assert_eq!(unmanaged(&lab, "203.0.113.11"), "10.90.1.2", "down");
    wait_until("flows work without it", LIMIT, || flows(&daemon) == RELAYED);
    tunnel.quick(&lab, "up");
    wait_until("flows work with it", LIMIT, || flows(&daemon) == RELAYED);
    through("beside us");
    assert_works(&lab, &daemon, "after us");
    let end = daemon.stop();
    assert!(end.status.success(), "{end}");
    through("after us");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn settings_of_the_kernel() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    for (on, off) in [
        (
            "net.ipv4.conf.all.rp_filter=1",
            "net.ipv4.conf.all.rp_filter=0",
        ),
        (
            "net.ipv4.conf.all.rp_filter=2",
            "net.ipv4.conf.all.rp_filter=0",
        ),
        (
            "net.ipv4.conf.all.ignore_routes_with_linkdown=1 net.ipv6.conf.all.ignore_routes_with_linkdown=1",
            "net.ipv4.conf.all.ignore_routes_with_linkdown=0 net.ipv6.conf.all.ignore_routes_with_linkdown=0",
        ),
        (
            "net.ipv4.conf.all.arp_ignore=2 net.ipv4.conf.all.arp_announce=2 net.ipv4.conf.all.log_martians=1",
            "net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.all.arp_announce=0 net.ipv4.conf.all.log_martians=0",
        ),
        (
            "net.ipv4.fwmark_reflect=0 net.ipv6.fwmark_reflect=0 net.ipv4.conf.offramp0.src_valid_mark=0",
            "net.ipv4.ip_forward=0",
        ),
    ] {
        lab.client().sh(&format!("sysctl -qw {on}"));
        wait_until(on, LIMIT, || flows(&daemon) == RELAYED);
        assert_well(&daemon, "way to the daemon", on);
        assert_eq!(unmanaged(&lab, "203.0.113.11"), "10.90.1.2", "{on}");
        lab.client().sh(&format!("sysctl -qw {off}"));
    }
    wait_until("what is ours is set again", LIMIT, || {
        let set = lab
            .client()
            .sh("sysctl -n net.ipv4.fwmark_reflect net.ipv4.conf.offramp0.src_valid_mark");
        set == "1\n1\n"
    });
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn ipv6_off_and_on() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let switch = |off: u8| {
        lab.client()
            .sh(&format!("sysctl -qw net.ipv6.conf.all.disable_ipv6={off}"));
        if off == 0 {
            lab.client()
                .sh("ip -6 addr replace fd00:90:1::2/64 dev eth0 nodad
                 ip -6 route replace default via fd00:90:1::1");
        }
    };
    let without = ["proxy", "proxy", "proxy", ""];
    switch(1);
    let mut daemon = Daemon::start(&lab);
    for round in ["before us", "after us"] {
        let capture = lab.capture();
        wait_until("IPv4 alone", LIMIT, || flows(&daemon) == without);
        assert_well(&daemon, "way to the daemon", round);
        let (_, detail, _) = super::doctor::check(&daemon, "ipv6");
        assert!(detail.contains("disable_ipv6"), "{round}: {detail}");
        capture.packets().assert_only_gateway_and_dns();
        switch(0);
        wait_until("both families", LIMIT, || flows(&daemon) == RELAYED);
        assert_well(&daemon, "way to the daemon", round);
        switch(1);
    }
    let end = daemon.stop();
    assert!(end.status.success(), "{end}");
    switch(0);
    let left = lab
        .client()
        .sh("ip -6 rule; ip -6 route show table all proto 198");
    assert!(!left.contains("198"), "{left}");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_bridge_of_docker() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let container = lab.client().spawn(&["unshare", "--net", "sleep", "1000"]);
    let id = container.id();
    let own = std::fs::read_link("/proc/self/ns/net").expect("/proc is there");
    wait_until("the container has its namespace", LIMIT, || {
        let there = std::fs::read_to_string(format!("/proc/{id}/comm"));
        there.is_ok_and(|name| name == "sleep\n")
            && std::fs::read_link(format!("/proc/{id}/ns/net")).is_ok_and(|ns| ns != own)
    });
    let up = format!(
        "ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up
         ip link add veth7 type veth peer name ceth0 netns {id}
         ip link set veth7 master docker0 up
         nsenter -t {id} --net sh -euc 'ip addr add 172.17.0.2/16 dev ceth0; ip link set ceth0 up
           ip link set lo up; ip route add default via 172.17.0.1'
         sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
         iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
         iptables -P FORWARD DROP
         iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
         iptables -A FORWARD -i docker0 ! -o docker0 -j ACCEPT"
    );
    let inside = || -> String {
        let line = format!("nsenter -t {id} --net curl -sS --max-time 5 http://203.0.113.11/");
        let mut command = lab.client().command("sh");
        command.args(["-c", &line]);
        Running::start(command).finish(LIMIT).stdout
    };
    let works = |label: &str| {
        let said = inside();
        assert!(said.contains("peer=10.90.1.2:"), "{label}: {said}");
    };
    lab.client().sh(&up);
    works("without us");
    let mut daemon = Daemon::start(&lab);
    for round in ["before us", "after us"] {
        works(round);
        assert_eq!(flows(&daemon), RELAYED, "{round}");
        assert_well(&daemon, "way to the daemon", round);
        lab.client()
            .sh("iptables -F; iptables -t nat -F; iptables -P FORWARD ACCEPT
             ip link del docker0; ip link del veth7");
        lab.client().sh(&up);
    }
    let end = daemon.stop();
    assert!(end.status.success(), "{end}");
    works("after us");
}
