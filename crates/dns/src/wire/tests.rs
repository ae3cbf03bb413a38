use super::*;

/// A header, the question `a.B. TXT`, and what follows, which begins at 21.
fn message(counts: [u8; 3], rest: &[u8]) -> Vec<u8> {
    let mut message = vec![
        0, 0, 0x80, 0, 0, 1, 0, counts[0], 0, counts[1], 0, counts[2],
    ];
    message.extend_from_slice(b"\x01a\x01B\0\0\x10\0\x01");
    message.extend_from_slice(rest);
    message
}

fn name(message: &[u8], at: usize) -> Option<(Vec<u8>, usize)> {
    let (name, end) = WireName::read(message, at)?;
    Some((name.0, end))
}

#[test]
fn pointers_lead_backwards_and_end() {
    let at = 21;
    for (rest, expected) in [
        (&b"\0"[..], Some((&b"\0"[..], at + 1))),
        (b"\x01x\0", Some((b"\x01x\0", at + 3))),
        (b"\x01x\xc0\x0c", Some((b"\x01x\x01a\x01B\0", at + 4))),
        (b"\xc0\x0e", Some((b"\x01B\0", at + 2))),
        // To itself, forward, into the header, nowhere, and of kinds that do not exist.
        (b"\xc0\x15", None),
        (b"\x01x\xc0\x15", None),
        (b"\xc0\x17\0", None),
        (b"\xc0\x02", None),
        (b"\xc0", None),
        (b"\x01", None),
        (b"\x40\0", None),
        (b"\x80\0", None),
        (b"", None),
    ] {
        let message = message([0; 3], rest);
        let expected = expected.map(|(name, end)| (name.to_vec(), end));
        assert_eq!(name(&message, at), expected, "{rest:?}");
    }
}

#[test]
fn names_have_255_octets_at_most() {
    let label = [&[63][..], &[b'x'; 63]].concat();
    let longest = [&label[..], &label, &label, &[61], &[b'y'; 61], &[0]].concat();
    assert_eq!(longest.len(), 255);
    let mut longer = longest.clone();
    longer[192] = 62;
    longer.insert(193, b'y');
    for (written, is_name) in [(longest, true), (longer, false)] {
        let mut message = vec![0; HEADER];
        message.extend_from_slice(&written);
        message.extend_from_slice(&[0, 1, 0, 1]);
        assert_eq!(question(&message).is_some(), is_name);
        assert_eq!(name(&message, HEADER).is_some(), is_name);
    }
    let mut pointer = vec![0; HEADER];
    pointer.extend_from_slice(b"\xc0\x00\0\x01\0\x01");
    assert_eq!(question(&pointer), None, "a question has nothing before it");
}

#[test]
fn records_are_read_up_to_the_first_that_is_torn() {
    let record = b"\xc0\x0c\0\x10\0\x01\0\0\0\x3c\0\x02\x01x";
    let torn = &record[..record.len() - 1];
    let read = |counts, rest: &[u8]| {
        let message = message(counts, rest);
        let all = records(&message).unwrap();
        all.map(|found| found.map(|found| (found.section, found.data)))
            .collect::<Vec<_>>()
    };
    let two = [&record[..], record].concat();
    assert_eq!(
        read([1, 0, 1], &two),
        [
            Some((Section::Answer, 33..35)),
            Some((Section::Additional, 47..49))
        ]
    );
    assert_eq!(read([0, 0, 0], &two), []);
    assert_eq!(read([1, 2, 0], torn), [None]);
    let (first, rest) = (
        Some((Section::Answer, 33..35)),
        [&record[..], torn].concat(),
    );
    assert_eq!(read([1, 2, 0], &rest), [first, None]);
    assert!(records(&message([0; 3], b"")[..20]).is_none());
}

#[test]
fn a_ttl_with_the_highest_bit_is_none() {
    for (octets, seconds) in [
        (*b"\0\0\0\x07", 7),
        (*b"\x7f\xff\xff\xff", 0x7fff_ffff),
        (*b"\x80\0\0\0", 0),
    ] {
        let rest = [b"\0\0\x10\0\x01", &octets[..], b"\0\0"].concat();
        let message = message([1, 0, 0], &rest);
        let found = records(&message).unwrap().next().unwrap().unwrap();
        assert_eq!(found.seconds(), seconds);
    }
}

fn whole(name: &[u8]) -> WireName {
    WireName(name.to_vec())
}

#[test]
fn names_that_were_written_are_pointed_to() {
    let head = message([0; 3], b"")[..HEADER].to_vec();
    let mut writer = Writer::new(&head, b"\x01a\x01B\0\0\x02\0\x01");
    let target = Part::Short(whole(b"\x02ns\x01a\x01B\0"));
    writer.add(
        Section::Answer,
        &whole(b"\x01A\x01b\0"),
        [2, 1],
        60,
        &[target],
    );
    let target = Part::Whole(whole(b"\x02ns\x01a\x01B\0"));
    writer.add(
        Section::Authority,
        &whole(b"\x02ns\x01a\x01B\0"),
        [33, 1],
        60,
        &[target],
    );
    let (message, is_whole) = writer.finish(None);
    assert!(is_whole);
    let expected = [
        b"\xc0\x0c\0\x02\0\x01\0\0\0\x3c\0\x05\x02ns\xc0\x0c".as_slice(),
        b"\xc0\x21\0\x21\0\x01\0\0\0\x3c\0\x08\x02ns\x01a\x01B\0",
    ];
    assert_eq!(message[21..], expected.concat());
    assert_eq!(message[4..12], [0, 1, 0, 1, 0, 1, 0, 0]);
}

#[test]
fn what_does_not_fit_is_left_out_whole() {
    let head = message([0; 3], b"")[..HEADER].to_vec();
    let mut writer = Writer::new(&head, b"\x01a\x01B\0\0\x10\0\x01");
    for _ in 0..70 {
        let data = [Part::Octets(vec![1; 1000])];
        writer.add(Section::Answer, &whole(b"\x01a\x01B\0"), [16, 1], 60, &data);
    }
    let (message, is_whole) = writer.finish(Some(opt(1232, 0, true)));
    assert!(!is_whole && message.len() <= LONGEST);
    let found: Option<Vec<_>> = records(&message).unwrap().collect();
    let found = found.unwrap();
    assert_eq!(found.len(), 64 + 1);
    assert_eq!(found.last().unwrap().data.end, message.len());
}
