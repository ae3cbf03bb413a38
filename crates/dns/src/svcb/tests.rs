use super::*;

const KEEP: Changes = Changes {
    ipv4: None,
    ipv6: None,
    keep_ech: true,
    none: false,
};

/// `[key, value…]` as parameters.
fn written(parameters: &[(u16, &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for (key, value) in parameters {
        all.extend_from_slice(&key.to_be_bytes());
        all.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        all.extend_from_slice(value);
    }
    all
}

/// The parameters after the change of a record with this target.
fn changed(target: &[u8], parameters: &[u8], own: bool, changes: Changes) -> Option<Vec<u8>> {
    let mut message = vec![0; 12];
    message.extend_from_slice(&[0, 1]);
    message.extend_from_slice(target);
    message.extend_from_slice(parameters);
    let data = 12..message.len();
    let parts = rewrite(&message, data, own, changes)?;
    let [
        Part::Octets(priority),
        Part::Whole(name),
        Part::Octets(left),
    ] = &parts[..]
    else {
        panic!("priority, target, parameters");
    };
    assert_eq!((&priority[..], name.as_bytes()), (&[0, 1][..], target));
    Some(left.clone())
}

#[test]
fn hints_are_replaced_where_the_record_is_about_the_name_and_left_out_elsewhere() {
    let all: &[(u16, &[u8])] = &[
        (0, &[0, 1, 0, 4]),
        (1, b"\x02h3\x02h2"),
        (3, &[0x20, 0xfb]),
        (4, &[192, 0, 2, 1, 192, 0, 2, 2]),
        (5, b"ech"),
        (6, &[0x20; 16]),
        (0xff77, b"unknown"),
    ];
    let changes = Changes {
        ipv4: Some(Ipv4Addr::new(198, 18, 1, 1)),
        ipv6: Some(Ipv6Addr::LOCALHOST),
        keep_ech: true,
        none: false,
    };
    let mut own = all.to_vec();
    let v6 = Ipv6Addr::LOCALHOST.octets();
    own[3].1 = &[198, 18, 1, 1];
    own[5].1 = &v6;
    let all = written(all);
    assert_eq!(changed(b"\0", &all, true, changes), Some(written(&own)));
    // Of another target, and where there is no address: without, and then not mandatory either.
    let mut none = own;
    none.retain(|(key, _)| !matches!(key, 4 | 6));
    none[0].1 = &[0, 1];
    let none = written(&none);
    assert_eq!(
        changed(b"\x03cdn\0", &all, true, changes),
        Some(none.clone())
    );
    assert_eq!(changed(b"\0", &all, false, changes), Some(none.clone()));
    assert_eq!(changed(b"\0", &all, true, KEEP), Some(none));
}

#[test]
fn ech_goes_where_rules_need_the_name() {
    let all = written(&[(0, &[0, 5]), (1, b"\x02h2"), (5, b"ech")]);
    let changes = Changes::default();
    assert_eq!(
        changed(b"\0", &all, true, changes),
        Some(written(&[(1, b"\x02h2")])),
        "and nothing is mandatory any more"
    );
    assert_eq!(changed(b"\0", &all, true, KEEP), Some(all));
}

#[test]
fn what_clients_have_to_reject_is_left_out() {
    let good = written(&[(1, b"\x02h2"), (3, &[1, 187])]);
    for bad in [
        written(&[(3, &[1, 187]), (1, b"\x02h2")]),
        written(&[(1, b"a"), (1, b"b")]),
        good[..good.len() - 1].to_vec(),
        good[..3].to_vec(),
    ] {
        assert_eq!(changed(b"\0", &bad, true, KEEP), None, "{bad:?}");
    }
    assert_eq!(changed(b"\0", &good, true, KEEP), Some(good));
    assert_eq!(changed(b"\0", b"", true, KEEP), Some(Vec::new()));
}

#[test]
fn an_alias_has_no_parameters() {
    let mut message = b"\0\0\x03cdn\0".to_vec();
    message.extend(written(&[(4, &[192, 0, 2, 1])]));
    let mut whole = vec![0; 12];
    whole.extend(message);
    let parts = rewrite(&whole, 12..whole.len(), true, KEEP).unwrap();
    assert!(matches!(&parts[2], Part::Octets(left) if left.is_empty()));
    assert!(rewrite(&whole, 12..13, true, KEEP).is_none());
}
