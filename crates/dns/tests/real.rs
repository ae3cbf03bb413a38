//! Lookups with programs of others at both ends: `dig` asks, `dnsmasq` is the system's resolver.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use offramp_dns::{Family, Lookup, Names, Responder, SystemResolver, Transport, Way, exchange_tcp};
use offramp_rules::DomainName;

/// For the start and each answer of a real program; never reached when all is well.
const LIMIT: Duration = Duration::from_secs(30);

/// dnsmasq with records of its own and nobody to ask.
struct Dnsmasq {
    address: SocketAddr,
    _child: Child,
}

impl Dnsmasq {
    async fn start() -> Self {
        // An address of this process's own, so that nothing else can take the port meanwhile.
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let local = IpAddr::from([127, 64 | high, middle, low.max(1)]);
        let probe = TcpListener::bind((local, 0)).await.unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);

        let mut command = Command::new("dnsmasq");
        command
            .args([
                "--no-daemon",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
            ])
            .args(["--bind-interfaces", "--pid-file=", "--user=", "--local=//"])
            .arg(format!("--listen-address={}", address.ip()))
            .arg(format!("--port={}", address.port()))
            .arg("--host-record=one.excluded,192.0.2.1,2001:db8::1,7")
            .arg("--cname=alias.excluded,one.excluded")
            .arg("--txt-record=one.excluded,from dnsmasq")
            .arg("--mx-host=far.example,mail.far.example,10")
            .arg("--srv-host=_ldap._tcp.far.example,dc.far.example,389");
        for last in 1..=100 {
            command.arg(format!("--host-record=big.excluded,198.51.100.{last}"));
        }
        let mut child = command
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("dnsmasq is installed");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let started = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains("started, version") {
                    return;
                }
                eprintln!("{line}");
            }
            panic!("dnsmasq ended");
        };
        timeout(LIMIT, started).await.unwrap();
        Self {
            address,
            _child: child,
        }
    }
}

/// `*.excluded` goes to the system; the far side is the same dnsmasq, by TCP.
struct Lab {
    far: SocketAddr,
    approved: Mutex<Vec<(IpAddr, Duration)>>,
}

impl Lookup for Lab {
    fn way(&self, name: &DomainName) -> Way {
        match name.is_within(&DomainName::parse("excluded").unwrap()) {
            true => Way::System,
            false => Way::Relay,
        }
    }

    fn ipv6(&self) -> bool {
        true
    }

    async fn far(&self, query: Bytes, _asked: SocketAddr) -> io::Result<Bytes> {
        let mut stream = TcpStream::connect(self.far).await?;
        exchange_tcp(&mut stream, &query).await
    }

    async fn approve(&self, _: &DomainName, addresses: &[(IpAddr, Duration)]) -> bool {
        self.approved.lock().unwrap().extend(addresses);
        true
    }
}

/// The sockets that face the app, as the daemon has them.
struct Front {
    udp: UdpSocket,
    tcp: TcpListener,
    responder: Responder,
    names: Arc<Names>,
    lab: Lab,
    _dnsmasq: Dnsmasq,
    _conf: tempfile::NamedTempFile,
}

impl Front {
    async fn start() -> Self {
        let dnsmasq = Dnsmasq::start().await;
        let conf = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&conf, format!("nameserver {}\n", dnsmasq.address.ip())).unwrap();
        let system = SystemResolver::at(conf.path(), dnsmasq.address.port());
        let names = Arc::new(Names::new(
            "198.18.0.0/15".parse().unwrap(),
            Some("fd00:6f66::/64".parse().unwrap()),
            100,
        ));
        let tcp = TcpListener::bind((dnsmasq.address.ip(), 0)).await.unwrap();
        Self {
            udp: UdpSocket::bind(tcp.local_addr().unwrap()).await.unwrap(),
            tcp,
            responder: Responder::new(Arc::clone(&names), system),
            names,
            lab: Lab {
                far: dnsmasq.address,
                approved: Mutex::default(),
            },
            _dnsmasq: dnsmasq,
            _conf: conf,
        }
    }

    async fn serve_udp(&self) {
        let asked = self.udp.local_addr().unwrap();
        let mut buffer = [0; 4096];
        loop {
            let (length, app) = self.udp.recv_from(&mut buffer).await.unwrap();
            let query = Bytes::copy_from_slice(&buffer[..length]);
            let answer = self
                .responder
                .answer(query, asked, Transport::Udp, &self.lab);
            if let Some(answer) = answer.await {
                self.udp.send_to(&answer, app).await.unwrap();
            }
        }
    }

    async fn serve_tcp(&self) {
        let asked = self.tcp.local_addr().unwrap();
        let stop = CancellationToken::new();
        loop {
            let (mut stream, _) = self.tcp.accept().await.unwrap();
            let served = self
                .responder
                .serve_tcp(&mut stream, asked, &self.lab, &stop);
            served.await;
        }
    }

    /// What dig prints, while the front serves it.
    async fn dig(&self, arguments: &str) -> String {
        let address = self.tcp.local_addr().unwrap();
        let mut dig = Command::new("dig");
        dig.arg("-r")
            .arg(format!("@{}", address.ip()))
            .arg(format!("-p{}", address.port()))
            .args(["+tries=1", "+nostats"])
            .args(arguments.split(' '))
            .kill_on_drop(true);
        let output = tokio::select! {
            output = timeout(LIMIT, dig.output()) => output.unwrap().expect("dig is installed"),
            () = self.serve_udp() => unreachable!("serves for ever"),
            () = self.serve_tcp() => unreachable!("serves for ever"),
        };
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        // dig warns of whatever it does not like in an answer.
        assert!(
            !text.contains("WARNING") && !text.contains("Warning"),
            "{text}"
        );
        text
    }

    async fn approved(&self) -> Vec<String> {
        let mut approved = self.lab.approved.lock().unwrap();
        let all = approved.drain(..);
        all.map(|(address, ttl)| format!("{address} {}", ttl.as_secs()))
            .collect()
    }
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part} in {text}");
    }
}

