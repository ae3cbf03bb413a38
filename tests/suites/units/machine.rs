//! A machine that a real systemd boots: the first process of namespaces of its own, with the units
//! of the repository and nothing else of this machine's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use offramp_tests::{Finished, Lab, Running, binary, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// What every boot goes through, as systemd itself has it.
const TARGETS: [&str; 13] = [
    "sysinit",
    "basic",
    "multi-user",
    "network-pre",
    "network",
    "network-online",
    "local-fs",
    "swap",
    "sockets",
    "timers",
    "paths",
    "slices",
    "shutdown",
];

/// The parts of the file system that the machine writes to are tmpfs over those of the host.
const BOOT: &str = r#"
    echo $$ >"$CGROUP/cgroup.procs"
    mount --make-rprivate /
    mount -t proc proc /proc
    umount -R /sys/fs/cgroup 2>/dev/null || true
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mount -t tmpfs tmpfs /run
    for part in etc var/lib usr/local; do
        mkdir -p "/run/over/$part" "/run/over/$part.work"
        mount -t overlay overlay "/$part" \
            -o "lowerdir=/$part,upperdir=/run/over/$part,workdir=/run/over/$part.work"
    done
    mount -t tmpfs -o mode=755 tmpfs /dev
    for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
        number=${node#*:}
        mknod -m 666 "/dev/${node%%:*}" c "${number%:*}" "${number#*:}"
    done
    mkdir /dev/shm /dev/pts
    ln -s /proc/self/fd /dev/fd
    ln -s pts/ptmx /dev/ptmx
    cp -a "$FILES/." /
    # The files stay where they are; what services keep there goes with the machine.
    mkdir /run/files
    mount --bind "$FILES" /run/files
    for part in tmp var/tmp; do mount -t tmpfs -o mode=1777 tmpfs "/$part"; done
    mkdir -p "$FILES"
    mount --bind /run/files "$FILES"
    # As every distribution has it: mounts that are made for services reach them.
    mount --make-rshared /
    exec env -i container=other "SYSTEMD_UNIT_PATH=$UNITS" PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --system --log-target=console --show-status=0 --unit=multi-user.target
"#;

pub(crate) struct Machine<'lab> {
    lab: &'lab Lab,
    folder: PathBuf,
    cgroup: PathBuf,
    systemd: Option<Running>,
}

impl<'lab> Machine<'lab> {
    /// With the units and programs of the product, and nothing enabled.
    pub(crate) fn new(lab: &'lab Lab) -> Self {
        let folder = lab.directory().join("machine");
        let name = format!("offramp-boot-{}", std::process::id());
        let machine = Self {
            lab,
            cgroup: PathBuf::from(lab.client().sh("findmnt -rno TARGET -t cgroup2").trim())
                .join(name),
            folder,
            systemd: None,
        };
        for target in TARGETS {
            let file = format!("{target}.target");
            let from = Path::new("/lib/systemd/system").join(&file);
            machine.copy(&from, &format!("etc/systemd/system/{file}"));
        }
        let units = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/units");
        for unit in std::fs::read_dir(units).expect("the repository has units") {
            let unit = unit.expect("the repository has units");
            let to = format!("etc/systemd/system/{}", unit.file_name().display());
            machine.copy(&unit.path(), &to);
        }
        for program in ["offramp", "offrampd", "offramp-gateway"] {
            machine.copy(&binary(program), &format!("usr/local/bin/{program}"));
        }
        machine
    }

    fn copy(&self, from: &Path, to: &str) {
        let to = self.folder.join(to);
        std::fs::create_dir_all(to.parent().expect("a file has a folder")).expect("it is ours");
        std::fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }

    /// A file of the machine, for its next boot.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.folder.join(path);
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("it is ours");
        std::fs::write(&path, text).expect("the folder is ours");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).expect("the file is ours");
    }

    /// Enables a unit as an administrator would.
    pub(crate) fn enable(&self, unit: &str) {
        let mut command = Command::new("systemctl");
        command
            .arg("--root")
            .arg(&self.folder)
            .args(["--quiet", "enable", unit]);
        let said = Running::start(command).finish(LIMIT);
        assert!(said.status.success(), "{said}");
    }

    pub(crate) fn boot(&mut self) {
        std::fs::create_dir(&self.cgroup).expect("root may make groups");
        let units = self.folder.join("etc/systemd/system");
        let mut command = self.lab.client().command("unshare");
        command.args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "--uts",
            "--ipc",
        ]);
        command.args(["bash", "-euc", BOOT]);
        command
            .env("CGROUP", &self.cgroup)
            .env("FILES", &self.folder)
            .env("UNITS", units);
        self.systemd = Some(Running::start(command));
        wait_until("the machine has booted", LIMIT, || {
            let systemd = self.systemd.as_mut().expect("just started");
            assert!(systemd.is_running(), "systemd is gone");
            self.first().is_some() && {
                let said = self.systemctl(&["is-active", "multi-user.target"]);
                said.stdout.trim() == "active"
            }
        });
    }

    /// Everything ends at once; the files stay.
    pub(crate) fn power_off(&mut self) {
        if let Some(systemd) = self.systemd.take() {
            systemd.signal(Signal::SIGKILL);
            systemd.finish(LIMIT);
        }
        // The groups are empty as soon as the processes are gone.
        for _ in 0..500 {
            remove_groups(&self.cgroup);
            if !self.cgroup.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The first process, by its number outside.
    fn first(&self) -> Option<String> {
        let unshare = self.systemd.as_ref()?.id();
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        let children = std::fs::read_to_string(children).ok()?;
        children.split_whitespace().next().map(str::to_owned)
    }

    /// A command of the machine.
    pub(crate) fn command(&self, program: &str) -> Command {
        let first = self.first().expect("the machine runs");
        let mut command = Command::new("nsenter");
        command.args([
            "--target", &first, "--pid", "--mount", "--net", "--uts", "--ipc", "--",
        ]);
        command.arg(program);
        command
    }

    pub(crate) fn run(&self, line: &[&str]) -> Finished {
        let mut command = self.command(line[0]);
        command.args(&line[1..]);
        Running::start(command).finish(LIMIT)
    }

    pub(crate) fn systemctl(&self, arguments: &[&str]) -> Finished {
        let mut command = self.command("systemctl");
        command.args(arguments);
        Running::start(command).finish(LIMIT)
    }

    /// A property of a unit.
    pub(crate) fn property(&self, unit: &str, name: &str) -> String {
        let said = self.systemctl(&["show", "--value", "--property", name, unit]);
        said.success().trim().to_owned()
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        self.power_off();
    }
}

fn remove_groups(group: &Path) {
    for below in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&below.path());
        }
    }
    let _ = std::fs::remove_dir(group);
}
