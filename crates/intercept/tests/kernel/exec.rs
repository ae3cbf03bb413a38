//! Programs are recognised at exec, before their first flow.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use offramp_intercept::{Class, ClassId, Exec, FileId, Interest, Label, Swept};

use crate::lab::{CAPTURED, DIRECT, Lab, Program, build_probe, lab, run};

fn names(names: &[&str]) -> Interest {
    Interest {
        executables: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Interest::default()
    }
}

fn undecided(exec: &Exec) -> Option<Label> {
    Some(Label::Undecided {
        exec: exec.number,
        from: exec.from,
    })
}

impl Lab {
    /// An executable that is asked about is captured before the answer, and then as the answer says.
    async fn is_asked_about(&self, command: &mut Command) -> Exec {
        let mut program = Program::spawn(command);
        assert_eq!(program.answer(), CAPTURED, "{command:?}");
        let exec = self.next_exec().await;
        assert_eq!(exec.pid, program.pid());
        assert_eq!(self.label_of(exec.pid), undecided(&exec));
        assert_eq!(exec.file, FileId::of_executable(exec.pid).expect("it runs"));
        exec
    }

    /// Nothing is asked between this and the exec of a program that is asked about.
    async fn is_let_alone(&self, command: &mut Command, sentinel: &Path) {
        let mut program = Program::spawn(command);
        assert_eq!(program.answer(), DIRECT, "{command:?}");
        assert_eq!(self.label_of(program.pid()), None);
        let exec = self
            .is_asked_about(Command::new(sentinel).arg("wait"))
            .await;
        assert_eq!(exec.filename, sentinel.display().to_string());
    }
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn a_program_is_undecided_until_it_is_settled() {
    let lab = lab("exec-settle").await;
    let folder = lab.folder("bin");
    let probe = folder.join("chosen");
    build_probe(&probe, &["-static"]);
    assert_eq!(run(&mut Command::new(&probe)), DIRECT);

    lab.capture.set_interest(&names(&["chosen"])).unwrap();
    let exec = lab
        .is_asked_about(Command::new(&probe).args(["wait", "äö"]))
        .await;
    assert_eq!(exec.filename, probe.display().to_string());
    assert_eq!(exec.arguments, [probe.to_str().unwrap(), "wait", "äö"]);
    assert_eq!((exec.uid, exec.gid), (0, 0));
    assert_eq!((exec.before, exec.from), (None, None));
    assert_eq!(exec.file, FileId::of(&File::open(&probe).unwrap()).unwrap());

    // Answered and remembered: the next one is of the class from its first instruction on.
    let mut program = Program::start_as(&folder, "chosen");
    let exec = lab.next_exec().await;
    lab.capture.settle(&exec, Some(lab.class), true);
    assert_eq!(lab.label_of(program.pid()), Some(Label::Class(lab.class)));
    assert_eq!(program.ask("source()"), CAPTURED);
    let known = Program::start_as(&folder, "chosen");
    assert_eq!(lab.label_of(known.pid()), Some(Label::Class(lab.class)));

    // Forgotten with the interest.
    lab.capture.set_interest(&names(&["chosen"])).unwrap();
    let mut program = Program::start_as(&folder, "chosen");
    let exec = lab.next_exec().await;
    assert_eq!(lab.label_of(program.pid()), undecided(&exec));

    // Unmanaged: what it made meanwhile is given back at its next use.
    assert_eq!(
        program.ask("put(u=socket.socket(socket.AF_INET, socket.SOCK_DGRAM), v=socket.socket(socket.AF_INET, socket.SOCK_DGRAM), w=socket.socket(socket.AF_INET, socket.SOCK_DGRAM), t=socket.socket())"),
        "put"
    );
    assert_ne!(program.ask("mark(u)"), "0");
    lab.capture.settle(&exec, None, true);
    assert_eq!(
        program.ask("u.connect(('203.0.113.5', 9)) or u.getsockname()[0]"),
        DIRECT
    );
    assert_eq!(program.ask("t.bind(('', 0)) or mark(t)"), "0");
    assert_eq!(program.ask("mark(u)"), "0");
    // One that is not connected: its next datagram is the daemon's to pass on, then it is free.
    for _ in 0..3 {
        assert_eq!(program.ask("v.sendto(b'x', ('203.0.113.5', 9))"), "1");
        assert_eq!(program.ask("mark(v)"), "0");
    }
    let mut buffer = [0; 9];
    let datagram = lab.sockets.udp[0].receive(&mut buffer).await.unwrap();
    let identity = lab
        .capture
        .identify_udp(datagram.source, datagram.target)
        .unwrap();
    assert_eq!(
        (identity.class, identity.exec),
        (ClassId::UNDECIDED, exec.number)
    );
    assert_eq!(lab.label_of(program.pid()), None);
    assert_eq!(Program::start_as(&folder, "chosen").ask("source()"), DIRECT);
    // What nobody has used since is given back by the next sweep.
    assert_ne!(program.ask("mark(w)"), "0");
    assert_eq!(lab.capture.sweep().unwrap().ended, 0);
    assert_eq!(program.ask("mark(w)"), "0");
    assert_eq!(lab.capture.sweep().unwrap(), Swept::default());
    lab.capture.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn a_verdict_of_a_class_that_is_gone_is_not_taken() {
    let lab = lab("exec-gone").await;
    let folder = lab.folder("bin");
    let other = ClassId::new(2).unwrap();
    let shape = Class {
        open: true,
        udp: true,
        ..Class::default()
    };
    lab.capture.set_class(other, shape.clone()).await.unwrap();
    lab.capture.set_interest(&names(&["chosen"])).unwrap();
    let program = Program::start_as(&folder, "chosen");
    let exec = lab.next_exec().await;
    lab.capture.settle(&exec, Some(other), true);
    drop(program);
    lab.capture.remove_class(other).await.unwrap();
    let program = Program::start_as(&folder, "chosen");
    let exec = lab.next_exec().await;
    assert_eq!(lab.label_of(program.pid()), undecided(&exec));
    lab.capture.set_class(other, shape).await.unwrap();
    let program = Program::start_as(&folder, "chosen");
    let exec = lab.next_exec().await;
    assert_eq!(lab.label_of(program.pid()), undecided(&exec));
    lab.capture.stop().await.unwrap();
}

/// Starts one program after another and prints what each says.
const STARTS: &str = "[(print(os.popen('exec ' + p).read().strip(), flush=True)) and 0 for i in range(N) for p in P]";

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn none_of_many_starts_is_missed_while_the_interest_changes() {
    const ROUNDS: usize = 300;
    let lab = lab("exec-many").await;
    let folder = lab.folder("bin");
    let [named, filed, settled, other] = ["named", "filed", "settled", "other"].map(|name| {
        let path = folder.join(name);
        build_probe(&path, &["-static"]);
        path
    });
    let id = FileId::of(&File::open(&filed).unwrap()).unwrap();
    let interest = |extra: usize| Interest {
        executables: ["named", "settled"]
            .into_iter()
            .map(str::to_owned)
            .chain((0..20).map(|i| format!("extra-{}", i + extra)))
            .collect(),
        files: [id].into(),
        ..Interest::default()
    };
    lab.capture.set_interest(&interest(0)).unwrap();
    let mut starter = Program::start("/usr/bin/python3");
    let programs = [&named, &filed, &settled, &other]
        .map(|path| format!("'{}'", path.display()))
        .join(",");
    let order = STARTS
        .replace("(N)", &format!("({ROUNDS})"))
        .replace(" in P]", &format!(" in [{programs}]]"));
    starter.tell(&order);
    for round in 0..ROUNDS {
        let exec = lab.next_exec().await;
        if exec.filename.ends_with("settled") {
            lab.capture.settle(&exec, Some(lab.class), true);
        }
        lab.capture.set_interest(&interest(round % 7)).unwrap();
        for expected in [CAPTURED, CAPTURED, CAPTURED, DIRECT] {
            assert_eq!(starter.answer(), expected, "round {round}");
        }
    }
    lab.capture.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn everything_outlives_a_daemon_that_is_killed() {
    let lab = lab("exec-restart").await;
    let folder = lab.folder("bin");
    let before = Program::start("/usr/bin/python3");
    lab.capture.set_interest(&names(&["chosen"])).unwrap();
    let first = Program::start_as(&folder, "chosen");
    let exec = lab.next_exec().await;
    lab.capture.settle(&exec, Some(lab.class), true);
    let waiting = Program::start_as(&folder, "chosen");

    let lab = lab.restart().await;
    assert_eq!(lab.capture.known_classes().unwrap(), [lab.class]);
    let rows = lab.capture.labelled().unwrap();
    let of = |pid| rows.iter().find(|row| row.pid == pid).map(|row| row.label);
    assert_eq!(of(before.pid()), None);
    for program in [&first, &waiting] {
        assert_eq!(of(program.pid()), Some(Label::Class(lab.class)));
    }
    // What is remembered is remembered, and numbers go on.
    // For a moment the programs of before run as well, and ask again.
    let is_known = |program: &Program| lab.label_of(program.pid()) == Some(Label::Class(lab.class));
    let mut known = Program::start_as(&folder, "chosen");
    for _ in 0..100 {
        if is_known(&known) {
            break;
        }
        known = Program::start_as(&folder, "chosen");
    }
    assert_eq!(known.ask("source()"), CAPTURED);
    assert!(is_known(&known));
    lab.capture.set_interest(&names(&["chosen"])).unwrap();
    let again = Program::start_as(&folder, "chosen");
    let mut asked = lab.next_exec().await;
    while asked.pid != again.pid() {
        asked = lab.next_exec().await;
    }
    assert!(asked.number > exec.number);
    lab.capture.stop().await.unwrap();
}

/// Attaches the program of a pinned link once more, as two are at work while a new daemon takes over.
#[expect(unsafe_code, reason = "libbpf-rs attaches what it has loaded alone")]
fn attach_again(link: &Path) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    let pinned = libbpf_rs::Link::open(link).expect("it is pinned");
    let program = pinned.info().expect("the kernel knows it").prog_id;
    // SAFETY: the calls take a number and a descriptor; what they return is checked and ours.
    unsafe {
        let program = libbpf_rs::libbpf_sys::bpf_prog_get_fd_by_id(program);
        assert!(program >= 0);
        let again = libbpf_rs::libbpf_sys::bpf_raw_tracepoint_open(std::ptr::null(), program);
        libc::close(program);
        assert!(again >= 0, "{}", std::io::Error::last_os_error());
        std::os::fd::OwnedFd::from_raw_fd(again)
    }
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn a_start_that_two_programs_see_is_asked_about_once() {
    let lab = lab("exec-twice").await;
    let folder = lab.folder("bin");
    let probe = folder.join("chosen");
    build_probe(&probe, &["-static"]);
    lab.capture.set_interest(&names(&["chosen"])).unwrap();
    let pins = lab.config.bpffs.join("offramp").join(&lab.config.instance);
    let _again = attach_again(&pins.join("links/on_exec"));
    let mut numbers = Vec::new();
    for _ in 0..3 {
        let exec = lab
            .is_asked_about(Command::new(&probe).args(["wait"]))
            .await;
        assert_eq!((exec.before, exec.from), (None, None));
        numbers.push(exec.number);
    }
    assert_eq!(numbers, [numbers[0], numbers[0] + 1, numbers[0] + 2]);
    // What is known is not asked about by the other one either.
    let mut first = Program::start_as(&folder, "chosen");
    let exec = lab.next_exec().await;
    lab.capture.settle(&exec, Some(lab.class), true);
    assert_eq!(lab.label_of(first.pid()), Some(Label::Class(lab.class)));
    assert_eq!(first.ask("source()"), CAPTURED);
    let known = Program::start_as(&folder, "chosen");
    assert_eq!(lab.label_of(known.pid()), Some(Label::Class(lab.class)));
    assert_eq!(lab.capture.open_questions().len(), 3);
    lab.capture.stop().await.unwrap();
}

/// Questions are kept for whoever comes, and those of one user leave room for others.
#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn questions_are_kept_until_they_are_answered() {
    const EACH: usize = 8192;
    let lab = lab("exec-questions").await;
    let folder = lab.folder("bin");
    run(Command::new("chmod").arg("755").arg(lab.runtime.path()));
    fs::copy("/bin/true", folder.join("chosen")).unwrap();
    lab.capture.set_interest(&names(&["chosen"])).unwrap();
    let script = format!(
        "import os\nfor i in range({}):\n p = os.posix_spawn('{}', ['chosen'], {{}})\n os.waitpid(p, 0)",
        EACH + 10,
        folder.join("chosen").display()
    );
    let as_user = |user: &str, script: &str| {
        let ids = [format!("--reuid={user}"), format!("--regid={user}")];
        run(Command::new("setpriv").args(ids).args([
            "--clear-groups",
            "/usr/bin/python3",
            "-c",
            script,
        ]));
    };
    as_user("65534", &script);
    assert_eq!(lab.capture.open_questions().len(), EACH);
    as_user("65533", &script.replace(&(EACH + 10).to_string(), "5"));
    let open = lab.capture.open_questions();
    assert_eq!(open.iter().filter(|(_, asker)| *asker == 65533).count(), 5);
    // An answer makes room.
    for (exec, _) in open.iter().filter(|(_, asker)| *asker == 65534) {
        let question = lab.capture.question(*exec).expect("it is open");
        assert_eq!((question.number, question.uid), (*exec, 65534));
        lab.capture.settle(&question, None, false);
        assert_eq!(lab.capture.answer(*exec), Some(None));
    }
    as_user("65534", &script.replace(&(EACH + 10).to_string(), "3"));
    assert_eq!(lab.capture.open_questions().len(), 8);
    lab.capture.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn every_way_to_start_a_program_is_seen() {
    let lab = lab("exec-ways").await;
    let folder = lab.folder("bin");
    let probe = folder.join("chosen");
    build_probe(&probe, &[]);
    let fixed = folder.join("fixed");
    build_probe(&fixed, &["-static"]);
    let link = folder.join("other");
    symlink(&probe, &link).unwrap();
    let hard = folder.join("hard");
    fs::hard_link(&probe, &hard).unwrap();
    let reverse = folder.join("alias");
    symlink(&hard, &reverse).unwrap();
    let copy = folder.join("copy");
    fs::copy(&probe, &copy).unwrap();
    let deep = folder.join("d".repeat(200)).join("e".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    let deep = deep.join("far");
    fs::copy(&probe, &deep).unwrap();
    let script = folder.join("script");
    fs::write(&script, "#!/bin/sh\necho 198.18.0.1; read x\n").unwrap();
    run(Command::new("chmod").arg("755").arg(&script));

    let wanted = ["chosen", "fixed", "alias", "far", "script", "memfd:inside"];
    lab.capture.set_interest(&names(&wanted)).unwrap();
    for path in [&probe, &link, &fixed, &reverse, &deep] {
        lab.is_asked_about(Command::new(path).arg("wait")).await;
    }
    let exec = lab.is_asked_about(&mut Command::new(&script)).await;
    assert_eq!(exec.filename, script.display().to_string());
    assert_eq!(exec.arguments, ["/bin/sh", script.to_str().unwrap()]);
    for path in [&hard, &copy] {
        lab.is_let_alone(Command::new(path).arg("wait"), &fixed)
            .await;
    }

    let path = probe.display();
    let ways = [
        format!("os.posix_spawn('{path}', ['a', 'b'], {{}})"),
        format!("os.execv('{path}', ['a', 'b']) if os.fork() == 0 else 1"),
        // The thread takes the place of the leader.
        format!(
            "threading.Thread(target=lambda: os.execv('{path}', ['a', 'b'])).start() or time.sleep(20)"
        ),
        // Deleted, and never on any file system.
        format!(
            "put(f=os.open('{path}', 0)) and os.unlink('{path}') or os.execve(f, ['a', 'b'], {{}})"
        ),
        format!(
            "put(m=os.memfd_create('inside', 0)) and os.sendfile(m, os.open('{path}', 0), 0, 1 << 24) and os.execve(m, ['a', 'b'], {{}})"
        ),
    ];
    for way in ways {
        build_probe(&probe, &[]);
        let mut python = Program::start("/usr/bin/python3");
        let answer = python.ask(&way);
        // The one that has forked says its own word, before or after.
        let captured = answer == CAPTURED || python.answer() == CAPTURED;
        assert!(captured, "{way}: {answer}");
        let exec = lab.next_exec().await;
        assert_eq!(exec.arguments, ["a", "b"], "{way}");
        let file = FileId::of_executable(exec.pid).unwrap();
        assert_eq!(
            (exec.file, lab.label_of(exec.pid)),
            (file, undecided(&exec)),
            "{way}"
        );
        run(Command::new("kill").arg("-9").arg(exec.pid.to_string()));
    }
    lab.capture.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn files_are_known_on_every_file_system() {
    let lab = lab("exec-files").await;
    let plain = lab.folder("plain");
    let probe = plain.join("probe");
    build_probe(&probe, &[]);
    let mut mounted = vec![plain.clone()];
    let mut unmount = Unmount::default();
    let mut mount = |folder: &Path, arguments: &[&str]| {
        fs::create_dir_all(folder).unwrap();
        run(Command::new("mount").args(arguments).arg(folder));
        unmount.0.push(folder.to_owned());
    };

    let tmpfs = lab.runtime.path().join("tmpfs");
    mount(&tmpfs, &["-t", "tmpfs", "none"]);
    let bound = lab.runtime.path().join("bound");
    mount(&bound, &["--bind", plain.to_str().unwrap()]);
    for (kind, lower) in [("same", &plain), ("other", &tmpfs)] {
        let work = lab.folder(&format!("{kind}/work"));
        let upper = lab.folder(&format!("{kind}/upper"));
        let folder = lab.runtime.path().join(format!("overlay-{kind}"));
        if !lower.join("probe").exists() {
            fs::copy(&probe, lower.join("probe")).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        mount(&folder, &["-t", "overlay", "none", "-o", &options]);
        fs::copy(&probe, folder.join("upper")).unwrap();
        mounted.push(folder);
    }
    let image = lab.runtime.path().join("image");
    File::create(&image).unwrap().set_len(256 << 20).unwrap();
    run(Command::new("mkfs.btrfs").arg("-q").arg(&image));
    let btrfs = lab.runtime.path().join("btrfs");
    mount(&btrfs, &["-o", "loop", image.to_str().unwrap()]);
    for volume in ["one", "two"] {
        let path = btrfs.join(volume);
        run(Command::new("btrfs")
            .args(["-q", "subvolume", "create"])
            .arg(&path));
        mounted.push(path);
    }
    mounted.extend([tmpfs, bound, btrfs]);

    let mut seen = Vec::new();
    for folder in &mounted {
        let path = folder.join("probe");
        if !path.exists() {
            fs::copy(&probe, &path).unwrap();
        }
        let id = FileId::of(&File::open(&path).unwrap()).unwrap();
        let interest = Interest {
            files: [id].into(),
            ..Interest::default()
        };
        lab.capture.set_interest(&interest).unwrap();
        let exec = lab.is_asked_about(Command::new(&path).arg("wait")).await;
        assert_eq!(exec.file, id, "{}", path.display());
        // Through another mount namespace, as a daemon looks at a sandboxed program.
        let mut inside = Command::new("unshare");
        inside.arg("-m").arg(&path).arg("wait");
        lab.is_asked_about(&mut inside).await;
        seen.push(id);
        let upper = folder.join("upper");
        if upper.exists() {
            let id = FileId::of(&File::open(&upper).unwrap()).unwrap();
            let interest = Interest {
                files: [id].into(),
                ..Interest::default()
            };
            lab.capture.set_interest(&interest).unwrap();
            lab.is_asked_about(Command::new(&upper).arg("wait")).await;
        }
    }
    // A bind mount shows the same file, a copy on whichever file system is another.
    let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len() - 1, "{seen:?}");
    drop(unmount);
    lab.capture.stop().await.unwrap();
}

/// Unmounts in the end, the last first.
#[derive(Default)]
struct Unmount(Vec<std::path::PathBuf>);

impl Drop for Unmount {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            let _ = Command::new("umount").arg("-l").arg(folder).status();
        }
    }
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn cgroups_users_and_all_programs_may_matter() {
    let lab = lab("exec-cgroups").await;
    let folder = lab.folder("bin");
    let probe = folder.join("probe");
    build_probe(&probe, &[]);
    let root = Path::new("/sys/fs/cgroup/unified");
    let groups = Groups(root.join(format!("offramp-test-{}", std::process::id())));
    let make = |name: &str| {
        let path = groups.0.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let before = make("app-org.example.App-12.scope");
    let interest = Interest {
        cgroup_names: ["org.example.App".to_owned(), "getty".to_owned()].into(),
        ..Interest::default()
    };
    lab.capture.set_interest(&interest).unwrap();
    let after = make("app-org.example.App@13.service/below");
    let template = make("getty@tty1.service");
    let inside = |group: &Path| {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            &format!(
                "echo $$ > {}/cgroup.procs; exec {} wait",
                group.display(),
                probe.display()
            ),
        ]);
        command
    };
    for group in [&before, &after, &template] {
        use std::os::unix::fs::MetadataExt;
        let exec = lab.is_asked_about(&mut inside(group)).await;
        assert_eq!(exec.cgroup, fs::metadata(group).unwrap().ino());
    }
    let other = make("app-org.example.Apple-12.scope");
    let mut program = Program::spawn(&mut inside(&other));
    assert_eq!(program.answer(), DIRECT);

    // A process that comes later is told of.
    let mut running = Program::start("/usr/bin/python3");
    assert_eq!(running.ask("source()"), DIRECT);
    fs::write(after.join("cgroup.procs"), running.pid().to_string()).unwrap();
    loop {
        match lab.capture.event().await.unwrap() {
            offramp_intercept::Event::Moved { pid } if pid == running.pid() => break,
            _ => {}
        }
    }
    drop((program, running));

    // One answer for each user.
    let interest = Interest {
        by_user: true,
        ..names(&["probe"])
    };
    lab.capture.set_interest(&interest).unwrap();
    let exec = lab.is_asked_about(Command::new(&probe).arg("wait")).await;
    lab.capture.settle(&exec, None, true);
    assert_eq!(run(&mut Command::new(&probe)), DIRECT);
    use std::os::unix::process::CommandExt;
    for path in [lab.runtime.path(), &folder, &probe] {
        run(Command::new("chmod").arg("a+rx").arg(path));
    }
    let exec = lab
        .is_asked_about(Command::new(&probe).arg("wait").uid(65_534))
        .await;
    assert_eq!(exec.uid, 65_534);

    let interest = Interest {
        every_exec: true,
        ..Interest::default()
    };
    lab.capture.set_interest(&interest).unwrap();
    lab.is_asked_about(Command::new(&probe).arg("wait")).await;
    // But not in other network namespaces.
    assert_eq!(run(Command::new("unshare").args(["-n", "true"])), "",);
    let first = lab.next_exec().await;
    assert_eq!(first.filename, "/usr/bin/unshare");
    let next = lab.is_asked_about(Command::new(&probe).arg("wait")).await;
    assert_eq!(next.number, first.number + 1);
    lab.capture.stop().await.unwrap();
}

/// More names than the kernel programs keep, or `less` of them, all beginning with `kind`.
fn too_many(kind: &str, less: usize) -> std::collections::BTreeSet<String> {
    let all = (0..65_537 - less).map(|n| format!("{kind}-{n}"));
    all.collect()
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn where_the_names_of_programs_do_not_fit_every_program_is_asked_about() {
    let lab = lab("exec-overload").await;
    let folder = lab.folder("bin");
    let [chosen, other] = ["chosen", "other"].map(|name| folder.join(name));
    for path in [&chosen, &other] {
        build_probe(path, &["-static"]);
    }
    // The first interest of all: nothing is in force.
    let interest = |mut executables: std::collections::BTreeSet<String>| {
        executables.insert("chosen".to_owned());
        Interest {
            executables,
            ..Interest::default()
        }
    };
    lab.capture
        .set_interest(&interest(too_many("a", 0)))
        .expect_err("they do not fit");
    let exec = lab.is_asked_about(Command::new(&other).arg("wait")).await;
    lab.capture.settle(&exec, None, true);
    assert_eq!(run(&mut Command::new(&other)), DIRECT);
    lab.is_asked_about(Command::new(&chosen).arg("wait")).await;

    // Answers of before count no more.
    lab.capture
        .set_interest(&interest(too_many("b", 0)))
        .expect_err("they do not fit");
    lab.is_asked_about(Command::new(&other).arg("wait")).await;

    // As many as fit take the place of as many others.
    for kind in ["c", "d"] {
        lab.capture
            .set_interest(&interest(too_many(kind, 2)))
            .unwrap();
        lab.is_let_alone(Command::new(&other).arg("wait"), &chosen)
            .await;
    }
    lab.capture.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn where_the_names_of_cgroups_do_not_fit_every_cgroup_may_be_meant() {
    use std::os::unix::fs::MetadataExt;
    let lab = lab("exec-groups").await;
    let folder = lab.folder("bin");
    let [probe, sentinel] = ["probe", "sentinel"].map(|name| folder.join(name));
    for path in [&probe, &sentinel] {
        build_probe(path, &["-static"]);
    }
    let root = Path::new("/sys/fs/cgroup/unified");
    let groups = Groups(root.join(format!("offramp-test-many-{}", std::process::id())));
    let make = |name: &str| {
        let path = groups.0.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let interest = |cgroup_names: std::collections::BTreeSet<String>| Interest {
        cgroup_names,
        ..names(&["sentinel"])
    };
    let inside = |group: &Path| {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            &format!(
                "echo $$ > {}/cgroup.procs; exec {} wait",
                group.display(),
                probe.display()
            ),
        ]);
        command
    };
    let before = make("before.scope");
    let getty = || ["getty".to_owned()].into();
    lab.capture.set_interest(&interest(getty())).unwrap();
    lab.is_let_alone(&mut inside(&before), &sentinel).await;

    let mut wanted = too_many("a", 0);
    wanted.insert("before.scope".to_owned());
    lab.capture
        .set_interest(&interest(wanted))
        .expect_err("they do not fit");
    let after = make("after.scope");
    // An answer for one is none for another.
    let mut python = Program::start("/usr/bin/python3");
    let exec = lab.next_exec().await;
    assert_eq!(exec.pid, python.pid());
    lab.capture.settle(&exec, None, false);
    let path = probe.display();
    let spawn = format!("os.posix_spawn('{path}', ['{path}'], {{}}) and 0");
    for group in [&before, &after] {
        fs::write(group.join("cgroup.procs"), python.pid().to_string()).unwrap();
        loop {
            match lab.capture.event().await.unwrap() {
                offramp_intercept::Event::Moved { pid } if pid == python.pid() => break,
                _ => {}
            }
        }
        let answers = [python.ask(&spawn), python.answer()];
        assert!(answers.contains(&CAPTURED.to_owned()), "{answers:?}");
        let exec = lab.next_exec().await;
        assert_eq!(exec.cgroup, fs::metadata(group).unwrap().ino());
        lab.capture.settle(&exec, None, true);
        let answers = [python.ask(&spawn), python.answer()];
        assert!(answers.contains(&DIRECT.to_owned()), "{answers:?}");
    }
    drop(python);

    for wanted in [too_many("c", 2), too_many("d", 2), getty()] {
        lab.capture.set_interest(&interest(wanted)).unwrap();
        for group in [&before, &after, &make("more.scope")] {
            lab.is_let_alone(&mut inside(group), &sentinel).await;
        }
    }

    // A cgroup that there is no room for may be meant.
    let pins = lab.config.bpffs.join("offramp").join(&lab.config.instance);
    let known = MapHandle::from_pinned_path(pins.join("cgroups")).unwrap();
    let id = fs::metadata(&after).unwrap().ino();
    known.delete(&id.to_ne_bytes()).unwrap();
    for other in 1u64 << 40.. {
        if known
            .update(&other.to_ne_bytes(), &[0], MapFlags::ANY)
            .is_err()
        {
            break;
        }
    }
    lab.capture.set_interest(&interest(getty())).unwrap();
    lab.is_asked_about(&mut inside(&after)).await;
    lab.is_let_alone(&mut inside(&before), &sentinel).await;
    lab.capture.stop().await.unwrap();
}

/// Cgroups below one, removed in the end.
struct Groups(std::path::PathBuf);

impl Drop for Groups {
    fn drop(&mut self) {
        for _ in 0..50 {
            let done = Command::new("find")
                .arg(&self.0)
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
                .output();
            if done.is_ok_and(|done| done.status.success()) {
                return;
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn tools_are_asked_about_below_their_app_alone() {
    let lab = lab("exec-tools").await;
    let folder = lab.folder("bin");
    let probe = folder.join("tool");
    build_probe(&probe, &[]);
    let tracked = ClassId::new(3).unwrap();
    let shape = Class {
        tracked: true,
        tools: true,
        ..Class::default()
    };
    lab.capture.set_class(tracked, shape).await.unwrap();
    lab.capture.set_interest(&names(&["app"])).unwrap();
    let mut app = Program::start_as(&folder, "app");
    let exec = lab.next_exec().await;
    lab.capture.settle(&exec, Some(tracked), true);
    // The app itself goes direct, also by what it made before.
    assert_eq!(app.ask("source()"), DIRECT);
    let path = probe.display();
    let spawn = format!("os.posix_spawn('{path}', ['{path}', 'w'], {{}}) and 0");
    assert_eq!(run(&mut Command::new(&probe)), DIRECT);
    let answers = [app.ask(&spawn), app.answer()];
    assert!(answers.contains(&CAPTURED.to_owned()), "{answers:?}");
    let exec = lab.next_exec().await;
    assert_eq!(exec.from, Some(tracked));
    lab.capture.settle(&exec, Some(lab.class), true);
    assert_eq!(lab.label_of(exec.pid), Some(Label::Class(lab.class)));

    // An exec while the one before waits for its verdict says so.
    let mut python = Program::start_as(&folder, "app");
    assert_eq!(lab.label_of(python.pid()), Some(Label::Class(tracked)));
    python.ask("put(done=1)");
    let exec = {
        python.ask(&format!(
            "os.execv('/bin/sh', ['sh', '-c', 'exec {path} w'])"
        ));
        let shell = lab.next_exec().await;
        assert_eq!((shell.from, shell.before), (Some(tracked), None));
        let tool = lab.next_exec().await;
        assert_eq!(
            (tool.from, tool.before),
            (Some(tracked), Some(shell.number))
        );
        tool
    };
    // What it inherits is told by the answer for the exec before.
    let waits = Label::Undecided {
        exec: exec.number,
        from: Some(ClassId::UNDECIDED),
    };
    assert_eq!(lab.label_of(exec.pid), Some(waits));
    lab.capture.stop().await.unwrap();
}
