//! Programs that pass for others or are started in odd ways, and users who want to know too much.

use std::collections::BTreeMap;
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
    assert!(!seen.is_empty(), "{said}");
    seen
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

const NEXT: &str = r#"
#include <unistd.h>
int main(int n, char **a) { (void)n; execv(a[1], a + 1); return 77; }
"#;

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
    let nobody = Person::new(&lab, NOBODY);
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
    let mut ends = BTreeMap::new();
    for number in 0..20 {
        // A path that is new each time: nothing is remembered about it.
        for (index, program) in [&app, &near].into_iter().enumerate() {
            let copy = if index == 1 {
                let copy = lab.directory().join(format!("n{number}/thing"));
                std::fs::create_dir_all(copy.parent().expect("the directory is ours"))
                    .expect("the directory is ours");
                std::fs::copy(program, &copy).expect("the directory is ours");
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
    let nobody = Person::new(&lab, NOBODY);
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
    let wrapper = lab.directory().join("wrap/thing");
    build(&wrapper, NEXT);
    let plain = first(&lab, "plain").display().to_string();
    let mut ends = BTreeMap::new();
    for number in 0..30 {
        let copy = lab.directory().join(format!("w{number}/thing"));
        std::fs::create_dir_all(copy.parent().expect("the directory is ours"))
            .expect("the directory is ours");
        std::fs::copy(&wrapper, &copy).expect("the directory is ours");
        for (what, next) in [("app", &app), ("plain", &plain)] {
            let line = [copy.display().to_string(), next.clone()];
            let end = lab.client().run(&[&line[0], &line[1]]).status.code();
            *ends.entry((what, end)).or_insert(0) += 1;
        }
    }
    drop(storm);
    assert!(
        ends.keys().eq([&("app", Some(2)), &("plain", Some(1))]),
        "{ends:?}"
    );
}

/// Nobody learns of another's processes or files by asking why.
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
        command.arg("http://offramp/v1/explain");
        let said = Running::start(command).finish(LIMIT);
        said.success()
    };
    let of_file = |path: &str| ask("executable", json!(format!("{directory}/{path}")));
    let missing = of_file("secret/none");
    for path in ["secret/app", "link"] {
        let said = of_file(path).replace(path, "secret/none");
        assert_eq!(said, missing, "{path}");
    }
    assert!(
        of_file("pipe").contains("not_found"),
        "a pipe is no program"
    );
    let said = ask("process", json!(held.id()));
    assert!(!said.contains("secret"), "{said}");
    assert!(
        !nobody
            .offramp(&daemon, &["apps"])
            .success()
            .contains("secret")
    );
}
