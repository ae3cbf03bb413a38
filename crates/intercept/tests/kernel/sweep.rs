//! Rules that begin, change and end while their apps run.

use std::collections::BTreeSet;
use std::process::Command;

use offramp_intercept::{Class, ClassId, Interest, Label, Labelled, Swept};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lab::{CAPTURED, DIRECT, Lab, Program, build_probe, lab, run};

/// Serves on the far side of the wire: TCP on port 8000, MPTCP on 8001, UDP on 8002, all echoing.
const PEER: &str = "put(
 echo=lambda c: [c.sendall(d) for d in iter(lambda: c.recv(99), b'')],
 serve=lambda s: [threading.Thread(target=echo, args=(c,), daemon=True).start() for c, a in iter(s.accept, 0)],
 reflect=lambda s: [s.sendto(*p) for p in iter(lambda: s.recvfrom(99), 0)],
 work=lambda f, s: threading.Thread(target=f, args=(s,), daemon=True).start(),
 bound=lambda k, h, n, p: (lambda s: [s.setsockopt(socket.IPPROTO_IPV6, 26, 0), s.bind((h, n)), s][2])(socket.socket(socket.AF_INET6, k, p)))";

pub(crate) fn peer() -> Program {
    let mut command = Command::new("unshare");
    let mut peer = Program::python(command.args(["-n", "python3"]));
    run(Command::new("ip").args(["link", "set", "wire1", "netns", &peer.pid().to_string()]));
    for arguments in [
        "link set lo up",
        "addr add 203.0.113.5/32 dev lo",
        "addr add 2001:db8:5::5/128 dev lo",
        "addr add 192.0.2.254/24 dev wire1",
        "addr add 2001:db8::254/64 dev wire1 nodad",
        "link set wire1 up",
    ] {
        assert_eq!(peer.ask(&format!("os.system('ip {arguments}')")), "0");
    }
    assert_eq!(peer.ask(&PEER.replace('\n', "")), "put");
    for (port, protocol) in [(8000, 0), (8001, 262)] {
        let made = format!("put(s=bound(socket.SOCK_STREAM, '::', {port}, {protocol}))");
        assert_eq!(peer.ask(&made), "put");
        assert_eq!(peer.ask("s.listen() or work(serve, s)"), "None");
    }
    // Answers come from where they were asked.
    for address in ["::ffff:203.0.113.5", "2001:db8:5::5"] {
        let made = format!("put(s=bound(socket.SOCK_DGRAM, '{address}', 8002, 0))");
        assert_eq!(peer.ask(&made), "put");
        assert_eq!(peer.ask("work(reflect, s)"), "None");
    }
    peer
}

impl Lab {
    fn relabel(&self, pid: u32, class: Option<ClassId>) {
        let raw = self.row(pid).map_or(0, |row| row.raw);
        let done = self
            .capture
            .relabel(&[(pid, raw, class)])
            .expect("labels are changed");
        assert_eq!(done, 1, "{pid}");
    }

    fn row(&self, pid: u32) -> Option<Labelled> {
        let rows = self.capture.labelled().expect("labels are listed");
        rows.into_iter().find(|row| row.pid == pid)
    }
}

const MARK: &str = "1048576";

