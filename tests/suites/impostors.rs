//! Programs that pass for others, and those that are taken for them.

use std::net::{IpAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use offramp_tests::addresses::{PROXY, target};
use offramp_tests::{
    Daemon, Gateway, Lab, Person, Running, Transport, build_first, port, wait_until,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
/// No start waits longer for its first answer, however many others start.
const MOMENT: Duration = Duration::from_secs(10);
const NOBODY: u32 = 65534;

fn profile(identifier: &str, rules: &[String]) -> Value {
    let mut profile = Daemon::profile();
    let rules = rules
        .iter()
        .map(|rule| json!({ "SigningIdentifier": rule }));
    profile["Identifier"] = identifier.into();
    profile["Payload"]["AppRules"] = rules.collect();
    profile
}

/// A program that opens one flow to the origin at once, at `path` below the lab's directory.
fn first(lab: &Lab, path: &str) -> PathBuf {
    let path = lab.directory().join(path);
    std::fs::create_dir_all(path.parent().expect("it has one")).expect("the directory is ours");
    build_first(
        &path,
        Transport::Tcp,
        SocketAddrV4::new(target(1), port::BANNER),
    );
    path
}

/// Builds a program of the test's own.
fn build(path: &Path, source: &str) {
    std::fs::create_dir_all(path.parent().expect("it has one")).expect("the directory is ours");
    let text = path.with_extension("c");
    std::fs::write(&text, source).expect("the directory is ours");
    let mut compiler = Command::new("gcc");
    compiler.args(["-O1", "-static", "-o"]).arg(path).arg(&text);
    let built = compiler.output().expect("gcc is there");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
}

/// Who the origin saw while this line ran.
fn peers(lab: &Lab, line: &[&str]) -> Vec<IpAddr> {
    lab.servers().forget();
    let said = lab.client().run(line);
    let seen: Vec<_> = lab
        .servers()
        .seen()
        .iter()
        .map(|seen| seen.peer.ip())
        .collect();
    eprintln!("{line:?}: {said} -> {seen:?}");
    seen
}

/// A verdict that was found where the host sees the program elsewhere counts nowhere else.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_verdict_of_a_changed_root_is_of_that_root_alone() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let app = first(&lab, "place1/app");
    let lab_dir = lab.directory().display().to_string();
    let rule = format!("exe:{lab_dir}/place*/app");
    let _daemon = Daemon::start_with(&lab, &[profile("test.lab", &[rule])]);
    let path = app.display().to_string();
    lab.client().sh(&format!(
        "mkdir -p {lab_dir}/jail{lab_dir}/place1; mount --bind {lab_dir}/place1 {lab_dir}/jail{lab_dir}/place1"
    ));
    let control = first(&lab, "place2/app").display().to_string();
    assert_eq!(
        peers(&lab, &[&control]),
        [IpAddr::from(PROXY)],
        "the rule names it"
    );
    let jailed = peers(&lab, &["chroot", &format!("{lab_dir}/jail"), &path]);
    eprintln!("in the jail: {jailed:?}");
    let outside = peers(&lab, &[&path]);
    lab.client()
        .sh(&format!("umount {lab_dir}/jail{lab_dir}/place1"));
    assert_eq!(outside, [IpAddr::from(PROXY)]);
}

/// The same by a user without rights, whose mounts nobody else sees.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_user_makes_no_verdicts_for_others() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let app = first(&lab, "place1/app");
    let lab_dir = lab.directory().display().to_string();
    let rule = format!("exe:{lab_dir}/place*/app");
    let _daemon = Daemon::start_with(&lab, &[profile("test.lab", &[rule])]);
    let path = app.display().to_string();
    lab.client()
        .sh(&format!("chmod a+rx {lab_dir} {lab_dir}/place1"));
    let control = first(&lab, "place2/app").display().to_string();
    assert_eq!(
        peers(&lab, &[&control]),
        [IpAddr::from(PROXY)],
        "the rule names it"
    );
    let jail = format!("/tmp/impostor-{}", std::process::id());
    let nobody = Person::new(&lab, NOBODY);
    let script = format!(
        "mkdir -p {jail}{lab_dir}; ln -s {lab_dir}/place1 {jail}{lab_dir}/place1
         unshare -Urm sh -euc 'mount -t tmpfs none {jail}; mkdir -p {jail}{lab_dir}/place1
         mount --bind {lab_dir}/place1 {jail}{lab_dir}/place1; chroot {jail} {path}; echo ended $?'"
    );
    lab.servers().forget();
    let mut command = nobody.command("sh");
    command.args(["-euc", &script]);
    let said = Running::start(command).finish(LIMIT);
    let seen: Vec<_> = lab
        .servers()
        .seen()
        .iter()
        .map(|seen| seen.peer.ip())
        .collect();
    eprintln!("in the jail: {said} {seen:?}");
    let outside = peers(&lab, &[&path]);
    std::fs::remove_dir_all(&jail).expect("it was made");
    assert_eq!(outside, [IpAddr::from(PROXY)]);
}

