use rustls::quic::Version;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::hellos::{FORMS, Form, crypto, handshake, in_records, packet, tls};
use super::*;

fn told(name: &str, by: ToldBy) -> Sniffed {
    Sniffed {
        name: DomainName::parse(name).unwrap(),
        by,
    }
}

fn found(name: &str, by: ToldBy) -> Found {
    Found::Name(told(name, by))
}

fn by(form: Form, otherwise: ToldBy) -> ToldBy {
    match form {
        Form::Grease => ToldBy::Ech,
        Form::Tls12 | Form::Tls13 => otherwise,
    }
}

#[test]
fn a_hello_tells_its_name_however_it_is_cut() {
    for form in FORMS {
        let hello = tls("www.example.com", form);
        let expected = found("www.example.com", by(form, ToldBy::Sni));
        for bytes in [
            hello.clone(),
            in_records(&hello, 1),
            in_records(&hello, 100),
        ] {
            assert_eq!(name(&bytes), expected, "{form:?}");
            for end in (0..bytes.len()).step_by(11) {
                assert_eq!(name(&bytes[..end]), Found::More, "{form:?} up to {end}");
            }
        }
    }
}

#[test]
fn hellos_without_a_name_tell_nothing() {
    let mut hello = tls("www.example.com", Form::Tls13);
    assert_eq!(name(&tls("192.0.2.1", Form::Tls13)), Found::Nothing);
    let at = hello.windows(3).position(|part| part == b"www").unwrap();
    hello[at..at + 15].copy_from_slice(b"203.113.113.101");
    assert_eq!(name(&hello), Found::Nothing, "an address is no name");
    hello[at] = 0xff;
    assert_eq!(name(&hello), Found::Nothing, "no text");
    for bytes in [
        &b"\x16\x03\x01\x00\x00"[..],
        b"\x16\x03\x01\x7f\xff\x01",
        b"\x16\x02\x01\x00\x10\x01",
        b"\x16\x03\x01\x00\x10\x02\x00\x00\x01",
        b"\x16\x03\x01\x00\x10\x01\xff\x00\x00",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
    ] {
        assert_eq!(name(bytes), Found::Nothing, "{bytes:x?}");
    }
}

#[test]
fn requests_tell_where_they_go() {
    let host = |text: &str| name(text.as_bytes());
    for (request, expected) in [
        (
            "GET / HTTP/1.1\r\nHost: A.Example.com\r\n\r\n",
            "a.example.com",
        ),
        (
            "GET / HTTP/1.0\r\nX: 1\r\nhost:a.example.com:8080\r\n\r\n",
            "a.example.com",
        ),
        (
            "GET http://a.example.com:81/x HTTP/1.1\r\nHost: b.example.com\r\n\r\n",
            "a.example.com",
        ),
        (
            "CONNECT a.example.com:443 HTTP/1.1\r\nHost: b.example.com\r\n\r\n",
            "a.example.com",
        ),
        (
            "M-SEARCH * HTTP/1.1\r\nHost: a.example.com\r\n\r\n",
            "a.example.com",
        ),
    ] {
        assert_eq!(host(request), found(expected, ToldBy::Host), "{request}");
        for end in 0..request.len() {
            assert_eq!(host(&request[..end]), Found::More, "{request} up to {end}");
        }
    }
    for request in [
        "GET / HTTP/1.1\r\nHost: a.example.com\r\nHost: b.example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \r\n\r\n",
        "GET / HTTP/1.1\r\nX: y\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "EHLO a.example.com\r\n",
        "get / HTTP/1.1",
        " / HTTP/1.1",
        "*1\r\n$4\r\nPING\r\n",
        "\0\0\0\x08\x04\x16\x2f",
        "A-METHOD-THAT-NOBODY-HAS",
    ] {
        assert_eq!(host(request), Found::Nothing, "{request}");
    }
}