/// Opens `name` to the peer and sends something there and back.
fn open(program: &mut Program, name: &str, address: &str, port: u16) {
    let family = if address.contains(':') { "6" } else { "" };
    let (kind, protocol) = match port {
        8001 => ("STREAM", 262),
        8002 => ("DGRAM", 0),
        _ => ("STREAM", 0),
    };
    let made = format!(
        "put({name}=socket.socket(socket.AF_INET{family}, socket.SOCK_{kind}, {protocol}))"
    );
    assert_eq!(program.ask(&made), "put");
    assert_eq!(program.ask(&format!("{name}.settimeout(9)")), "None");
    let used =
        format!("{name}.connect(('{address}', {port})) or {name}.send(b'hi') and {name}.recv(9)");
    assert_eq!(program.ask(&used), "b'hi'", "{name}");
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn a_rule_that_starts_ends_direct_flows() {
    let lab = lab("sweep-start").await;
    let shape = Class {
        direct: vec!["192.0.2.0/24".parse().unwrap()],
        open: true,
        udp: true,
        ..Class::default()
    };
    lab.capture.set_class(lab.class, shape).await.unwrap();
    let _peer = peer();
    let mut app = Program::start("/usr/bin/python3");
    let mut other = Program::start("/usr/bin/python3");
    for program in [&mut app, &mut other] {
        open(program, "t4", "203.0.113.5", 8000);
        open(program, "t6", "2001:db8:5::5", 8000);
        open(program, "mapped", "::ffff:203.0.113.5", 8000);
        open(program, "m4", "203.0.113.5", 8001);
        open(program, "m6", "2001:db8:5::5", 8001);
        open(program, "u4", "203.0.113.5", 8002);
        open(program, "u6", "2001:db8:5::5", 8002);
        open(program, "near", "192.0.2.254", 8000);
        program.ask(
            "put(w=socket.socket(socket.AF_INET, socket.SOCK_DGRAM), l=socket.create_server(('127.0.0.1', 0)))",
        );
        program.ask("put(c=socket.create_connection(l.getsockname()))");
        assert_eq!(
            program.ask("put(a=l.accept()[0], d=os.dup(t4.fileno()))"),
            "put"
        );
        program.ask("w.bind(('', 0))");
        // A thread with its own table of descriptors is another task to look at.
        program.ask("threading.Thread(target=time.sleep, args=(60,), daemon=True).start()");
    }
    let nothing = lab.capture.sweep().unwrap();
    assert_eq!(nothing, Swept::default());

    lab.relabel(app.pid(), Some(lab.class));
    let swept = lab.capture.sweep().unwrap();
    eprintln!("{swept:?}");
    assert!(swept.ended >= 7 && swept.released == 0, "{swept:?}");
    for name in ["t4", "t6", "mapped"] {
        assert_eq!(
            app.ask(&format!("{name}.recv(9)")),
            "ECONNABORTED",
            "{name}"
        );
    }
    for name in ["m4", "m6"] {
        let answer = app.ask(&format!("{name}.recv(9)"));
        assert!(
            ["ECONNABORTED", "ENOTCONN"].contains(&answer.as_str()),
            "{name}: {answer}"
        );
    }
    for name in ["u4", "u6"] {
        let first = app.ask(&format!("{name}.send(b'x')"));
        assert!(
            ["ECONNABORTED", "EDESTADDRREQ"].contains(&first.as_str()),
            "{name}: {first}"
        );
        assert_eq!(
            app.ask(&format!("{name}.send(b'x')")),
            "EDESTADDRREQ",
            "{name}"
        );
    }
    assert_eq!(app.ask("near.send(b'ho') and near.recv(9)"), "b'ho'");
    assert_eq!(app.ask("c.send(b'ho') and a.recv(9)"), "b'ho'");
    assert_eq!(
        app.ask("put(c=socket.create_connection(l.getsockname())) and l.accept()[0].send(b'x')"),
        "1"
    );
    for name in ["w", "u4", "l", "near", "c"] {
        assert_eq!(app.ask(&format!("mark({name})")), MARK, "{name}");
    }
    // Its first datagram already takes the way of the class.
    assert_eq!(app.ask("w.sendto(b'first', ('203.0.113.5', 8002))"), "5");
    let mut buffer = [0; 99];
    let datagram = lab.sockets.udp[0].receive(&mut buffer).await.unwrap();
    let identity = lab.capture.identify_udp(datagram.source, datagram.target);
    assert_eq!(
        identity.map(|found| (found.pid, found.class)),
        Some((app.pid(), lab.class))
    );

    for name in ["t4", "t6", "mapped", "m4", "m6", "u4", "u6", "near"] {
        assert_eq!(
            other.ask(&format!("{name}.send(b'ho') and {name}.recv(9)")),
            "b'ho'",
            "{name}"
        );
        assert_eq!(other.ask(&format!("mark({name})")), "0");
    }
    let again = lab.capture.sweep().unwrap();
    assert_eq!((again.ended, again.claimed), (0, 0), "{again:?}");

    // What is excluded no more ends with the next sweep.
    let shape = Class {
        open: true,
        udp: true,
        ..Class::default()
    };
    lab.capture.set_class(lab.class, shape).await.unwrap();
    assert_eq!(lab.capture.sweep().unwrap().ended, 1);
    assert_eq!(app.ask("near.recv(9)"), "ECONNABORTED");
    lab.capture.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn what_an_unmanaged_process_has_open_too_is_let_alone() {
    let lab = lab("sweep-shared").await;
    let _peer = peer();
    let mut app = Program::start("/usr/bin/python3");
    for (name, port) in [("t4", 8000), ("m4", 8001), ("u4", 8002)] {
        open(&mut app, name, "203.0.113.5", port);
    }
    app.ask("put(w=socket.socket(socket.AF_INET, socket.SOCK_DGRAM))");
    // The child has a pipe of its own to listen to: the parent goes on meanwhile.
    app.ask("put(i=os.pipe(), o=os.pipe())");
    app.ask("put(serve=lambda: os.close(i[1]) or [os.write(o[1], str(eval(os.read(i[0], 999))).encode()) for n in iter(int, 1)])");
    let child: u32 = app
        .ask("put(p=os.fork()) and p or serve()")
        .parse()
        .unwrap();
    lab.relabel(child, Some(lab.class));
    for _ in 0..2 {
        assert_eq!(lab.capture.sweep().unwrap(), Swept::default());
        for name in ["t4", "m4", "u4"] {
            assert_eq!(
                app.ask(&format!("{name}.send(b'ho') and {name}.recv(9)")),
                "b'ho'",
                "{name}"
            );
        }
        assert_eq!(app.ask("mark(w)"), "0");
    }
    // Used by the captured one it is captured.
    app.ask("os.write(i[1], b\"w.connect(('203.0.113.5', 8002))\")");
    assert_eq!(app.ask("os.read(o[0], 99)"), "b'None'");
    assert_eq!(app.ask("mark(w)"), MARK);

    // The captured one is alone with the others as soon as the parent has closed them.
    app.ask("[s.close() for s in (t4, m4, u4)]");
    assert!(lab.capture.sweep().unwrap().ended >= 3);
    app.ask("os.write(i[1], b't4.getsockopt(1, 4)')");
    assert_eq!(
        app.ask("int(os.read(o[0], 99)) == errno.ECONNABORTED"),
        "True"
    );
    assert_eq!(lab.row(app.pid()), None);
    run(Command::new("kill").args(["-9", &child.to_string()]));
    lab.capture.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn another_class_takes_the_sockets_over_and_none_gives_them_back() {
    let lab = lab("sweep-move").await;
    let _peer = peer();
    let second = ClassId::new(2).unwrap();
    let shape = Class {
        direct: vec!["192.0.2.0/24".parse().unwrap()],
        open: true,
        udp: true,
        ..Class::default()
    };
    lab.capture
        .set_class(lab.class, shape.clone())
        .await
        .unwrap();
    let open_alone = Class {
        direct: Vec::new(),
        ..shape.clone()
    };
    lab.capture
        .set_class(second, open_alone.clone())
        .await
        .unwrap();
    let mut app = Program::start("/usr/bin/python3");
    lab.relabel(app.pid(), Some(lab.class));
    app.ask("put(w=socket.socket(socket.AF_INET, socket.SOCK_DGRAM), t=socket.socket(), b=socket.socket(), u=socket.socket(socket.AF_INET, socket.SOCK_DGRAM), l=socket.create_server(('', 0)))");
    open(&mut app, "near", "192.0.2.254", 8000);
    app.ask("t.settimeout(9)");
    // One flow has its source from the device, one chose its own: both are relayed.
    let mut relayed = Vec::new();
    for flow in [
        "t.connect(('203.0.113.5', 80))",
        "b.bind(('192.0.2.1', 0)) or b.connect(('203.0.113.5', 80))",
    ] {
        assert_eq!(app.ask(flow), "None");
        let (stream, source) = lab.sockets.tcp[0].accept().await.unwrap();
        let local = stream.local_addr().unwrap();
        assert!(lab.capture.identify_tcp(source, local).is_some());
        relayed.push(stream);
    }
    assert_eq!(app.ask("u.connect(('203.0.113.5', 9))"), "None");
    let quiet = lab.capture.sweep().unwrap();
    assert_eq!(quiet, Swept::default());

    lab.relabel(app.pid(), Some(second));
    let swept = lab.capture.sweep().unwrap();
    assert_eq!((swept.ended, swept.released), (1, 0), "{swept:?}");
    for name in ["w", "t", "b", "u", "l"] {
        assert_eq!(app.ask(&format!("mark({name})")), "2097152", "{name}");
    }
    // Only what is excluded no more has ended.
    assert_eq!(app.ask("near.recv(9)"), "ECONNABORTED");
    for (stream, name) in relayed.iter_mut().zip(["t", "b"]) {
        assert_eq!(app.ask(&format!("{name}.send(b'hi')")), "2");
        let mut two = [0; 2];
        stream.read_exact(&mut two).await.unwrap();
        stream.write_all(b"ho").await.unwrap();
        assert_eq!(app.ask(&format!("{name}.recv(9)")), "b'ho'");
    }

    // Unmanaged from here on.
    lab.relabel(app.pid(), None);
    let ending = Class {
        ending: true,
        ..open_alone
    };
    lab.capture.set_class(second, ending).await.unwrap();
    let swept = lab.capture.sweep().unwrap();
    assert!(swept.ended >= 3 && swept.released >= 5, "{swept:?}");
    for name in ["w", "t", "b", "u", "l"] {
        assert_eq!(app.ask(&format!("mark({name})")), "0", "{name}");
    }
    assert_eq!(app.ask("t.recv(9)"), "ECONNABORTED");
    assert_eq!(
        app.ask("u.connect(('203.0.113.5', 9)) or u.getsockname()[0]"),
        DIRECT
    );
    assert_eq!(
        app.ask("w.sendto(b'hi', ('203.0.113.5', 8002)) and w.recv(9)"),
        "b'hi'"
    );
    assert_eq!(app.ask("source()"), DIRECT);
    lab.capture.remove_class(second).await.unwrap();
    lab.capture.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn one_process_leaves_a_class_that_others_stay_in() {
    let lab = lab("sweep-leave").await;
    let _peer = peer();
    let mut apps = [0; 2].map(|_| Program::start("/usr/bin/python3"));
    for app in &mut apps {
        lab.relabel(app.pid(), Some(lab.class));
        app.ask("put(w=socket.socket(socket.AF_INET, socket.SOCK_DGRAM), t=socket.socket(), l=socket.create_server(('127.0.0.1', 0)))");
        assert_eq!(app.ask("t.connect(('203.0.113.5', 80))"), "None");
        app.ask("put(c=socket.create_connection(l.getsockname()))");
    }
    let [mut leaving, mut staying] = apps;
    lab.relabel(leaving.pid(), None);
    let swept = lab.capture.sweep().unwrap();
    assert_eq!((swept.ended, swept.claimed), (1, 0), "{swept:?}");
    assert_eq!(leaving.ask("t.recv(9)"), "ECONNABORTED");
    for name in ["w", "l", "c"] {
        assert_eq!(leaving.ask(&format!("mark({name})")), "0", "{name}");
        assert_eq!(staying.ask(&format!("mark({name})")), MARK, "{name}");
    }
    assert_eq!(
        leaving.ask("c.send(b'hi') and l.accept()[0].recv(9)"),
        "b'hi'"
    );
    assert_eq!(
        leaving.ask("w.sendto(b'hi', ('203.0.113.5', 8002)) and w.recv(9)"),
        "b'hi'"
    );
    assert_eq!(staying.ask("t.send(b'hi')"), "2");
    assert_eq!(lab.capture.sweep().unwrap(), Swept::default());
    lab.capture.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn every_thread_has_the_label() {
    let lab = lab("sweep-threads").await;
    let folder = lab.folder("bin");
    let probe = folder.join("probe");
    build_probe(&probe, &["-static"]);
    let mut app = Program::start("/usr/bin/python3");
    let path = probe.display();
    app.ask(&format!(
        "put(e=threading.Event(), x=threading.Thread(target=lambda: e.wait() and os.execv('{path}', ['a', 'b'])))"
    ));
    app.ask("x.start()");
    lab.relabel(app.pid(), Some(lab.class));
    // The thread becomes the process.
    assert_eq!(app.ask("e.set() or time.sleep(60)"), CAPTURED);
    assert_eq!(lab.label_of(app.pid()), Some(Label::Class(lab.class)));
    // Not what it is expected to carry: left alone.
    assert_eq!(lab.capture.relabel(&[(app.pid(), 0, None)]).unwrap(), 0);
    assert_eq!(lab.label_of(app.pid()), Some(Label::Class(lab.class)));
    lab.capture.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn a_server_that_was_undecided_serves_when_it_is_unmanaged() {
    let lab = lab("sweep-server").await;
    let mut peer = peer();
    let folder = lab.folder("bin");
    let interest = Interest {
        executables: ["chosen".to_owned()].into(),
        ..Interest::default()
    };
    lab.capture.set_interest(&interest).unwrap();
    let mut server = Program::start_as(&folder, "chosen");
    let exec = lab.next_exec().await;
    server.ask("put(l=socket.create_server(('', 7000)), m=socket.create_server(('', 0)), u=socket.socket(socket.AF_INET, socket.SOCK_DGRAM))");
    server.ask("u.bind(('', 7002))");
    let port = server.ask("m.getsockname()[1]");
    // Not while it is not known what it is.
    peer.ask("put(v=socket.socket(socket.AF_INET, socket.SOCK_DGRAM), r=socket.socket())");
    peer.ask("r.setblocking(0)");
    assert_eq!(peer.ask("r.connect(('192.0.2.1', 7000))"), "EINPROGRESS");
    let dropped = || lab.capture.counter(offramp_intercept::Counter::IngressDrop);
    for _ in 0..10_000 {
        if dropped() > 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(dropped() > 0);
    lab.capture.settle(&exec, None, false);
    for port in ["7000", &port] {
        let name = if port == "7000" { "l" } else { "m" };
        peer.ask(&format!(
            "put(c=socket.create_connection(('192.0.2.1', {port})))"
        ));
        assert_eq!(server.ask(&format!("put(a={name}.accept()[0])")), "put");
        assert_eq!(peer.ask("c.send(b'hi')"), "2");
        assert_eq!(
            server.ask("a.recv(9) + bytes([a.send(b'ho')])"),
            "b'hi\\x02'"
        );
        assert_eq!(peer.ask("c.recv(9)"), "b'ho'");
    }
    lab.capture.sweep().unwrap();
    assert_eq!(peer.ask("v.sendto(b'hi', ('192.0.2.1', 7002))"), "2");
    assert_eq!(
        server.ask("(lambda d, p: u.sendto(d, p))(*u.recvfrom(9))"),
        "2"
    );
    assert_eq!(peer.ask("v.recv(9)"), "b'hi'");
    lab.capture.stop().await.unwrap();
}

/// Forks and execs as fast as it can, for a bounded number of times.
const STORM: &str =
    "[(os.execv(PATH, ['p']) if os.fork() == 0 else os.wait()) and 0 for i in range(400)]";

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn nobody_escapes_a_change_by_forking() {
    let lab = lab("sweep-storm").await;
    let second = ClassId::new(2).unwrap();
    let shape = Class {
        open: true,
        udp: true,
        ..Class::default()
    };
    lab.capture.set_class(second, shape).await.unwrap();
    let folder = lab.folder("bin");
    let probe = folder.join("probe");
    build_probe(&probe, &["-static"]);
    let storm = STORM.replace("PATH", &format!("'{}'", probe.display()));
    let mut apps: Vec<_> = (0..3).map(|_| Program::start("/usr/bin/python3")).collect();
    for app in &mut apps {
        lab.relabel(app.pid(), Some(lab.class));
        app.tell(&storm);
    }
    let mut wanted = second;
    let mut calm = 0;
    for _ in 0..5_000 {
        let stale: Vec<_> = lab
            .capture
            .labelled()
            .unwrap()
            .iter()
            .filter(|row| row.label != Label::Class(wanted))
            .map(|row| (row.pid, row.raw, Some(wanted)))
            .collect();
        lab.capture.relabel(&stale).unwrap();
        lab.capture.sweep().unwrap();
        calm = if stale.is_empty() { calm + 1 } else { 0 };
        if calm == 3 {
            calm = 0;
            wanted = if wanted == second { lab.class } else { second };
        }
        if apps.iter_mut().all(Program::has_spoken_to_the_end) {
            break;
        }
    }
    for app in &mut apps {
        let said: BTreeSet<_> = (0..400).map(|_| app.answer()).collect();
        assert_eq!(said, [CAPTURED.to_owned()].into());
    }
    lab.capture.stop().await.unwrap();
}