/// The loader that is told to run a program runs that program.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn by_the_loader() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let bash = lab.directory().join("shell");
    std::fs::copy("/bin/bash", &bash).expect("the directory is ours");
    let path = bash.display().to_string();
    let rules = [format!("exe:{path}"), "exe:shell".to_owned()];
    let _daemon = Daemon::start_with(&lab, &[profile("test.lab", &rules)]);
    let script = "exec 9<>/dev/tcp/203.0.113.1/2001; read -r said <&9";
    assert_eq!(peers(&lab, &[&path, "-c", script]), [IpAddr::from(PROXY)]);
    let loader = "/lib64/ld-linux-x86-64.so.2";
    assert_eq!(
        peers(&lab, &[loader, &path, "-c", script]),
        [IpAddr::from(PROXY)]
    );
}

/// A script is found however many options come before it.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_script_behind_long_options() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let script = lab.directory().join("tool.py");
    let text = "import socket; socket.create_connection(('203.0.113.1', 2001), 10).recv(9)";
    std::fs::write(&script, text).expect("the directory is ours");
    let path = script.display().to_string();
    let rules = [format!("exe:{path}"), "exe:tool.py".to_owned()];
    let _daemon = Daemon::start_with(&lab, &[profile("test.lab", &rules)]);
    assert_eq!(
        peers(&lab, &["/usr/bin/python3", &path]),
        [IpAddr::from(PROXY)]
    );
    let option = format!("ignore::{}", "x".repeat(600));
    let seen = peers(&lab, &["/usr/bin/python3", "-W", &option, &path]);
    assert_eq!(seen, [IpAddr::from(PROXY)], "behind a long option");
    let deep = lab
        .directory()
        .join("d".repeat(200))
        .join("e".repeat(200))
        .join("f".repeat(200));
    std::fs::create_dir_all(&deep).expect("the directory is ours");
    let deep = deep.join("tool.py");
    std::fs::write(&deep, text).expect("the directory is ours");
    let seen = peers(&lab, &["/usr/bin/python3", &deep.display().to_string()]);
    assert_eq!(seen, [IpAddr::from(PROXY)], "at a long path");
}

const OPTIONS: &str = r#"
#include <sys/socket.h>
#include <netinet/in.h>
#include <string.h>
int main(void) {
    int bad = 0, mark = 7, got = 0; char name[16] = {0}; socklen_t n = sizeof name, m = sizeof got;
    int s = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2);
    getsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, name, &n);
    if (strcmp(name, "lo")) bad |= 1;
    setsockopt(s, SOL_SOCKET, SO_MARK, &mark, sizeof mark);
    getsockopt(s, SOL_SOCKET, SO_MARK, &got, &m);
    if (got != 7) bad |= 2;
    if (socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) < 0) bad |= 4;
    if (socket(AF_INET, SOCK_STREAM, 132) < 0) bad |= 8;
    return bad;
}
"#;