#[tokio::test]
#[ignore = "needs dnsmasq and dig: run scripts/test"]
async fn dig_sees_the_synthetic_address_of_a_relayed_name() {
    let front = Front::start().await;
    let name = DomainName::parse("www.far.example").unwrap();
    for (kind, family) in [("A", Family::V4), ("AAAA", Family::V6)] {
        let address = front
            .names
            .address_for(&name, family, 0)
            .unwrap()
            .to_string();
        for transport in [
            "+notcp",
            "+tcp",
            "+noedns",
            "+dnssec +cdflag",
            "+bufsize=4096",
        ] {
            let answer = front
                .dig(&format!("{transport} Www.Far.Example {kind}"))
                .await;
            has(
                &answer,
                &[
                    "status: NOERROR",
                    "ANSWER: 1",
                    "Www.Far.Example.\t1\tIN",
                    &address,
                ],
            );
        }
        let back = front.dig(&format!("+short -x {address}")).await;
        assert_eq!(back, "www.far.example.\n");
    }
    let empty = front.dig("www.far.example HTTPS").await;
    has(
        &empty,
        &["status: NOERROR", "ANSWER: 0", "AUTHORITY: 1", "IN\tSOA"],
    );
    let absent = front.dig("use-application-dns.net").await;
    has(&absent, &["status: NXDOMAIN"]);
    has(
        &front
            .dig("+edns=1 +noednsnegotiation www.far.example")
            .await,
        &["status: BADVERS"],
    );
    has(
        &front.dig("+noedns +opcode=notify www.far.example").await,
        &["status: NOTIMP"],
    );
    has(
        &front.dig("CH TXT version.bind").await,
        &["status: REFUSED"],
    );
    has(
        &front.dig("+notcp www.far.example ANY").await,
        &["HINFO\t\"RFC8482\" \"\""],
    );
    assert!(front.approved().await.is_empty());
}

#[tokio::test]
#[ignore = "needs dnsmasq and dig: run scripts/test"]
async fn dig_sees_the_systems_answer_for_an_excluded_name() {
    let front = Front::start().await;
    for transport in ["+notcp", "+tcp", "+noedns", "+dnssec"] {
        let answer = front.dig(&format!("{transport} Alias.Excluded A")).await;
        has(
            &answer,
            &["status: NOERROR", "CNAME\tone.excluded.", "192.0.2.1"],
        );
        assert_eq!(front.approved().await, ["192.0.2.1 60"]);
    }
    has(
        &front.dig("one.excluded AAAA").await,
        &["\t7\tIN\tAAAA\t2001:db8::1"],
    );
    assert_eq!(front.approved().await, ["2001:db8::1 60"]);
    has(&front.dig("one.excluded TXT").await, &["from dnsmasq"]);
    assert!(front.approved().await.is_empty());
}

#[tokio::test]
#[ignore = "needs dnsmasq and dig: run scripts/test"]
async fn a_long_answer_reaches_the_app_over_tcp() {
    let front = Front::start().await;
    let cut = front.dig("+notcp +noedns +ignore big.excluded A").await;
    has(&cut, &["flags: qr aa tc", "ANSWER: 30"]);
    assert_eq!(front.approved().await.len(), 100);
    for way in ["+notcp +noedns", "+tcp", "+notcp +bufsize=4096"] {
        let whole = front.dig(&format!("{way} big.excluded A")).await;
        has(&whole, &["ANSWER: 100", "198.51.100.100"]);
    }
}

#[tokio::test]
#[ignore = "needs dnsmasq and dig: run scripts/test"]
async fn other_types_come_from_the_far_side() {
    let front = Front::start().await;
    has(
        &front.dig("Far.example MX").await,
        &["MX\t10 mail.far.example."],
    );
    has(
        &front.dig("_ldap._tcp.far.example SRV").await,
        &["SRV\t0 0 389 dc.far.example."],
    );
    has(&front.dig("+tcp far.example TXT").await, &["ANSWER: 0"]);
}

#[tokio::test]
#[ignore = "needs dnsmasq and dig: run scripts/test"]
async fn several_lookups_share_a_stream() {
    let front = Front::start().await;
    let answers = front
        .dig("+tcp +keepopen +short www.far.example A one.excluded A far.example MX")
        .await;
    let lines: Vec<_> = answers.lines().collect();
    assert_eq!(lines[1..], ["192.0.2.1", "10 mail.far.example."]);
}
