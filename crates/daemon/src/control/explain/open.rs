//! Which addresses of an excluded name are open, and why.

use std::net::IpAddr;

use offramp_intercept::ClassId;
use offramp_rules::Host;

use super::wanted::Wanted;
use crate::approvals::Shown;

/// A sentence for each address of `shown` that concerns what is asked about; of one class, or of all.
pub(super) fn open(shown: &[Shown], wanted: &Wanted, class: Option<ClassId>) -> Vec<String> {
    let concerned = |shown: &&Shown| {
        let is_wanted = match &wanted.host {
            Host::Name(name) => shown.names.contains(name),
            Host::Address(address) => shown.address == *address,
        };
        is_wanted && class.is_none_or(|class| shown.class == class)
    };
    let sentences = shown.iter().filter(concerned).map(sentence);
    // Classes may differ in what is not told here.
    let mut sentences: Vec<_> = sentences.collect();
    sentences.sort();
    sentences.dedup();
    sentences
}

fn sentence(shown: &Shown) -> String {
    let names: Vec<_> = shown.names.iter().map(ToString::to_string).collect();
    let of: IpAddr = shown.address;
    let why = match names.is_empty() {
        true => "it was the answer for an excluded name".to_owned(),
        false => format!("it was the answer for {}", names.join(", ")),
    };
    match shown.left.as_secs() {
        0 => format!("{of} is reached directly while flows use it: {why}"),
        left => format!("{of} is reached directly for {left} s, and while flows use it: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use offramp_control::ExplainTarget;
    use offramp_rules::DomainName;

    use super::*;

    fn shown(class: u16, left: u64) -> Shown {
        Shown {
            class: ClassId::new(class).unwrap(),
            address: "192.0.2.1".parse().unwrap(),
            users: vec![0],
            names: vec![DomainName::parse("a.example").unwrap()],
            left: Duration::from_secs(left),
        }
    }

    #[test]
    fn what_is_open_is_told_for_its_name_and_its_address() {
        let all = [shown(1, 59), shown(2, 0)];
        let of = |target, class: Option<u16>| {
            let wanted = Wanted::read(&target).unwrap();
            open(&all, &wanted, class.and_then(ClassId::new))
        };
        let name = |text: &str| ExplainTarget::Name(text.into());
        let told = of(name("a.example"), Some(1));
        let sentence = "192.0.2.1 is reached directly for 59 s, and while flows use it: it was \
                        the answer for a.example";
        assert_eq!(told, [sentence]);
        assert_eq!(of(name("a.example"), None).len(), 2);
        assert_eq!(
            of(ExplainTarget::Address("192.0.2.1:80".into()), Some(2)).len(),
            1
        );
        assert!(of(name("b.example"), None).is_empty());
        assert!(of(name("a.example"), Some(3)).is_empty());
    }
}
