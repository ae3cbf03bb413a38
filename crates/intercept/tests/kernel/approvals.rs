//! Addresses that are approved for a while: no flow that goes directly is cut by their end.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use offramp_intercept::{Class, ClassId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lab::{CAPTURED, DIRECT, Lab, Program, lab, run};

const TARGETS: [&str; 2] = ["203.0.113.5", "2001:db8:5::5"];
const DIRECT_V6: &str = "2001:db8::1";

/// A host behind the wire that echoes: TCP port 80, UDP port 9.
const SERVER: &str = "
import socket, threading
def echo(flow):
    try:
        while data := flow.recv(100):
            flow.sendall(data)
    except OSError:
        pass
    flow.close()
def take(tcp):
    while True:
        threading.Thread(target=echo, args=(tcp.accept()[0],), daemon=True).start()
def echo_udp(udp):
    while True:
        data, peer = udp.recvfrom(100)
        udp.sendto(data, peer)
for address in '203.0.113.5', '2001:db8:5::5':
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    tcp = socket.create_server((address, 80), family=family, backlog=64)
    threading.Thread(target=take, args=(tcp,), daemon=True).start()
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.bind((address, 9))
    threading.Thread(target=echo_udp, args=(udp,), daemon=True).start()
";

fn server() -> Program {
    let mut server = Program::python(Command::new("unshare").args(["--net", "python3"]));
    let pid = server.pid().to_string();
    run(Command::new("ip").args(["link", "set", "wire1", "netns", &pid]));
    for arguments in [
        "link set lo up",
        "addr add 192.0.2.254/24 dev wire1",
        "addr add 2001:db8::254/64 dev wire1 nodad",
        "addr add 203.0.113.5/32 dev lo",
        "addr add 2001:db8:5::5/128 dev lo nodad",
        "link set wire1 up",
    ] {
        let line = ["--net", "--target", &pid, "ip"];
        run(Command::new("nsenter")
            .args(line)
            .args(arguments.split(' ')));
    }
    assert_eq!(server.ask(&format!("exec({SERVER:?})")), "None");
    server
}

const APP: &str = "
def tcp(address):
    s = socket.create_connection((address, 80), 20)
    return s
def udp(address):
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(20)
    s.connect((address, 9))
    return s
def talk(s):
    s.sendall(b'hello')
    return s.recv(100).decode() + ' ' + s.getsockname()[0]
";

fn app(lab: &Lab) -> Program {
    let mut app = Program::start("/usr/bin/python3");
    let pidfd = crate::lab::pidfd(app.pid());
    let labelled = lab
        .capture
        .label(std::os::fd::AsFd::as_fd(&pidfd), lab.class);
    labelled.expect("the app is labelled");
    assert_eq!(app.ask(&format!("exec({APP:?}, globals())")), "None");
    app
}

type Single = (ClassId, IpAddr);

async fn approve(lab: &Lab, address: &str) -> Single {
    let address = address.parse().expect("an address");
    let approved = lab.capture.approve(lab.class, address).await;
    assert!(approved.expect("the kernel is told"));
    (lab.class, address)
}

