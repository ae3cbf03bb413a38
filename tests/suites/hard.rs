//! What the daemon and the gateway have given up, and what they tell nobody.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use offramp_tests::addresses::target;
use offramp_tests::{
    Authority, Daemon, Gateway, Lab, Person, Running, binary, copy_probe, port, wait_until,
};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

/// What of the tests' own secrets nobody may see.
const SECRETS: [&str; 4] = ["hunter2", "hunter3", "token-4711", "YWxpY2U6aHVudGVy"];
const NOBODY: u32 = 65534;

/// The lines of a status file of the kernel, of every thread.
fn statuses(pid: i32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let read = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("status"));
    threads.flatten().flat_map(read).collect()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name}: {status}")).trim()
}

/// Capabilities by their numbers in linux/capability.h.
fn mask(numbers: &[u32]) -> String {
    let mask: u64 = numbers.iter().map(|number| 1u64 << number).sum();
    format!("{mask:016x}")
}

const DAC_READ_SEARCH: u32 = 2;
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;
const SYS_PTRACE: u32 = 19;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn rights_are_given_up_in_every_thread() {
    let lab = Lab::new();
    let gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let of_daemon = mask(&[
        DAC_READ_SEARCH,
        SETGID,
        SETUID,
        NET_BIND_SERVICE,
        NET_ADMIN,
        SYS_PTRACE,
        SYS_ADMIN,
        PERFMON,
        BPF,
    ]);
    let of_gateway = mask(&[DAC_READ_SEARCH]);
    let none = mask(&[]);
    let pid = daemon.process().id();
    for (pid, effective, bounding) in [
        (pid, &of_daemon, &of_daemon),
        (gateway.id(), &of_gateway, &none),
    ] {
        let threads = statuses(pid);
        assert!(threads.len() > 1, "{threads:?}");
        for status in threads {
            assert_eq!(field(&status, "CapEff:"), effective, "{status}");
            assert_eq!(field(&status, "CapPrm:"), effective, "{status}");
            assert_eq!(field(&status, "CapBnd:"), bounding, "{status}");
            assert_eq!(field(&status, "CapInh:"), none, "{status}");
            assert_eq!(field(&status, "CapAmb:"), none, "{status}");
            assert_eq!(field(&status, "NoNewPrivs:"), "1", "{status}");
            assert_eq!(field(&status, "Seccomp:"), "2", "{status}");
        }
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let core = core.expect("the kernel lists it");
        assert_eq!(
            core.split_whitespace().filter(|word| *word == "0").count(),
            2,
            "{core}"
        );
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_crash_leaves_no_memory_behind() {
    let lab = Lab::new();
    let mut daemon = Daemon::prepare(&lab);
    daemon.start_unconnected();
    let pid = daemon.process().id();
    let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).expect("it runs");
    let dumps = || {
        let files = std::fs::read_dir(&folder).expect("it is there").flatten();
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.filter(|name| name.starts_with("core")).collect();
        names.sort();
        names
    };
    let before = dumps();
    // As if somebody had raised the limit again, where root may do this.
    lab.client()
        .run(&["prlimit", "--pid", &pid.to_string(), "--core=unlimited"]);
    daemon.process().signal(Signal::SIGABRT);
    wait_until("it is gone", LIMIT, || !daemon.process().is_running());
    assert_eq!(dumps(), before);
    assert!(!Path::new(&format!("/proc/{pid}/exe")).exists());
    let said = daemon.offramp(&["uninstall"]);
    assert!(said.status.success(), "{said}");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn another_process_of_root_reads_no_memory() {
    let lab = Lab::new();
    let gateway = Gateway::start(&lab);
    // It may do all that the gateway may, and may not trace what gives itself away to nobody.
    let read = |file: &str| {
        let file = format!("/proc/{}/{file}", gateway.id());
        let line = [
            "setpriv",
            "--bounding-set=-sys_ptrace,-perfmon,-sys_admin",
            "--inh-caps=-all",
            "cat",
            &file,
        ];
        lab.proxy().run(&line)
    };
    assert!(read("stat").status.success(), "{}", read("stat"));
    for file in ["environ", "maps", "mem"] {
        let said = read(file);
        let is_refused = !said.status.success() && said.stderr.contains("denied");
        assert!(is_refused, "{file}: {said}");
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn secrets_are_told_nobody() {
    let lab = Lab::new();
    let users = lab.directory().join("users");
    let hash = |password: &str| {
        let mut command = lab.proxy().command(binary("offramp-gateway"));
        command.arg("hash").stdin(Stdio::piped());
        let mut running = Running::start(command);
        running
            .input()
            .write_all(password.as_bytes())
            .expect("it reads");
        running.finish(LIMIT).success()
    };
    // sha256 of token-4711
    let token = "sha256:c6ca5d3a84549c13f47ab29adf0a44c5f780ccbd57d1876974a30ee5c06ae82c";
    let text = format!(
        "alice:{}\nbob:{}\ncarol:{token}\n",
        hash("hunter2").trim(),
        hash("hunter3").trim()
    );
    std::fs::write(&users, text).expect("the directory is ours");
    let authority = Authority::new(lab.directory(), "gateway-authority");
    let identity = authority.sign("gateway", &["10.90.2.2"]);
    let mut line = lab.proxy().command(binary("offramp-gateway"));
    line.args(["--listen", "[::]:443", "--certificate"])
        .arg(&identity.certificate);
    line.arg("--key")
        .arg(&identity.key)
        .arg("--users")
        .arg(&users)
        .env("RUST_LOG", "trace");
    let gateway = Running::start(line).stop_with(Signal::SIGTERM);
    wait_until("the gateway listens", LIMIT, || {
        gateway.said().contains("listening")
    });

    let daemon = Daemon::prepare(&lab);
    let mut profile = Daemon::profile();
    profile["Payload"]["AppRules"] = json!([{ "SigningIdentifier": "exe:named" }]);
    profile["Payload"]["Servers"][0]["Authentication"] =
        json!({ "Method": "Password", "CredentialsAssetReference": "credential:login" });
    daemon.write("credentials/login", "alice:hunter2\n");
    daemon.write("policies/managed/0.json", &profile.to_string());
    let mut bearer = profile.clone();
    bearer["Identifier"] = "test.bearer".into();
    bearer["Payload"]["AppRules"] = json!([]);
    bearer["Payload"]["Servers"][0]["Authentication"] =
        json!({ "Method": "Bearer", "CredentialsAssetReference": "credential:token" });
    daemon.write("credentials/token", "token-4711\n");
    daemon.write("policies/managed/1.json", &bearer.to_string());
    let mut command = daemon.command();
    command.env("OFFRAMP_LOG", "trace");
    let server = Running::start(command).stop_with(Signal::SIGTERM);
    let ready = daemon.offramp(&["status", "--wait", "30"]);
    assert!(ready.status.success(), "{ready}");

    let nobody = Person::new(&lab, NOBODY);
    let named = copy_probe(&lab, "named");
    let target = format!("{}:{}", target(21), port::BANNER);
    let relayed = lab
        .client()
        .run(&[&named.display().to_string(), "tcp", &target]);
    assert!(relayed.stdout.contains(" ok "), "{relayed}");
    // One of a user's own, with a right and then with a wrong password.
    let ca = lab
        .directory()
        .join("gateway-authority.pem")
        .display()
        .to_string();
    let probe = binary("offramp-probe").display().to_string();
    let mut said = Vec::new();
    for password in ["hunter3", "hunter3x"] {
        let url = nobody.write("url", &format!("https://bob:{password}@10.90.2.2\n"));
        let url = url.display().to_string();
        let ca = nobody.write(
            "ca.pem",
            &std::fs::read_to_string(&ca).expect("it is there"),
        );
        let run = [
            "run",
            "--server-file",
            &url,
            "--ca",
            &ca.display().to_string(),
            "--",
            &probe,
            "tcp",
            &target,
        ];
        said.push(nobody.offramp(&daemon, &run).to_string());
    }
    assert!(said[0].contains(" ok "), "{}", said[0]);
    let bad = nobody
        .write("bad", "htps://bob:hunter3@10.90.2.2\n")
        .display()
        .to_string();
    said.push(
        nobody
            .offramp(&daemon, &["run", "--server-file", &bad, "--", "true"])
            .to_string(),
    );
    for person in [&nobody, &Person::new(&lab, 0)] {
        for line in [
            &["status", "--json"][..],
            &["flows", "--json"],
            &["doctor", "--json"],
            &["apps", "--json"],
            &["profile", "list"],
            &["profile", "show", "test.lab"],
            &["explain", "--exe", "named", "--json"],
        ] {
            said.push(person.offramp(&daemon, line).to_string());
        }
    }
    for pid in [server.id(), gateway.id()] {
        for file in ["cmdline", "environ"] {
            let read = std::fs::read(format!("/proc/{pid}/{file}")).expect("root may read it");
            said.push(String::from_utf8_lossy(&read).into_owned());
        }
    }
    for running in [server, gateway] {
        running.signal(Signal::SIGTERM);
        said.push(running.finish(LIMIT).to_string());
    }
    let logs: usize = said.iter().rev().take(2).map(String::len).sum();
    assert!(logs > 10_000, "trace says more than {logs} octets");
    for text in &said {
        for secret in SECRETS {
            let at = text.find(secret);
            let around = |at: usize| {
                String::from_utf8_lossy(
                    &text.as_bytes()[at.saturating_sub(300)..(at + 100).min(text.len())],
                )
                .into_owned()
            };
            assert!(at.is_none(), "{secret}: {}", around(at.unwrap_or_default()));
        }
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn the_watchdog_is_fed_only_while_nothing_is_stuck() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::prepare(&lab);
    let mut profile = Daemon::profile();
    profile["Payload"]["AppRules"] = json!([{ "SigningIdentifier": "exe:named" }]);
    daemon.write("policies/managed/0.json", &profile.to_string());
    let socket = lab.directory().join("notify");
    let manager = UnixDatagram::bind(&socket).expect("the directory is ours");
    let silence = Duration::from_secs(4);
    manager
        .set_read_timeout(Some(silence))
        .expect("it is a socket");
    let mut command = daemon.command();
    command
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "1000000");
    let server = Running::start(command).stop_with(Signal::SIGTERM);
    // None: silent for as long as the patience lasts, and longer.
    let told = || {
        let mut text = [0; 256];
        let length = manager.recv(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text[..length]).into_owned())
    };
    let fed = || told().is_some_and(|said| said.contains("WATCHDOG=1"));
    wait_until("it is ready", LIMIT, || {
        told().is_some_and(|said| said.contains("READY=1"))
    });
    assert!(fed() && fed());
    assert!(daemon.offramp(&["status", "--wait", "30"]).status.success());

    // Whoever reads the files of users waits for this lock, with all that changes rules.
    let users = daemon.directory().join("state/users");
    std::fs::create_dir_all(&users).expect("the state folder is ours");
    let users = std::fs::File::open(users).expect("it was just made");
    let held = Flock::lock(users, FlockArg::LockExclusive).expect("nobody holds it for long");
    profile["Payload"]["VisibleName"] = "Other".into();
    daemon.write("policies/managed/0.json", &profile.to_string());
    wait_until("the watchdog is left hungry", LIMIT, || told().is_none());
    let named = copy_probe(&lab, "named");
    let target = format!("{}:{}", target(21), port::BANNER);
    let said = lab
        .client()
        .run(&[&named.display().to_string(), "tcp", &target]);
    assert!(
        said.stdout.contains("said=\"10.90.2.2:"),
        "flows go on: {said}"
    );
    assert!(told().is_none());
    drop(held);
    wait_until("it is fed again", LIMIT, fed);
    server.signal(Signal::SIGTERM);
    let said = server.finish(LIMIT);
    assert!(
        said.stderr.contains("a part of the daemon is stuck"),
        "{said}"
    );
}
