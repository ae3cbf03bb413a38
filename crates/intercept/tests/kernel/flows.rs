//! Flows of programs that are labelled from their start.

use std::net::{SocketAddr, UdpSocket};

use offramp_intercept::{Class, Event};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lab::{go, lab, output};

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn tcp_arrives_with_its_target_and_its_app() {
    let lab = lab("tcp").await;
    for (slot, target) in [(0, "203.0.113.5"), (1, "2001:db8:5::5")] {
        let mut child = lab.start(&format!(
            "s=socket.create_connection(('{target}',80));s.sendall(b'hi');print(s.recv(9).decode(), s.getpeername()[0])"
        ));
        go(&mut child);
        let (mut stream, source) = lab.sockets.tcp[slot].accept().await.unwrap();
        let local = stream.local_addr().unwrap();
        assert_eq!(local, SocketAddr::new(target.parse().unwrap(), 80));
        let identity = lab
            .capture
            .identify_tcp(source, local)
            .expect("a labelled flow has one");
        assert_eq!(
            (identity.exec, identity.pid, identity.class),
            (0, child.id(), lab.class)
        );
        assert!(
            lab.capture.identify_tcp(source, local).is_none(),
            "it is taken"
        );
        let mut two = [0; 2];
        stream.read_exact(&mut two).await.unwrap();
        stream.write_all(b"ho").await.unwrap();
        assert_eq!(output(child), format!("ho {target}"));
        assert!(matches!(lab.capture.event().await, Some(Event::Ended)));
        assert_eq!(lab.capture.labelled().unwrap(), []);
    }
    lab.capture.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn udp_is_answered_from_the_address_that_was_asked() {
    let lab = lab("udp").await;
    let mut child = lab.start(
        "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
         for a in [('203.0.113.5',4000),('203.0.113.6',4000),('203.0.113.6',4001),('127.0.0.53',53),('192.0.2.1',53)]:\n  \
         s.sendto(b'hi',a); d,f=s.recvfrom(99); print(f[0],f[1],f==a)\n\
         t=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM)\n\
         for a in [('2001:db8:5::5',4000),('::1',53)]:\n  \
         t.sendto(b'hi',a); d,f=t.recvfrom(99); print(f[0],f[1],f[:2]==a)\n\
         c=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); c.connect(('127.0.0.53',53)); c.send(b'x'); print(c.recv(9), c.getpeername())\n\
         b=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); b.bind(('127.0.0.1',0)); b.sendto(b'x',('127.0.0.53',53)); print(b.recvfrom(9)[1])",
    );
    go(&mut child);
    let mut buffer = vec![0; 65_535];
    let mut asked = Vec::new();
    for slot in [0, 0, 0, 0, 0, 1, 1, 0, 0] {
        let datagram = lab.sockets.udp[slot].receive(&mut buffer).await.unwrap();
        let identity = lab.capture.identify_udp(datagram.source, datagram.target);
        assert_eq!(
            identity.map(|identity| identity.pid),
            Some(child.id()),
            "{datagram:?}"
        );
        asked.push(
            lab.capture
                .asked(datagram.target.ip())
                .expect("it is known")
                .to_string(),
        );
        lab.sockets
            .replies
            .send(b"ho", datagram.target, datagram.source)
            .unwrap();
    }
    assert_eq!(
        output(child),
        "203.0.113.5 4000 True\n203.0.113.6 4000 True\n203.0.113.6 4001 True\n\
         127.0.0.53 53 True\n192.0.2.1 53 True\n2001:db8:5::5 4000 True\n::1 53 True\n\
         b'ho' ('127.0.0.53', 53)\n('127.0.0.53', 53)"
    );
    assert_eq!(asked[3], "127.0.0.53");
    assert_eq!(asked[4], "192.0.2.1");
    assert_eq!(asked[6], "::1");
    lab.capture.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn what_may_not_go_out_is_refused_at_once() {
    let lab = lab("refuse").await;
    let shape = Class { ..Class::default() };
    lab.capture.set_class(lab.class, shape).await.unwrap();
    let mut child = lab.start(
        "import errno\n\
         def t(f):\n  \
         try: f(); print('done')\n  \
         except OSError as e: print(errno.errorcode[e.errno])\n\
         t(lambda: socket.create_connection(('203.0.113.5',80)))\n\
         t(lambda: socket.create_connection(('2001:db8:5::5',80)))\n\
         t(lambda: socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b'x',('203.0.113.5',9)))\n\
         t(lambda: socket.socket(socket.AF_INET,socket.SOCK_RAW,1))\n\
         t(lambda: socket.socket(socket.AF_INET,socket.SOCK_DGRAM,1))\n\
         t(lambda: socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b'x',('224.0.0.251',5353)))\n\
         t(lambda: socket.create_connection(('127.0.0.1',9)))",
    );
    go(&mut child);
    assert_eq!(
        output(child),
        "ECONNREFUSED\nECONNREFUSED\nECONNREFUSED\nEPERM\nEPERM\nEPERM\nECONNREFUSED"
    );
    lab.capture.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs root and BPF: run scripts/test"]
async fn direct_targets_and_unmanaged_programs_are_not_touched() {
    let lab = lab("direct").await;
    let shape = Class {
        direct: vec!["192.0.2.0/24".parse().unwrap()],
        open: true,
        udp: true,
        ..Class::default()
    };
    lab.capture.set_class(lab.class, shape).await.unwrap();
    // Our own stack plays a neighbour on the link by a second address on the far end of the pair.
    let unmanaged = UdpSocket::bind("0.0.0.0:0").unwrap();
    unmanaged.connect("203.0.113.5:9").unwrap();
    assert_eq!(
        unmanaged.local_addr().unwrap().ip().to_string(),
        "192.0.2.1"
    );
    let mut child = lab.start(
        "def src(a):\n  \
         s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.connect(a); return s.getsockname()[0]\n\
         print(src(('192.0.2.77',9)), src(('203.0.113.5',9)))",
    );
    go(&mut child);
    assert_eq!(output(child), "192.0.2.1 198.18.0.1");
    lab.capture.stop().await.unwrap();
}
