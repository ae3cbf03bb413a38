//! The lab as a whole.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::addresses::DNS;
use crate::authority::Authority;
use crate::capture::Capture;
use crate::host::Host;
use crate::origin::Origin;
use crate::process::wait_until;
use crate::servers::Names;

/// Five machines and their cables; dropped, nothing of it is left.
#[derive(Debug)]
pub struct Lab {
    // Servers come first: they end before the machines that they run on.
    origin_servers: Origin,
    names: Names,
    client: Host,
    router: Host,
    proxy: Host,
    origin: Host,
    dns: Host,
    authority: Authority,
    captures: AtomicU32,
    directory: TempDir,
}

/// What every machine needs: addresses, and IPv6 that is usable at once.
const MACHINES: [(&str, u8); 4] = [("client", 1), ("proxy", 2), ("origin", 3), ("dns", 4)];

impl Lab {
    /// Builds the lab and starts the name server and the origin; fails the test where it cannot.
    #[expect(clippy::new_without_default, reason = "a lab is no default value")]
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("offramp-lab-").tempdir();
        let directory = directory.expect("the temporary directory can be written");
        open_to_all(directory.path());
        let host = |name| {
            let home = directory.path().join(name);
            std::fs::create_dir(&home).expect("the directory is new");
            open_to_all(&home);
            Host::new(name, &home)
        };
        let router = host("router");
        let [client, proxy, origin, dns] = MACHINES.map(|(name, _)| host(name));
        connect(&router, [&client, &proxy, &origin, &dns]);
        for machine in [&client, &proxy, &origin, &dns] {
            use_name_server(machine, directory.path());
        }
        client.sh("mount -t bpf bpf /sys/fs/bpf");
        let authority = Authority::new(directory.path(), "origin-authority");
        let origin_servers = Origin::start(&origin, &authority, &directory.path().join("origin"));
        let names = Names::start(&dns, directory.path());
        let captures = AtomicU32::new(0);
        Self {
            origin_servers,
            names,
            client,
            router,
            proxy,
            origin,
            dns,
            authority,
            captures,
            directory,
        }
    }

    /// Where apps and the daemon run.
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// Joins all the others.
    pub fn router(&self) -> &Host {
        &self.router
    }

    /// Where the gateway runs.
    pub fn proxy(&self) -> &Host {
        &self.proxy
    }

    /// Where all targets are.
    pub fn origin(&self) -> &Host {
        &self.origin
    }

    /// Where the name server runs.
    pub fn dns(&self) -> &Host {
        &self.dns
    }

    /// The servers of the origin that run in this process, and what they saw.
    pub fn servers(&self) -> &Origin {
        &self.origin_servers
    }

    /// The name server, and what it was asked.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Who signed the origin's certificate.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A directory that every user may read, for files of this test; removed with the lab.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Joins the client to the router once more, as 10.`net`.1.2 and fd00:`net`:1::2 by `device`;
    /// no route leads out by it yet.
    pub fn add_cable(&self, name: &str, device: &str, net: u8) {
        let holder = self.client.holder();
        self.router.sh(&format!(
            "ip link add {name} type veth peer name {device} netns {holder}
             ip addr add 10.{net}.1.1/24 dev {name}
             ip addr add fd00:{net}:1::1/64 dev {name} nodad
             ip link set {name} up"
        ));
        self.client.sh(&format!(
            "ip addr add 10.{net}.1.2/24 dev {device}
             ip addr add fd00:{net}:1::2/64 dev {device} nodad
             ip link set {device} up"
        ));
    }

    /// Starts to record what is on the wire between the client and the router.
    pub fn capture(&self) -> Capture<'_> {
        self.capture_only("")
    }

    /// Starts to record those packets between the client and the router that `filter`, as tcpdump
    /// has it, lets through; for tests with more packets than anybody wants to keep.
    pub fn capture_only(&self, filter: &str) -> Capture<'_> {
        let number = self.captures.fetch_add(1, Ordering::Relaxed);
        let file = self.directory.path().join(format!("capture-{number}.pcap"));
        Capture::start(&self.client, &self.router, file, filter)
    }
}

fn connect(router: &Host, machines: [&Host; 4]) {
    let setup = "
        for all in /proc/sys/net/ipv6/conf; do
            echo 0 > $all/all/accept_dad; echo 0 > $all/default/accept_dad
            echo 0 > $all/default/accept_ra; echo 0 > $all/default/router_solicitations
        done";
    router.sh(setup);
    router.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    for (machine, (name, number)) in machines.into_iter().zip(MACHINES) {
        machine.sh(setup);
        let holder = machine.holder();
        router.sh(&format!(
            "ip link add {name} type veth peer name eth0 netns {holder}
             ip addr add 10.90.{number}.1/24 dev {name}
             ip addr add fd00:90:{number}::1/64 dev {name} nodad
             ip link set {name} up"
        ));
        machine.sh(&format!(
            "ip addr add 10.90.{number}.2/24 dev eth0
             ip addr add fd00:90:{number}::2/64 dev eth0 nodad
             ip link set eth0 up
             ip route add default via 10.90.{number}.1
             ip route add default via fd00:90:{number}::1"
        ));
    }
    router.sh(
        "for net in 203.0.113.0/24 198.51.100.0/24; do ip route add $net via 10.90.3.2; done
         ip route add 2001:db8::/64 via fd00:90:3::2
         ip route add blackhole 203.0.113.66/32; ip route add blackhole 2001:db8::66/128",
    );
    for machine in machines {
        wait_until(
            "IPv6 is complete",
            std::time::Duration::from_secs(10),
            || {
                machine
                    .sh("ip -6 route show table local dev eth0")
                    .contains("multicast")
                    && machine
                        .sh("ip -6 addr show dev eth0 scope link")
                        .contains("fe80::")
            },
        );
    }
    let [_, _, origin, _] = machines;
    origin.sh(
        "for net in 203.0.113.0/24 198.51.100.0/24; do ip route add local $net dev lo; done
         ip route add local 2001:db8::/64 dev lo
         sysctl -qw net.ipv6.ip_nonlocal_bind=1",
    );
}

/// Puts a `resolv.conf` of the lab over the machine's own, in this host's mounts only.
fn use_name_server(host: &Host, directory: &Path) {
    let file = directory.join("resolv.conf");
    std::fs::write(&file, format!("nameserver {DNS}\noptions timeout:2\n"))
        .expect("the directory is ours");
    host.sh(&format!("mount --bind {} /etc/resolv.conf", file.display()));
}

fn open_to_all(directory: &Path) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory, mode).expect("the directory is ours");
}
