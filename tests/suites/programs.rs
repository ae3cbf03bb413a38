//! Real programs: managed, the origin sees the gateway and the wire has nothing else; unmanaged,
//! at the same time, it sees the client.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use offramp_tests::addresses::{CLIENT, CLIENT6, ORIGIN, PROXY, PROXY6};
use offramp_tests::{
    Daemon, Finished, Gateway, Lab, Packets, Postgres, Running, Shell, User, binary, port,
};

const LIMIT: Duration = Duration::from_secs(90);
const USERS: [User; 2] = [User::Root, User::Nobody];

/// The lab with a gateway and a daemon, and what programs need to trust the origin.
struct Stage<'lab> {
    lab: &'lab Lab,
    daemon: Daemon<'lab>,
    ca: String,
}

impl<'lab> Stage<'lab> {
    fn new(lab: &'lab Lab) -> Self {
        let ca = lab.authority().certificate().display().to_string();
        Self {
            lab,
            daemon: Daemon::start(lab),
            ca,
        }
    }

    /// A directory that `user` may write.
    fn home(&self, user: User) -> PathBuf {
        let home = self.lab.directory().join(format!("home-{user:?}"));
        std::fs::create_dir_all(&home).expect("the lab's directory is ours");
        let owner = (user == User::Nobody).then_some(65534);
        std::os::unix::fs::chown(&home, owner, owner).expect("root may do this");
        home
    }

    fn prepare(&self, mut command: Command, user: User, arguments: &[&str]) -> Finished {
        command
            .args(arguments)
            .env("HOME", self.home(user))
            .env("NODE_EXTRA_CA_CERTS", &self.ca);
        command
            .env("REQUESTS_CA_BUNDLE", &self.ca)
            .env("GIT_SSL_CAINFO", &self.ca);
        Running::start(command).finish(LIMIT)
    }

    fn managed(&self, user: User, line: &[&str]) -> Finished {
        self.prepare(self.daemon.command_as(user, line[0]), user, &line[1..])
    }

    fn unmanaged(&self, user: User, line: &[&str]) -> Finished {
        self.prepare(
            self.lab.client().command_as(user, line[0]),
            user,
            &line[1..],
        )
    }

    /// Runs a program that prints which peer the origin saw, as both users, managed and not.
    #[track_caller]
    fn check(&self, line: &[&str]) {
        for user in USERS {
            self.lab.servers().forget();
            let capture = self.lab.capture();
            let said = self.managed(user, line).success();
            assert!(
                tells(&said, true) && !tells(&said, false),
                "{line:?} as {user:?}: {said}"
            );
            self.check_wire(&capture.packets());
            let said = self.unmanaged(user, line).success();
            assert!(
                tells(&said, false) && !tells(&said, true),
                "unmanaged {line:?}: {said}"
            );
        }
    }

    /// Runs a program of which only the origin can say where it came from.
    #[track_caller]
    fn check_seen(&self, line: impl Fn(User, bool) -> Vec<String>) {
        for user in USERS {
            let text = line(user, true);
            self.lab.servers().forget();
            let capture = self.lab.capture();
            self.managed(user, &text.iter().map(String::as_str).collect::<Vec<_>>())
                .success();
            self.check_wire(&capture.packets());
            self.lab
                .servers()
                .assert_seen_only(&[PROXY.into(), PROXY6.into()]);
            let text = line(user, false);
            self.lab.servers().forget();
            self.unmanaged(user, &text.iter().map(String::as_str).collect::<Vec<_>>())
                .success();
            self.lab
                .servers()
                .assert_seen_only(&[CLIENT.into(), CLIENT6.into()]);
        }
    }

    #[track_caller]
    fn check_wire(&self, packets: &Packets) {
        packets.assert_only_gateway();
    }
}