/// A program that only looks like an app gets all its sockets and options from the first moment.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn what_looks_like_an_app_loses_no_options() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let path = lab.directory().join("near/thing");
    build(&path, OPTIONS);
    let before = lab.client().run(&[&path.display().to_string()]);
    eprintln!("without a daemon: {before}");
    let rule = format!("exe:{}/real/thing", lab.directory().display());
    let _daemon = Daemon::start_with(&lab, &[profile("test.lab", &[rule])]);
    let mut ends = std::collections::BTreeMap::new();
    for number in 0..40 {
        let copy = lab.directory().join(format!("copy{number}/thing"));
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(&path, &copy).unwrap();
        let end = lab
            .client()
            .run(&[&copy.display().to_string()])
            .status
            .code();
        *ends.entry(end).or_insert(0) += 1;
    }
    assert!(ends.keys().eq([&before.status.code()]), "{ends:?}");
}

const NEXT: &str = r#"
#include <unistd.h>
int main(int n, char **a) { (void)n; execv(a[1], a + 1); return 77; }
"#;

/// Programs that the host cannot see, and that start another at once, leave nothing behind.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_program_that_was_never_found_out_disturbs_nobody() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let next = lab.directory().join("near/thing");
    build(&next, NEXT);
    let plain = first(&lab, "plain").display().to_string();
    let rule = format!("exe:{}/real/thing", lab.directory().display());
    let _daemon = Daemon::start_with(&lab, &[profile("test.lab", &[rule])]);
    let script = format!(
        "mount -t tmpfs none /mnt; cp {} /mnt/thing; set +e; for i in $(seq 60); do
         cp /mnt/thing /mnt/new; mkdir -p /mnt/$i; mv /mnt/new /mnt/$i/thing
         /mnt/$i/thing {plain}; echo $?; done | sort | uniq -c",
        next.display()
    );
    let said = lab.client().run(&["unshare", "-m", "sh", "-euc", &script]);
    eprintln!("{said}");
    let words: Vec<_> = said.stdout.split_whitespace().collect();
    assert_eq!(words, ["60", "1"], "direct");
}

/// What an unmanaged program has open stays open, also where an app has inherited it.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn the_flow_of_an_unmanaged_parent_stays() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let app = lab.directory().join("app");
    std::fs::copy("/bin/sleep", &app).expect("the directory is ours");
    let daemon = Daemon::start_with(&lab, &[profile("test.lab", &["exe:app".to_owned()])]);
    let script = format!(
        "import socket, subprocess, sys
s = socket.create_connection(('203.0.113.1', 7), 10); s.set_inheritable(True)
s.send(b'a'); assert s.recv(1) == b'a'
p = subprocess.Popen(['{}', '60'], close_fds=False)
print('ready', flush=True)
sys.stdin.readline()
s.send(b'b'); print('still', s.recv(1)); p.kill()",
        app.display()
    );
    let mut command = lab.client().command("/usr/bin/python3");
    command
        .args(["-c", &script])
        .stdin(std::process::Stdio::piped());
    let mut running = Running::start(command);
    wait_until("it has its flow", LIMIT, || {
        running.said().contains("ready")
    });
    let mut fresh = profile(
        "test.lab",
        &["exe:app".to_owned(), "exe:another".to_owned()],
    );
    fresh["ServerToken"] = "2".into();
    daemon.write("policies/managed/0.json", &fresh.to_string());
    wait_until("the rules are read", LIMIT, || {
        daemon
            .offramp(&["explain", "--exe", "/bin/sleep"])
            .stdout
            .contains("another")
    });
    std::thread::sleep(Duration::from_secs(3));
    std::io::Write::write_all(&mut running.input(), b"\n").expect("it waits");
    let said = running.finish(LIMIT);
    eprintln!("{said}");
    assert!(said.stdout.contains("still"), "{said}");
}

