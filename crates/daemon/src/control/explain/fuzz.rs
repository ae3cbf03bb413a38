//! What clients ask `explain`.

use offramp_control::ExplainTarget;
use offramp_fuzz::fuzz;

use super::wanted::Wanted;

#[test]
fn targets() {
    let seeds: &[&[u8]] = &[
        b"example.com:443",
        b"[2001:db8::1]:80",
        b"[::ffff:192.0.2.1]:80",
        b"192.0.2.1:22",
        b":80",
    ];
    fuzz("targets", seeds, |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        if let Ok(wanted) = Wanted::read(&ExplainTarget::Address(text.to_owned())) {
            let again = Wanted::read(&ExplainTarget::Address(wanted.shown.clone()));
            assert_eq!(again.map(|again| again.shown), Ok(wanted.shown));
        }
        let _ = Wanted::read(&ExplainTarget::Name(text.to_owned()));
    });
}
