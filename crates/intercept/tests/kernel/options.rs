//! What a program may do with its sockets while it is not known whether it is managed.

use std::path::Path;

use offramp_intercept::{Exec, Interest};

use crate::lab::{DIRECT, Lab, Program, lab};
use crate::sweep::peer;

/// Sockets that are bound to the wire and marked, and others that the kernel's hooks know little of.
const SOCKETS: &str = "put(
 udp=lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
 ping=socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1),
 raw=socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
 segments=socket.socket(socket.AF_INET, socket.SOCK_RAW, 6),
 t=socket.socket(),
 bind=lambda s: s.setsockopt(1, 25, b'wire0'),
 choose=lambda s: bind(s) or s.setsockopt(1, 36, 7),
 chosen=lambda s: (s.getsockopt(1, 25, 16).strip(bytes(1)).decode(), mark(s)),
 echo=bytes([8, 0, 247, 255, 0, 0, 0, 0]),
 to=('203.0.113.5', 8002))";

/// What arrives at the peer, up to a datagram for port 9999: protocol, and port or what is there.
const HEADS: &str = "put(
 q=socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)),
 heads=lambda: list(__import__('itertools').takewhile(lambda h: h[1] != 9999,
  ((p[9], int.from_bytes(p[22:24], 'big')) for p in iter(lambda: q.recv(4096), 0)
   if p[0] == 69 and p[16:20] == bytes([203, 0, 113, 5])))))";

fn line(text: &str) -> String {
    text.replace('\n', "")
}

/// A program that is undecided, with its sockets.
async fn undecided(lab: &Lab, folder: &Path) -> (Program, Exec) {
    let interest = Interest {
        executables: ["chosen".to_owned()].into(),
        ..Interest::default()
    };
    lab.capture
        .set_interest(&interest)
        .expect("the maps are ours");
    let mut program = Program::start_as(folder, "chosen");
    let exec = lab.next_exec().await;
    assert_eq!(program.ask(&line(SOCKETS)), "put");
    assert_eq!(
        program.ask("put(u=udp(), v=udp(), w=udp(), x=udp(), c=udp())"),
        "put"
    );
    // This one is known to be captured before it is bound.
    assert_eq!(program.ask("c.connect(to)"), "None");
    for name in ["u", "v", "w", "x", "c", "t"] {
        assert_eq!(program.ask(&format!("choose({name})")), "None");
        assert_eq!(program.ask(&format!("chosen({name})")), "('wire0', 7)");
    }
    (program, exec)
}

impl Lab {
    /// Nothing has arrived at the peer.
    fn nothing_left(&self, peer: &mut Program) {
        let mut other = Program::start("/usr/bin/python3");
        let sentinel =
            "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('203.0.113.5', 9999))";
        assert_eq!(other.ask(sentinel), "1");
        assert_eq!(peer.ask("heads()"), "[]");
    }
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn what_is_chosen_while_undecided_leads_a_managed_program_nowhere() {
    let lab = lab("options-managed").await;
    let mut peer = peer();
    assert_eq!(peer.ask(&line(HEADS)), "put");
    let folder = lab.folder("bin");
    let (mut program, exec) = undecided(&lab, &folder).await;
    let others = [
        "ping.sendto(echo, to)",
        "raw.sendto(echo, to)",
        "segments.sendto(echo * 3, to)",
    ];
    let shut = |program: &mut Program| {
        for way in ["c.send(b'x')"].iter().chain(&others) {
            assert_eq!(program.ask(way), "EPERM", "{way}");
        }
    };
    shut(&mut program);
    // It has its route by then; the next one has that of the class.
    assert_eq!(program.ask("u.sendto(b'x', to)"), "EPERM");
    assert_eq!(program.ask("bind(u) or u.connect(to) or chosen(u)[0]"), "");
    lab.nothing_left(&mut peer);

    lab.capture.settle(&exec, Some(lab.class), true);
    shut(&mut program);
    assert_eq!(program.ask("v.sendto(b'x', to)"), "EPERM");
    assert_eq!(program.ask("v.sendto(b'x', to)"), "1");
    assert_eq!(program.ask("w.connect(to) or w.send(b'x')"), "1");
    assert_eq!(program.ask("u.send(b'x')"), "1");
    assert_eq!(program.ask("t.settimeout(9) or t.connect(to)"), "None");
    let (stream, source) = lab.sockets.tcp[0].accept().await.unwrap();
    let local = stream.local_addr().unwrap();
    assert!(lab.capture.identify_tcp(source, local).is_some());
    for name in ["v", "w", "t"] {
        assert_eq!(program.ask(&format!("chosen({name})")), "('', 1048576)");
        // And there is no way back.
        program.ask(&format!("choose({name})"));
        assert_eq!(program.ask(&format!("chosen({name})")), "('', 1048576)");
    }
    assert_eq!(
        program.ask("socket.socket(socket.AF_INET, socket.SOCK_RAW, 6)"),
        "EPERM"
    );
    lab.capture.sweep().unwrap();
    for way in ["c.send(b'x')", others[0], others[1], others[2]] {
        program.ask(way);
    }
    lab.nothing_left(&mut peer);
    lab.capture.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn an_unmanaged_program_keeps_what_it_chose_while_undecided() {
    let lab = lab("options-unmanaged").await;
    let _peer = peer();
    let folder = lab.folder("bin");
    let (mut program, exec) = undecided(&lab, &folder).await;
    for name in ["u", "x"] {
        assert_eq!(program.ask(&format!("{name}.sendto(b'x', to)")), "EPERM");
        assert_eq!(program.ask(&format!("chosen({name})")), "('', 4292870144)");
    }
    for way in ["ping", "raw"] {
        assert_eq!(program.ask(&format!("{way}.settimeout(9)")), "None");
        assert_eq!(program.ask(&format!("{way}.sendto(echo, to)")), "EPERM");
    }
    lab.capture.settle(&exec, None, true);
    assert_eq!(
        program.ask("ping.sendto(echo, to) and ping.recv(99)[0]"),
        "0"
    );
    assert_eq!(program.ask("raw.sendto(echo, to) and raw.recv(99)[9]"), "1");
    assert_eq!(program.ask("segments.sendto(echo * 3, to)"), "24");
    // The first datagram of one that has been used is the daemon's to pass on.
    assert_eq!(program.ask("u.sendto(b'x', to)"), "1");
    assert_eq!(lab.capture.sweep().unwrap().ended, 0);
    assert_eq!(program.ask("chosen(x)[1]"), "7");
    assert_eq!(program.ask("x.connect(to)"), "None");
    for name in ["u", "v", "w", "x", "t"] {
        assert_eq!(
            program.ask(&format!("chosen({name})")),
            "('wire0', 7)",
            "{name}"
        );
        assert_eq!(program.ask(&format!("{name}.settimeout(9)")), "None");
    }
    for name in ["u", "v", "w", "x"] {
        assert_eq!(
            program.ask(&format!("{name}.sendto(b'hi', to) and {name}.recv(9)")),
            "b'hi'",
            "{name}"
        );
    }
    assert_eq!(
        program.ask("t.connect(('203.0.113.5', 8000)) or t.getsockname()[0]"),
        DIRECT
    );
    lab.capture.stop().await.unwrap();
}