async fn retire(lab: &Lab, single: Single, idle: Duration) -> bool {
    let gone = lab.capture.retire(&[single], idle).await;
    let gone = gone.expect("the kernel is told");
    assert!(gone.is_empty() || gone == [single]);
    !gone.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and BPF: run scripts/test"]
async fn an_approval_outlives_its_answer_while_a_flow_uses_it() {
    let lab = lab("uses").await;
    let _server = server();
    let mut app = app(&lab);
    let now = Duration::ZERO;
    for (target, direct) in TARGETS.into_iter().zip([DIRECT, DIRECT_V6]) {
        for kind in ["tcp", "udp"] {
            let single = approve(&lab, target).await;
            app.ask(&format!("put(s={kind}('{target}'))"));
            assert_eq!(app.ask("talk(s)"), format!("hello {direct}"));
            assert!(!retire(&lab, single, now).await, "{kind}: its flow is open");
            assert!(!retire(&lab, single, now).await, "{kind}: and says nothing");
            assert_eq!(app.ask("talk(s)"), format!("hello {direct}"));
            app.ask("s.close()");
            assert!(!retire(&lab, single, Duration::from_secs(600)).await);
            assert!(retire(&lab, single, now).await, "{kind}: nobody uses it");
            assert!(retire(&lab, single, now).await, "what is gone is gone");
            assert_eq!(lab.capture.left_approvals(), []);
            let source = app.ask(&format!("udp('{target}').getsockname()[0]"));
            assert_ne!(source, direct, "{kind}");
        }
    }
    // Sent without a connection, from a socket for both families.
    let single = approve(&lab, TARGETS[0]).await;
    app.ask("put(s=socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))");
    assert_eq!(
        app.ask("s.sendto(b'hello', ('::ffff:203.0.113.5', 9)), s.recvfrom(9)[0]"),
        "(5, b'hello')"
    );
    assert!(!retire(&lab, single, Duration::from_secs(600)).await);
    assert!(retire(&lab, single, now).await);
    // Relayed from here on, as before.
    app.tell(&format!("talk(tcp('{}'))", TARGETS[0]));
    let (mut flow, _) = lab.sockets.tcp[0].accept().await.unwrap();
    flow.read_exact(&mut [0; 5]).await.unwrap();
    flow.write_all(b"relayed").await.unwrap();
    assert_eq!(app.answer(), format!("relayed {CAPTURED}"));
    lab.capture.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and BPF: run scripts/test"]
async fn direct_flows_outlive_the_daemon_that_approved_them() {
    let lab = lab("adopted").await;
    let _server = server();
    let mut app = app(&lab);
    let kept = approve(&lab, TARGETS[0]).await;
    let forgotten = approve(&lab, TARGETS[1]).await;
    app.ask(&format!("put(s=tcp('{}'))", TARGETS[0]));
    let lab = lab.restart().await;
    let mut left = lab.capture.left_approvals();
    left.sort();
    assert_eq!(left, [kept, forgotten]);
    lab.capture.adopt_approvals(&[kept]).await.unwrap();
    let shape = Class {
        open: true,
        udp: true,
        ..Class::default()
    };
    lab.capture.set_class(lab.class, shape).await.unwrap();
    assert_eq!(lab.capture.left_approvals(), [kept]);
    assert_eq!(app.ask("talk(s)"), format!("hello {DIRECT}"));
    assert!(!retire(&lab, kept, Duration::ZERO).await);
    lab.capture.disapprove(&[kept]).await.unwrap();
    assert_eq!(lab.capture.left_approvals(), []);
    lab.capture.stop().await.unwrap();
}

/// Connects over and over; what has begun directly ends so.
const RESTLESS: &str = "
def restless():
    for number in range(16):
        s = tcp('203.0.113.5')
        said = talk(s).split()
        time.sleep(0.001 * (number % 3))
        if said != talk(s).split():
            return 'another way'
        s.close()
    return 'done'
";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and BPF: run scripts/test"]
async fn no_flow_is_cut_while_approvals_come_and_go() {
    let lab = lab("restless").await;
    let _server = server();
    let mut app = app(&lab);
    assert_eq!(app.ask(&format!("exec({RESTLESS:?}, globals())")), "None");
    let relay = async {
        let mut flows = tokio::task::JoinSet::new();
        while let Ok((mut flow, _)) = lab.sockets.tcp[0].accept().await {
            flows.spawn(async move {
                let (mut from, mut to) = flow.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    };
    let come_and_go = async {
        loop {
            let single = approve(&lab, TARGETS[0]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            while !retire(&lab, single, Duration::ZERO).await {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    app.tell("restless()");
    let said = tokio::task::spawn_blocking(move || app.answer_within(60_000));
    let said = tokio::select! {
        () = relay => unreachable!("the listener lives"),
        () = come_and_go => unreachable!(),
        said = said => said.unwrap(),
    };
    assert_eq!(said, "done");
    lab.capture.stop().await.unwrap();
}