/// What a boot leaves: no daemon, and nothing in the kernel.
fn boot(lab: &Lab, daemon: &mut Daemon<'_>) {
    daemon.process().signal(nix::sys::signal::Signal::SIGKILL);
    wait_until("the daemon is gone", LIMIT, || {
        !daemon.process().is_running()
    });
    let name = daemon
        .directory()
        .file_name()
        .expect("it has one")
        .to_string_lossy()
        .into_owned();
    lab.client()
        .sh(&format!("rm -rf /sys/fs/bpf/offramp/{name}"));
    daemon.start_again();
}

/// However much a user names, the rules of the administrator are in force.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_user_who_names_too_much_changes_nothing_for_others() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let app = first(&lab, "app").display().to_string();
    let unit = first(&lab, "late").display().to_string();
    let mut daemon = Daemon::start_with(&lab, &[profile("test.lab", &["exe:app".to_owned()])]);
    boot(&lab, &mut daemon);
    assert_eq!(peers(&lab, &[&app]), [IpAddr::from(PROXY)], "after a boot");
    let nobody = Person::new(&lab, NOBODY);
    let pem = std::fs::read_to_string(lab.directory().join("gateway-authority.pem")).unwrap();
    nobody.write(".config/offramp/credentials/gateway-authority", &pem);
    for number in 0..2 {
        let rules: Vec<_> = (0..3500)
            .map(|rule| format!("app:a{number}{rule}-b{rule}"))
            .collect();
        let mut own = profile(&format!("test.own{number}"), &rules);
        own["ServerToken"] = "1".into();
        let said = nobody.install(&daemon, &own);
        eprintln!(
            "install {number}: {} {} {}",
            said.status,
            said.stdout.len(),
            &said.stderr.chars().take(400).collect::<String>()
        );
        eprintln!("maps {:?}", daemon.map_entries());
    }
    let mut fresh = profile("test.lab", &["exe:app".to_owned(), "exe:late".to_owned()]);
    fresh["ServerToken"] = "2".into();
    daemon.write("policies/managed/0.json", &fresh.to_string());
    std::thread::sleep(Duration::from_secs(4));
    let kept = peers(&lab, &[&app]);
    let late = peers(&lab, &[&unit]);
    eprintln!("known {kept:?}, new {late:?}");
    boot(&lab, &mut daemon);
    let booted = peers(&lab, &[&app]);
    assert_eq!(
        (kept, late, booted),
        (vec![PROXY.into()], vec![PROXY.into()], vec![PROXY.into()])
    );
}

/// Nobody learns of another's processes or files, nor of the daemon's own, by asking why.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn explain_tells_nothing_of_others() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start_with(&lab, &[profile("test.lab", &["exe:app".to_owned()])]);
    let nobody = Person::new(&lab, NOBODY);
    let directory = lab.directory().display().to_string();
    lab.client().sh(&format!(
        "cd {directory}; chmod a+rx .; mkdir -m 700 secret; cp /bin/sleep secret/app
         mkfifo -m 777 pipe; ln -s secret/app link"
    ));
    let held = lab
        .client()
        .spawn(&[&format!("{directory}/secret/app"), "60"]);
    let ask = |what: &str, about: Value| {
        let mut command = nobody.command("curl");
        command.args(["-sS", "-m", "20", "-H", "content-type: application/json"]);
        command.arg("--unix-socket").arg(daemon.socket());
        command.args(["-d", &json!({ "subject": { what: about } }).to_string()]);
        let said = Running::start({
            command.arg("http://offramp/v1/explain");
            command
        })
        .finish(LIMIT);
        said.success()
    };
    let of_file = |path: &str| ask("executable", json!(format!("{directory}/{path}")));
    let missing = of_file("secret/none");
    for path in ["secret/app", "link", "secret"] {
        let said = of_file(path).replace(path, "secret/none");
        eprintln!("{said}");
        if path != "secret" {
            assert_eq!(said, missing, "{path}");
        }
    }
    eprintln!("{}", of_file("pipe"));
    let said = ask("process", json!(held.id()));
    eprintln!("{said}");
    assert!(!said.contains("secret"), "{said}");
    assert!(
        !nobody
            .offramp(&daemon, &["apps"])
            .success()
            .contains("secret")
    );
    let mut found = String::new();
    for number in 0..80 {
        let said = ask("executable", json!(format!("/proc/self/fd/{number}")));
        if !said.contains("not_found")
            && !said.contains("No such file")
            && !said.contains("invalid")
        {
            found += &format!("{number}: {said}\n");
        }
    }
    for path in [
        "/proc/self/exe",
        "/proc/self/environ",
        "/proc/self/maps",
        "/dev/zero",
        "/etc/shadow",
    ] {
        eprintln!("{path}: {}", ask("executable", json!(path)));
    }
    eprintln!("{found}");
}