#[test]
fn quic_tells_its_name_in_any_order() {
    for (form, version) in [
        (Form::Tls13, Version::V1),
        (Form::Tls13, Version::V2),
        (Form::Grease, Version::V1),
    ] {
        let hello = handshake("www.example.com", form);
        let expected = found("www.example.com", by(form, ToldBy::Quic));
        let parts: Vec<_> = hello.chunks(600).enumerate().collect();
        let frame = |(index, part): &(usize, &[u8])| crypto(index * 600, part);
        // Backwards, a packet each, the first one twice, with other frames between.
        let mut sniffed = quic::Hello::default();
        let mut last = Found::More;
        for (number, part) in parts.iter().rev().enumerate() {
            assert_eq!(last, Found::More);
            let frames = [&[1, 0, 0][..], &frame(part), &[0; 200], &[2, 0, 0, 0, 0]].concat();
            let datagram = packet(version, u32::try_from(number).unwrap(), &frames);
            last = sniffed.take(&datagram);
            if last == Found::More {
                assert_eq!(sniffed.take(&datagram), Found::More);
            }
        }
        assert_eq!(last, expected);
        // All in one datagram, behind one that is encrypted otherwise and before what is none.
        let other = match version {
            Version::V2 => 0xe0,
            _ => 0xd0,
        };
        let mut datagram = packet(version, 0, &[1; 8]);
        datagram[0] = other;
        // Without a token, its length is where the token's was.
        let at = 6 + 8 + 3;
        datagram.drain(at..at + 4);
        for part in &parts {
            datagram.extend(packet(version, 7, &frame(part)));
        }
        datagram.extend([0x40, 1, 2, 3]);
        assert_eq!(quic::Hello::default().take(&datagram), expected);
    }
}

#[test]
fn what_is_no_quic_tells_nothing() {
    let initial = packet(Version::V1, 0, &[0; 40]);
    let mut unknown = initial.clone();
    unknown[4] = 9;
    let mut damaged = initial.clone();
    let end = damaged.len() - 1;
    damaged[end] ^= 1;
    for datagram in [
        &b""[..],
        b"hello",
        &[0x40; 100],
        &[0xff; 100],
        &unknown,
        &damaged,
        &initial[..30],
        // A server's, and what may not be in an Initial.
        &packet(
            Version::V1,
            0,
            &[[2, 0, 0, 0, 0].as_slice(), &[8; 40]].concat(),
        ),
        &packet(
            Version::V1,
            0,
            &[6, 0x7f, 0xff, 0x40, 2, 0, 0, 0, 0, 0, 0, 0],
        ),
    ] {
        assert_eq!(
            quic::Hello::default().take(datagram),
            Found::Nothing,
            "{datagram:x?}"
        );
    }
    let mut hello = quic::Hello::default();
    let founds: Vec<_> = (0..16).map(|_| hello.take(&initial)).collect();
    assert_eq!(founds[14..], [Found::More, Found::Nothing], "it has an end");
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = TcpStream::connect(listener.local_addr().unwrap());
    let (app, accepted) = tokio::join!(app, listener.accept());
    app.as_ref().unwrap().set_nodelay(true).unwrap();
    (app.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn the_bytes_stay_in_the_socket() {
    let hello = tls("www.example.com", Form::Tls13);
    let (mut app, mut flow) = pair().await;
    let (sent, _rest) = tokio::join!(tcp(&flow, Instant::now()), async {
        for part in hello.chunks(300) {
            app.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(sent, Said::Name(told("www.example.com", ToldBy::Sni)));
    let mut read = vec![0; hello.len()];
    flow.read_exact(&mut read).await.unwrap();
    assert_eq!(read, hello);
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_is_waited_for_ten_milliseconds() {
    let (mut app, flow) = pair().await;
    let begun = Instant::now();
    assert_eq!(tcp(&flow, begun).await, Said::Nothing);
    assert!(begun.elapsed() <= Duration::from_millis(10));
    // Who has begun may take longer, to an end.
    app.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    flow.readable().await.unwrap();
    let begun = Instant::now();
    assert_eq!(tcp(&flow, begun).await, Said::Other);
    assert!(begun.elapsed() <= PATIENCE + Duration::from_millis(10));
    // It is still to be read, also by who waits for it.
    let mut flow = flow;
    let mut read = [0; 16];
    flow.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"GET / HTTP/1.1\r\n");
    drop(app);
    let (app, flow) = pair().await;
    drop(app);
    assert_eq!(tcp(&flow, Instant::now()).await, Said::Other);
    assert_eq!(later(&flow).await, None);
}

#[tokio::test]
async fn datagrams_are_kept() {
    let hello = handshake("www.example.com", Form::Tls13);
    let (sender, mut datagrams) = mpsc::channel(8);
    let source = "198.18.0.1:4000".parse().unwrap();
    let sent: Vec<_> = [(0, &hello[..900]), (900, &hello[900..])]
        .map(|(offset, part)| packet(Version::V1, 0, &crypto(offset, part)).into())
        .map(|payload| (source, payload))
        .into();
    for datagram in &sent {
        sender.try_send(datagram.clone()).unwrap();
    }
    let mut seen = VecDeque::new();
    let sniffed = udp(&mut datagrams, &mut seen).await.unwrap();
    assert_eq!(
        (sniffed.name.as_str(), sniffed.by),
        ("www.example.com", ToldBy::Quic)
    );
    assert_eq!(Vec::from(seen), sent);
}