/// Whether a program's output says that the origin saw the gateway, or else the client.
fn tells(said: &str, managed: bool) -> bool {
    let peers = match managed {
        true => [PROXY.to_string(), PROXY6.to_string()],
        false => [CLIENT.to_string(), CLIENT6.to_string()],
    };
    peers.iter().any(|peer| said.contains(peer))
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn curl() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let stage = Stage::new(&lab);
    for family in ["-4", "-6"] {
        for way in ["--http1.1", "--http2"] {
            let url = "https://origin.test/";
            stage.check(&["curl", "-sS", family, way, "--cacert", &stage.ca, url]);
        }
    }
    stage.check(&["curl", "-sS", "http://203.0.113.11/"]);
    stage.check(&["curl", "-sS", "http://[2001:db8::11]/"]);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn git_clone() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let stage = Stage::new(&lab);
    lab.client().sh(&format!(
        "mkdir -p {0}; cd {0}; git init -q work; cd work
         git -c user.name=a -c user.email=a@b commit -q --allow-empty -m first
         git clone -q --bare . ../repository.git; git -C ../repository.git update-server-info",
        lab.directory().join("origin").display()
    ));
    stage.check_seen(|user, managed| {
        let copy = stage
            .home(user)
            .join(format!("clone-{managed}"))
            .display()
            .to_string();
        [
            "git",
            "clone",
            "-q",
            "https://origin.test/repository.git",
            &copy,
        ]
        .map(String::from)
        .into()
    });
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn ssh_and_scp() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let shell = Shell::start(lab.origin(), lab.directory());
    let stage = Stage::new(&lab);
    let file = lab.directory().join("file");
    std::fs::write(&file, vec![7; 1_000_000]).expect("the lab's directory is ours");
    for user in USERS {
        let arguments = shell.arguments(user);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let ssh = [
            &["ssh"],
            &arguments[..],
            &["root@origin.test", "echo $SSH_CONNECTION"],
        ]
        .concat();
        let capture = lab.capture();
        assert!(tells(&stage.managed(user, &ssh).success(), true));
        let copy = lab.directory().join(format!("copy-{user:?}"));
        let target = format!("root@origin.test:{}", copy.display());
        let path = file.display().to_string();
        stage
            .managed(
                user,
                &[&["scp"], &arguments[..], &[&path, &target]].concat(),
            )
            .success();
        stage.check_wire(&capture.packets());
        assert_eq!(
            std::fs::read(copy).expect("scp has written it"),
            vec![7; 1_000_000]
        );
        assert!(tells(&stage.unmanaged(user, &ssh).success(), false));
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn wget_and_a_static_program() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let stage = Stage::new(&lab);
    let ca = format!("--ca-certificate={}", stage.ca);
    stage.check(&["wget", "-q", "-O-", &ca, "https://origin.test/"]);
    let kind = lab
        .client()
        .sh("file -L /bin/busybox 2>/dev/null || ldd /bin/busybox 2>&1 || true");
    assert!(
        kind.contains("static") || kind.contains("not a dynamic"),
        "{kind}"
    );
    stage.check(&["/bin/busybox", "wget", "-q", "-O-", "http://203.0.113.11/"]);
    stage.check(&["/bin/busybox", "wget", "-q", "-O-", "http://v4.test/"]);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn python_node_and_java() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let stage = Stage::new(&lab);
    let python = "import requests; print(requests.get('https://origin.test/').text)";
    stage.check(&["/usr/bin/python3", "-c", python]);
    let node = "fetch('https://origin.test/').then(r => r.text()).then(t => console.log(t))";
    stage.check(&["node", "-e", node]);
    let class = lab.directory().join("Fetch.java").display().to_string();
    std::fs::write(&class, JAVA).expect("the lab's directory is ours");
    let store = lab.directory().join("store").display().to_string();
    lab.client().sh(&format!(
        "keytool -importcert -noprompt -storepass changeit -keystore {store} -file {} 2>&1",
        stage.ca
    ));
    let trust = format!("-Djavax.net.ssl.trustStore={store}");
    let password = "-Djavax.net.ssl.trustStorePassword=changeit";
    stage.check(&["java", &trust, password, &class, "https://origin.test/"]);
}

const JAVA: &str = r"
import java.net.URI;
import java.net.http.*;

public class Fetch {
    public static void main(String[] arguments) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(arguments[0])).build();
        var answer = HttpClient.newHttpClient();
        System.out.println(answer.send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}
";

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn dig() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let stage = Stage::new(&lab);
    for user in USERS {
        for way in ["+notcp", "+tcp"] {
            let line = [
                "dig",
                way,
                "+short",
                "+tries=1",
                "+time=10",
                "origin.test",
                "A",
            ];
            let capture = lab.capture();
            let said = stage.managed(user, &line).success();
            assert!(
                said.starts_with("198.1"),
                "an address that stands for the name: {said}"
            );
            stage.check_wire(&capture.packets());
            assert_eq!(
                stage.unmanaged(user, &line).success().trim(),
                ORIGIN.to_string()
            );
        }
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn iperf3() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let stage = Stage::new(&lab);
    for options in [
        &[][..],
        &["-R"],
        &["-u", "-l", "1200"],
        &["-u", "-l", "1200", "-R"],
    ] {
        for (user, managed) in [
            (User::Root, true),
            (User::Nobody, true),
            (User::Root, false),
        ] {
            let server = lab
                .origin()
                .spawn(&["iperf3", "-s", "-1", "-B", "203.0.113.10"]);
            offramp_tests::wait_until("iperf3 listens", LIMIT, || {
                lab.origin().sh("ss -Htnl 'sport = :5201'").contains("5201")
            });
            let line = [
                &["iperf3", "-c", "203.0.113.10", "-t", "1", "-b", "50M"],
                options,
            ]
            .concat();
            let capture = lab.capture();
            if managed {
                stage.managed(user, &line).success();
                stage.check_wire(&capture.packets());
            } else {
                stage.unmanaged(user, &line).success();
            }
            let said = server.finish(LIMIT).success();
            assert!(
                tells(&said, managed) && !tells(&said, !managed),
                "{options:?}: {said}"
            );
        }
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn psql() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let _postgres = Postgres::start(lab.origin(), lab.directory());
    let stage = Stage::new(&lab);
    let query = "select inet_client_addr()";
    stage.check(&[
        "psql",
        "-AtX",
        "-h",
        "origin.test",
        "-U",
        "postgres",
        "-c",
        query,
    ]);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn chromium() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let stage = Stage::new(&lab);
    for user in USERS {
        for managed in [true, false] {
            let data = stage.home(user).join(format!("chromium-{managed}"));
            let data = format!("--user-data-dir={}", data.display());
            let line = [
                "chromium",
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
            ];
            let line = [
                &line[..],
                &["--ignore-certificate-errors", "--disable-dev-shm-usage"],
            ]
            .concat();
            let line = [
                &line[..],
                &[&data, "--dump-dom", "https://origin.test/page"],
            ]
            .concat();
            let capture = lab.capture();
            let said = match managed {
                true => stage.managed(user, &line).success(),
                false => stage.unmanaged(user, &line).success(),
            };
            assert!(said.contains("ran 42") && tells(&said, managed), "{said}");
            if managed {
                stage.check_wire(&capture.packets());
            }
        }
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn unmanaged_programs_while_a_managed_flow_is_open() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let stage = Stage::new(&lab);
    let probe = binary("offramp-probe").display().to_string();
    let mut command = stage.daemon.command_as(User::Root, &probe);
    command.args(["open", "8", &format!("203.0.113.10:{}", port::ECHO)]);
    let mut managed = Running::start({
        command.stdin(std::process::Stdio::piped());
        command
    });
    offramp_tests::wait_until("the flows are open", LIMIT, || {
        lab.servers().seen().len() == 8
    });
    for user in USERS {
        let line = ["curl", "-sS", "--cacert", &stage.ca, "https://origin.test/"];
        assert!(tells(&stage.unmanaged(user, &line).success(), false));
    }
    std::io::Write::write_all(&mut managed.input(), b"go\n").expect("the probe waits for it");
    let said = managed.finish(LIMIT).success();
    assert!(said.contains("working 8 {}"), "{said}");
}