/// A script is found at any path.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_script_at_a_long_path() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let text = "import socket; socket.create_connection(('203.0.113.1', 2001), 10).recv(9)";
    let _daemon = Daemon::start_with(&lab, &[profile("test.lab", &["exe:tool.py".to_owned()])]);
    for length in [60, 200] {
        let deep = ["d", "e", "f"].map(|name| name.repeat(length)).join("/");
        let deep = lab.directory().join(deep);
        std::fs::create_dir_all(&deep).expect("the directory is ours");
        let deep = deep.join("tool.py");
        std::fs::write(&deep, text).expect("the directory is ours");
        let seen = peers(&lab, &["/usr/bin/python3", &deep.display().to_string()]);
        assert_eq!(seen, [IpAddr::from(PROXY)], "at a path of 3 * {length}");
    }
}

const STORM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <time.h>
#include <string.h>
int main(int n, char **a) {
    char next[4096]; long number = atol(a[1]); (void)n;
    if (time(0) > atol(a[2])) return 0;
    strcpy(next, a[3]);
    /* The same file by a path that is new each time. */
    for (int i = 0; i < 40; i++) strcat(next, number >> i & 1 ? "/./" : "//");
    strcat(next, "thing");
    char count[32]; snprintf(count, sizeof count, "%ld", number + 1);
    execl(next, "thing", count, a[2], a[3], (char *)0);
    perror("exec"); return 1;
}
"#;

/// A user who starts what looks like an app without end, from here on.
fn storm(lab: &Lab, daemon: &Daemon<'_>) -> Running {
    let nobody = Person::new(lab, NOBODY);
    lab.client()
        .sh(&format!("chmod a+rx {}", lab.directory().display()));
    let home = nobody.directory("storm");
    build(&home.join("thing"), STORM);
    lab.client()
        .sh(&format!("chmod a+rx {}/thing", home.display()));
    let home = home.display().to_string();
    let script = format!(
        "e=$(($(date +%s)+20)); for i in $(seq 6); do {home}/thing $((i*100000000)) $e {home} & done; wait"
    );
    let mut command = nobody.command("sh");
    command.args(["-c", &script]);
    let storm = Running::start(command);
    wait_until("the storm is on", LIMIT, || {
        daemon.map_entries()["settled"] > 5
    });
    storm
}

/// A user who starts what looks like an app without end disturbs neither apps nor others.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_storm_of_starts_disturbs_nobody() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let app = first(&lab, "real/thing").display().to_string();
    let near = first(&lab, "near/thing").display().to_string();
    let rule = format!("exe:{}/real/thing", lab.directory().display());
    let daemon = Daemon::start_with(&lab, &[profile("test.lab", &[rule])]);
    let storm = storm(&lab, &daemon);
    let mut ends = std::collections::BTreeMap::new();
    for number in 0..20 {
        // A path that is new each time: nothing is remembered about it.
        for (index, program) in [&app, &near].into_iter().enumerate() {
            let copy = if index == 1 {
                let copy = lab.directory().join(format!("n{number}/thing"));
                std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
                std::fs::copy(program, &copy).unwrap();
                copy.display().to_string()
            } else {
                program.clone()
            };
            let end = lab.client().run(&[&copy]).status.code();
            *ends.entry((["app", "near"][index], end)).or_insert(0) += 1;
        }
    }
    drop(storm);
    assert!(
        ends.keys().eq([&("app", Some(2)), &("near", Some(1))]),
        "{ends:?}"
    );
}

