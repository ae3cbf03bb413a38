//! Podman without root.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::chown;
use std::path::PathBuf;

use offramp_tests::addresses::{CLIENT, PROXY};
use offramp_tests::{Finished, Gateway, Lab, Person, Running};

use super::{LIMIT, containers};

const NOBODY: u32 = 65534;

/// Podman without root, with a root file system of the test's own.
struct Podman<'lab> {
    lab: &'lab Lab,
    user: Person<'lab>,
    image: PathBuf,
}

impl<'lab> Podman<'lab> {
    fn new(lab: &'lab Lab) -> Self {
        let user = Person::new(lab, NOBODY);
        let image = user.directory("image");
        for folder in ["proc", "sys", "dev", "tmp", "etc", "run"] {
            user.directory(&format!("image/{folder}"));
        }
        for name in ["app", "plain"] {
            let program = image.join(name);
            std::fs::copy(lab.directory().join(name), &program).expect("the directory is ours");
            chown(&program, Some(NOBODY), Some(NOBODY)).expect("root may do this");
        }
        let tun = lab.directory().join("tun");
        lab.client().sh(&format!(
            "mknod -m 666 {0} c 10 200; mount --bind {0} /dev/net/tun",
            tun.display()
        ));
        Self { lab, user, image }
    }

    /// Runs a program of the image, with the words before Podman's own.
    fn run(&self, before: &[String], network: &str, program: &str) -> (Vec<IpAddr>, Finished) {
        let mut command = match before.split_first() {
            Some((first, rest)) => {
                let mut command = self.user.command(first);
                command.args(rest).arg("podman");
                command
            }
            None => self.user.command("podman"),
        };
        let home = |path: &str| self.user.directory(path).display().to_string();
        command.env("XDG_RUNTIME_DIR", home("xdg"));
        command.args(["--root", &home("storage"), "--runroot", &home("xdg/run")]);
        command.args([
            "--cgroup-manager=cgroupfs",
            "--events-backend=none",
            "--runtime=runc",
        ]);
        command.args(["run", "--rm", &format!("--network={network}"), "--rootfs"]);
        command.arg(&self.image).arg(program).current_dir("/");
        self.lab.servers().forget();
        let finished = Running::start(command).finish(LIMIT);
        let seen = self.lab.servers().seen();
        (seen.iter().map(|seen| seen.peer.ip()).collect(), finished)
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn podman_without_root() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let containers = containers(&lab);
    let podman = Podman::new(&lab);
    let run = containers.run();
    let cases: [(&[String], _, _, Option<Ipv4Addr>); 7] = [
        // A network of its own: what carries it is a program of the host that no rule names.
        (&[], "slirp4netns", "/plain", Some(CLIENT)),
        (&[], "slirp4netns", "/app", Some(CLIENT)),
        (&[], "host", "/plain", Some(CLIENT)),
        // The network of the host, and a rule that names the program.
        (&[], "host", "/app", Some(PROXY)),
        (&run, "host", "/plain", Some(PROXY)),
        (&run, "slirp4netns", "/plain", None),
        (&run, "none", "/plain", None),
    ];
    for (before, network, program, peer) in cases {
        let (peers, finished) = podman.run(before, network, program);
        let expected: Vec<IpAddr> = peer.into_iter().map(IpAddr::from).collect();
        assert_eq!(
            peers, expected,
            "{before:?} {network} {program}: {finished}"
        );
        // The program ran, and says itself what became of its flow.
        let end = finished.status.code().expect("it ends by itself");
        let expected = if peer == Some(PROXY) {
            2..=2
        } else if peer.is_some() {
            1..=1
        } else {
            101..=233
        };
        assert!(
            expected.contains(&end),
            "{before:?} {network} {program}: {finished}"
        );
    }
}
