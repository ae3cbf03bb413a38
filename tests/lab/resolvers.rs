//! What other machines have for names: systemd-resolved, nscd, avahi, the system bus and their NSS
//! modules. Debian's own programs, unpacked by `scripts/deps`; the machine itself does not use them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::host::Host;
use crate::process::{Running, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
/// Where `scripts/deps` unpacks them.
const PLACE: &str = "/opt/offramp-lab";
/// The `hosts` line that Debian and Fedora end up with where all modules are installed.
pub const ALL_MODULES: &str =
    "files mymachines resolve [!UNAVAIL=return] mdns4_minimal [NOTFOUND=return] dns myhostname";

/// One of the lab's machines with a `/run`, an `nsswitch.conf` and users of its own, where glibc
/// finds the unpacked modules. Goes with the mounts of its host.
#[derive(Debug)]
pub struct Resolvers<'lab> {
    host: &'lab Host,
    directory: PathBuf,
}

impl<'lab> Resolvers<'lab> {
    /// Prepares `host`, with its files below `directory`; before the daemon is started there.
    pub fn prepare(host: &'lab Host, directory: &Path) -> Self {
        let unpacked = Path::new(PLACE).join("packages").exists();
        assert!(unpacked, "{PLACE} is missing: scripts/deps");
        let directory = directory.join(format!("resolvers-{}", host.name()));
        std::fs::create_dir(&directory).expect("the lab's directory is ours");
        let own = directory.display();
        host.sh(&format!(
            "chmod 755 {own}; cd {own}
             mount -t tmpfs -o mode=755 tmpfs /run
             mkdir -p /run/dbus /run/nscd /run/lock /run/systemd/resolved.conf.d
             {{ ls -d {PLACE}/usr/lib/*-linux-gnu {PLACE}/lib/*-linux-gnu
                echo include /etc/ld.so.conf; }} >ld.so.conf
             $(PATH=$PATH:/sbin:/usr/sbin command -v ldconfig) -X -C $PWD/ld.so.cache -f $PWD/ld.so.conf
             cp /etc/passwd /etc/group /etc/nsswitch.conf .; cp /etc/resolv.conf resolv.conf
             for user in systemd-resolve:64990 avahi:64991; do
                 grep -q ^${{user%:*}}: passwd || echo ${{user%:*}}:x:${{user#*:}}:${{user#*:}}::/:/bin/false >>passwd
                 grep -q ^${{user%:*}}: group || echo ${{user%:*}}:x:${{user#*:}}: >>group
             done
             chmod 644 *
             for file in ld.so.cache passwd group nsswitch.conf resolv.conf; do
                 mount --bind $file /etc/$file
             done"
        ));
        Self { host, directory }
    }

    /// Sets the line `hosts:` of `nsswitch.conf`; [`ALL_MODULES`] is one.
    pub fn set_hosts(&self, line: &str) {
        let machine = std::fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
        let others = machine.lines().filter(|line| !line.starts_with("hosts:"));
        let mut text: String = others.map(|line| format!("{line}\n")).collect();
        text.push_str(&format!("hosts: {line}\n"));
        self.write("nsswitch.conf", &text);
    }

    /// Says what `/etc/resolv.conf` says here.
    pub fn set_resolv_conf(&self, text: &str) {
        self.write("resolv.conf", text);
    }

    /// In place, as a mounted file is the file and not its name.
    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.directory.join(file), text).expect("the file is ours");
    }

    /// A command with one of the unpacked programs, by its path there: `usr/bin/resolvectl`.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.host.command("env");
        command.args(self.line(program));
        command
    }

    /// The same as the words behind `env`, for programs that are started by others.
    pub fn line(&self, program: &str) -> [String; 2] {
        let libraries = format!(
            "LD_LIBRARY_PATH={PLACE}/usr/lib/{0}-linux-gnu/systemd:{PLACE}/lib/{0}-linux-gnu/systemd",
            std::env::consts::ARCH
        );
        [libraries, format!("{PLACE}/{program}")]
    }

    /// Starts systemd-resolved with this below `[Resolve]`; waits for its stub and its socket. It
    /// says what it is asked and does, see [`Running::complained`].
    pub fn start_resolved(&self, settings: &str) -> Running {
        let conf = self.directory.join("resolved.conf");
        std::fs::write(&conf, format!("[Resolve]\n{settings}\n")).expect("the directory is ours");
        self.host.sh(&format!(
            "install -m 644 {} /run/systemd/resolved.conf.d/lab.conf",
            conf.display()
        ));
        let mut command = self.command("lib/systemd/systemd-resolved");
        command.env("SYSTEMD_LOG_LEVEL", "debug");
        let resolved = Running::start(command).stop_with(Signal::SIGTERM);
        self.wait_for(
            &resolved,
            "/run/systemd/resolve/io.systemd.Resolve",
            "varlink",
        );
        crate::servers::wait_for_port(self.host, 53);
        resolved
    }

    /// Starts nscd, which keeps hosts; it says what it is asked, see [`Running::complained`].
    pub fn start_nscd(&self) -> Running {
        let conf = self.directory.join("nscd.conf");
        let mut text = "paranoia no\n".to_owned();
        for (table, on) in [
            ("passwd", "no"),
            ("group", "no"),
            ("hosts", "yes"),
            ("services", "no"),
            ("netgroup", "no"),
        ] {
            text.push_str(&format!("enable-cache {table} {on}\n"));
        }
        text.push_str("persistent hosts no\nshared hosts yes\npositive-time-to-live hosts 600\n");
        std::fs::write(&conf, text).expect("the directory is ours");
        let mut command = self.command("usr/sbin/nscd");
        command.arg("--debug").arg("--config-file").arg(&conf);
        let nscd = Running::start(command).stop_with(Signal::SIGTERM);
        self.wait_for(&nscd, "/run/nscd/socket", "nscd");
        nscd
    }

    /// Starts avahi-daemon as `name`.local, with its names kept to `device`; it is on the system bus
    /// where `bus` says so.
    pub fn start_avahi(&self, name: &str, device: &str, bus: bool) -> Running {
        let conf = self.directory.join("avahi.conf");
        let text = format!(
            "[server]\nhost-name={name}\nallow-interfaces={device}\nuse-ipv4=yes\nuse-ipv6=yes\n\
             enable-dbus={}\n[publish]\npublish-workstation=no\n",
            if bus { "yes" } else { "no" }
        );
        std::fs::write(&conf, text).expect("the directory is ours");
        let mut command = self.command("usr/sbin/avahi-daemon");
        command.args(["--no-chroot", "--no-rlimits", "--debug", "--file"]);
        command.arg(&conf);
        let avahi = Running::start(command).stop_with(Signal::SIGTERM);
        self.wait_for(&avahi, "/run/avahi-daemon/socket", "avahi");
        wait_until("avahi has its name", LIMIT, || {
            avahi.complained().contains("Server startup complete")
        });
        avahi
    }

    /// Starts the system bus, where everybody may do everything; before what is to be on it.
    pub fn start_bus(&self) -> Running {
        let conf = self.directory.join("bus.conf");
        let text = r#"<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_type="method_call"/>
    <allow send_destination="*"/> <allow receive_type="method_call"/>
    <allow receive_type="method_return"/> <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
</busconfig>
"#;
        std::fs::write(&conf, text).expect("the directory is ours");
        let mut command = self.host.command("dbus-daemon");
        command.args(["--nofork", "--nopidfile", "--config-file"]);
        command.arg(&conf);
        let bus = Running::start(command).stop_with(Signal::SIGTERM);
        self.wait_for(&bus, "/run/dbus/system_bus_socket", "the bus");
        bus
    }

    /// Waits until somebody listens at a Unix socket here.
    fn wait_for(&self, server: &Running, socket: &str, what: &str) {
        let gone = || !Path::new(&format!("/proc/{}/exe", server.id())).exists();
        let end = std::time::Instant::now() + LIMIT;
        let listens = || {
            let open = self.host.run(&["ss", "-Hxl"]).stdout;
            // As the server has spelled it; /var/run is the same place.
            open.split_whitespace()
                .any(|word| word.strip_prefix("/var").unwrap_or(word) == socket)
        };
        while !listens() {
            assert!(
                !gone() && std::time::Instant::now() < end,
                "{what} does not listen at {socket}: {}{}",
                server.said(),
                server.complained()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