/// The same for programs that start another at once.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_storm_of_starts_loses_no_wrapper() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let app = first(&lab, "real/thing").display().to_string();
    let rule = format!("exe:{}/real/thing", lab.directory().display());
    let daemon = Daemon::start_with(&lab, &[profile("test.lab", &[rule])]);
    let storm = storm(&lab, &daemon);
    let wrapper = lab.directory().join("wrap/thing");
    build(&wrapper, NEXT);
    let plain = first(&lab, "plain").display().to_string();
    let mut ends = std::collections::BTreeMap::new();
    let mut longest = Duration::ZERO;
    for number in 0..30 {
        let copy = lab.directory().join(format!("w{number}/thing"));
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(&wrapper, &copy).unwrap();
        for (what, next) in [("app", &app), ("plain", &plain)] {
            let line = [copy.display().to_string(), next.clone()];
            let begin = std::time::Instant::now();
            let end = lab.client().run(&[&line[0], &line[1]]).status.code();
            longest = longest.max(begin.elapsed());
            *ends.entry((what, end)).or_insert(0) += 1;
        }
    }
    drop(storm);
    assert!(
        ends.keys().eq([&("app", Some(2)), &("plain", Some(1))]),
        "{ends:?}"
    );
    assert!(longest < MOMENT, "{longest:?}");
}

const WAYS: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static char *path; static char *argv[] = {"x", 0}; static char *none[] = {0};
static void *in_thread(void *p) { (void)p; execv(path, argv); return 0; }
static int cloned(void *p) { (void)p; execv(path, argv); return 77; }
int main(int n, char **a) {
    (void)n; path = a[2]; int status = 0;
    if (!strcmp(a[1], "thread")) {
        pthread_t t; pthread_create(&t, 0, in_thread, 0);
        for (;;) pause();
    } else if (!strcmp(a[1], "vfork")) {
        if (vfork() == 0) { execv(path, argv); _exit(77); }
        wait(&status);
    } else if (!strcmp(a[1], "shared")) {
        static char stack[65536];
        int id = clone(cloned, stack + sizeof stack, CLONE_VM | CLONE_FILES | CLONE_FS | SIGCHLD, 0);
        waitpid(id, &status, 0);
    } else if (!strcmp(a[1], "handle")) {
        int fd = open(path, O_PATH); syscall(SYS_execveat, fd, "", argv, none, AT_EMPTY_PATH);
    } else if (!strcmp(a[1], "proc")) {
        char text[64]; sprintf(text, "/proc/self/fd/%d", open(path, O_PATH)); execv(text, argv);
    } else if (!strcmp(a[1], "relative")) {
        char *end = strrchr(path, '/'); *end = 0; if (chdir(path)) return 78; execv(end + 1, argv);
    } else if (!strcmp(a[1], "noname")) {
        execv(path, none);
    } else if (!strcmp(a[1], "again")) {
        /* Its own start is undecided still. */
        char *more[] = {a[3], "then", path, a[3], 0}; execv(a[3], more);
    } else if (!strcmp(a[1], "then")) {
        execv(path, argv);
    }
    return WEXITSTATUS(status);
}
"#;

/// An app is found however it is executed, by whatever thread.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn however_it_is_executed() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let app = first(&lab, "real/thing").display().to_string();
    let starter = lab.directory().join("near/thing");
    build(&starter, WAYS);
    let starter = starter.display().to_string();
    let rule = format!("exe:{app}");
    let _daemon = Daemon::start_with(&lab, &[profile("test.lab", &[rule])]);
    for way in [
        "thread", "vfork", "shared", "handle", "proc", "relative", "noname", "again",
    ] {
        for _ in 0..5 {
            let seen = peers(&lab, &[&starter, way, &app, &starter]);
            assert_eq!(seen, [IpAddr::from(PROXY)], "{way}");
        }
    }
}
