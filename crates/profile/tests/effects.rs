//! Every key that the reader takes shows in the profile: a key that is taken and forgotten would
//! be a promise that nobody keeps.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use offramp_profile::{Profile, read, read_user};
use offramp_rules::{DomainName, Identity, Layer, Overlay, UserCondition};
use serde_json::{Value, json};

fn base() -> Value {
    json!({
        "Type": "org.offramp.configuration.network.vpn",
        "Identifier": "a",
        "ServerToken": "1",
        "Payload": {
            "VisibleName": "x",
            "Servers": [{
                "URL": "https://a.example",
                "Authentication": {
                    "Method": "Password",
                    "CredentialsAssetReference": "credential:a",
                },
                "TLS": {},
            }],
            "AppRules": [{ "SigningIdentifier": "wrapper:a" }],
            "NetworkRouting": {},
            "DNS": {},
        },
    })
}

/// The one profile, without the text it was made from.
fn profile(value: &Value) -> Profile {
    let mut profile = read(&value.to_string(), None, Layer::Recommended)
        .unwrap()
        .remove(0);
    profile.source.text = "".into();
    profile
}

fn with(pointer: &str, value: Value) -> Value {
    let mut changed = base();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    changed.pointer_mut(parent).unwrap()[key] = value;
    changed
}

#[track_caller]
fn shows(pointer: &str, value: Value) {
    assert_ne!(
        profile(&with(pointer, value)),
        profile(&base()),
        "{pointer} is forgotten"
    );
}

#[test]
fn every_key_has_an_effect() {
    shows("/Identifier", json!("b"));
    shows("/ServerToken", json!("2"));
    shows("/Revision", json!(1));
    shows("/PayloadOrganization", json!("Example GmbH"));
    shows("/PayloadDescription", json!("text"));
    shows("/PayloadRemovalDisallowed", json!(true));
    shows("/Payload/VisibleName", json!("y"));
    shows("/Payload/Order", json!(1));
    shows("/Payload/Enabled", json!(false));
    shows("/Payload/AllowInbound", json!(true));
    shows("/Payload/UnavailableAction", json!("Direct"));
    shows("/Payload/ExcludedDomains", json!(["example.com"]));
    shows("/Payload/ExcludedFQDNs", json!(["example.com"]));
    shows("/Payload/BrowserDomains", json!(["example.com"]));
    shows("/Payload/UserOverridableKeys", json!(["ExcludedDomains"]));
    shows(
        "/Payload/NetworkRouting/ExcludedRoutes",
        json!(["10.0.0.0/8"]),
    );
    shows("/Payload/NetworkRouting/ExcludeLocalNetworks", json!(true));
    shows(
        "/Payload/DNS/SyntheticDNSAnswerIPv4Prefix",
        json!("100.64.0.0/10"),
    );
    shows(
        "/Payload/DNS/SyntheticDNSAnswerIPv6Prefix",
        json!("fd00::/64"),
    );
    shows("/Payload/DNS/RealAddresses", json!(true));
    shows("/Payload/DNS/RefuseEncryptedResolvers", json!(true));
    let refusing = with("/Payload/DNS/RefuseEncryptedResolvers", json!(true));
    let mut adding = refusing.clone();
    adding["Payload"]["DNS"]["EncryptedResolvers"] = json!(["192.0.2.1"]);
    assert_ne!(profile(&adding), profile(&refusing));
}

#[test]
fn every_key_in_a_list_has_an_effect() {
    // A pointer's last step has to be a key, so the lists are replaced whole.
    let server = |key: &str, value: Value| {
        let mut server = base()["Payload"]["Servers"][0].clone();
        *server.pointer_mut(key).unwrap() = value;
        shows("/Payload/Servers", json!([server]));
    };
    server("/URL", json!("https://b.example"));
    server("/URL", json!("https://a.example:8443"));
    server("/Authentication/Method", json!("Bearer"));
    server(
        "/Authentication/CredentialsAssetReference",
        json!("credential:b"),
    );
    server("/TLS", json!({ "ServerName": "b.example" }));
    server("/TLS", json!({ "AnchorsAssetReference": "credential:b" }));
    let named = json!([{ "Name": "n", "URL": "https://a.example" }]);
    shows("/Payload/Servers", named);
    shows(
        "/Payload/AppRules",
        json!([{ "SigningIdentifier": "wrapper:b" }]),
    );
    for (key, value) in [
        ("Identifier", json!("n")),
        ("Path", json!("/usr/bin/a")),
        ("DesignatedRequirement", json!("owner = \"root\"")),
        ("User", json!("alice")),
        ("MatchDomains", json!(["example.com"])),
        ("MatchTools", json!([{ "SigningIdentifier": "exe:curl" }])),
    ] {
        let mut rule = json!({ "SigningIdentifier": "wrapper:a" });
        rule[key] = value.clone();
        shows("/Payload/AppRules", json!([rule]));
        if key != "MatchTools" {
            let tool =
                |tool: Value| json!([{ "SigningIdentifier": "exe:sh", "MatchTools": [tool] }]);
            let plain = tool(json!({ "SigningIdentifier": "wrapper:a" }));
            assert_ne!(
                profile(&with("/Payload/AppRules", tool(rule))),
                profile(&with("/Payload/AppRules", plain)),
                "{key} of a tool is forgotten"
            );
        }
    }
}

#[test]
fn rules_are_read_as_they_are_written() {
    let written = json!([{
        "Identifier": "terminal",
        "SigningIdentifier": "app:org.gnome.Terminal",
        "Path": "/usr/libexec/gnome-terminal-server",
        "DesignatedRequirement": "owner = root and not sha256 = \"ab\"".replace("ab", &"ab".repeat(32)),
        "User": "@wheel",
        "MatchDomains": ["Example.COM."],
        "MatchTools": [
            { "SigningIdentifier": "exe:curl", "User": "1000-1999", "MatchDomains": ["b.example"] },
            { "SigningIdentifier": "exe:/usr/bin/w*" },
        ],
    }]);
    let found = profile(&with("/Payload/AppRules", written));
    let rule = &found.rules.rules[0];
    assert_eq!(rule.identifier, "terminal");
    assert_eq!(rule.identity, "app:org.gnome.Terminal".parse().unwrap());
    assert_eq!(
        rule.path.as_deref(),
        Some(Path::new("/usr/libexec/gnome-terminal-server"))
    );
    let requirement = rule.requirement.as_ref().unwrap().to_string();
    assert!(
        requirement.starts_with("owner = \"root\" and not sha256 = \"abab"),
        "{requirement}"
    );
    assert_eq!(
        rule.user,
        Some(UserCondition::GroupName("wheel".to_owned()))
    );
    assert_eq!(rule.domains, [DomainName::parse("example.com").unwrap()]);
    let [curl, other] = &*rule.tools else {
        panic!("{:?}", rule.tools);
    };
    assert_eq!(
        (&*curl.identifier, &*other.identifier),
        ("exe:curl", "exe:/usr/bin/w*")
    );
    assert_eq!(curl.user, Some(UserCondition::Ids(1000, 1999)));
    assert_eq!(curl.domains, [DomainName::parse("b.example").unwrap()]);
    assert!(matches!(other.identity, Identity::Paths(_)));
}

#[test]
fn equal_rules_are_told_apart() {
    let names = |rules: Value| -> Vec<String> {
        let found = profile(&with("/Payload/AppRules", rules));
        let rules = found.rules.rules.into_iter();
        rules.map(|rule| rule.identifier).collect()
    };
    let rule = |name: Option<&str>| match name {
        Some(name) => json!({ "Identifier": name, "SigningIdentifier": "exe:a" }),
        None => json!({ "SigningIdentifier": "exe:a" }),
    };
    assert_eq!(
        names(json!([rule(None), rule(Some("x")), rule(None), rule(None)])),
        ["exe:a", "x", "exe:a#2", "exe:a#3"]
    );
    // A name that somebody has given stays.
    assert_eq!(
        names(json!([
            rule(Some("x")),
            rule(Some("x")),
            rule(Some("x#2")),
            rule(Some("x"))
        ])),
        ["x", "x#3", "x#2", "x#4"]
    );
    let many: Vec<_> = (0..5000).map(|_| rule(None)).collect();
    let names = names(json!(many));
    let apart: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(apart.len(), 5000);
    let tools = json!([{ "SigningIdentifier": "exe:sh", "MatchTools": [rule(None), rule(None)] }]);
    let found = profile(&with("/Payload/AppRules", tools));
    assert_eq!(found.rules.rules[0].tools[1].identifier, "exe:a#2");
}

#[test]
fn rules_have_a_number() {
    let rules = |count: usize, tools: usize| {
        let mut rules = vec![json!({ "SigningIdentifier": "exe:a" }); count];
        rules[0]["MatchTools"] = json!(vec![json!({ "SigningIdentifier": "exe:b" }); tools]);
        read(
            &with("/Payload/AppRules", json!(rules)).to_string(),
            None,
            Layer::Managed,
        )
    };
    assert!(rules(4990, 10).is_ok());
    let problems = rules(4991, 10).unwrap_err();
    assert_eq!(
        problems[0].message,
        "has 5001 rules and tools, and may have 5000"
    );
    assert_eq!(problems[0].key_path, "Payload.AppRules");
}

#[test]
fn every_key_of_an_overlay_has_an_effect() {
    let overlay = |payload: Value| {
        let text = json!({
            "Type": "org.offramp.overlay", "Identifier": "a", "PayloadVersion": 1,
            "PayloadDescription": "text", "PayloadDisplayName": "text", "Payload": payload,
        });
        let (profiles, mut overlays) = read_user(text.to_string().as_bytes(), None, 1000).unwrap();
        assert!(profiles.is_empty() && overlays.len() == 1);
        overlays.remove(0).overlay
    };
    let empty = overlay(json!({}));
    assert_eq!(empty, Overlay::default());
    for payload in [
        json!({ "ExcludedDomains": ["a.example"] }),
        json!({ "NetworkRouting": { "ExcludedRoutes": ["10.0.0.0/8"] } }),
        json!({ "NetworkRouting": { "ExcludeLocalNetworks": false } }),
        json!({ "UnavailableAction": "Drop" }),
    ] {
        assert_ne!(overlay(payload.clone()), empty, "{payload} is forgotten");
    }
}

#[test]
fn keys_that_say_what_is_so_anyway_change_nothing() {
    let same = |pointer: &str, value: Value| {
        assert_eq!(
            profile(&with(pointer, value)),
            profile(&base()),
            "{pointer}"
        );
    };
    same("/PayloadVersion", json!(1));
    same("/PayloadDisplayName", json!("text"));
    same("/OptionalKeys", json!(["Payload.Later"]));
    same("/Payload/Provider", json!({ "Type": "app-proxy" }));
    same("/Payload/RoutingMethod", json!("SourceApplication"));
    same("/Payload/VendorConfig", json!({ "Anything": [1] }));
    same("/Payload/Order", json!(1000));
    same("/Payload/Enabled", json!(true));
    same("/Payload/UnavailableAction", json!("Drop"));
    same("/Payload/DNS/RealAddresses", json!(false));
    same("/Payload/DNS/RefuseEncryptedResolvers", json!(false));
    same(
        "/Payload/DNS/SyntheticDNSAnswerIPv4Prefix",
        json!("198.18.0.0/15"),
    );
}

#[test]
fn optional_keys_are_passed_over_where_they_are_not_known() {
    let mut value = with(
        "/OptionalKeys",
        json!(["Payload.OnDemand", "Payload.Servers.New"]),
    );
    value["Payload"]["OnDemand"] = json!({});
    value["Payload"]["Servers"][0]["New"] = json!(1);
    assert_eq!(profile(&value), profile(&base()));
    value["Payload"]["New"] = json!(1);
    let problems = read(&value.to_string(), None, Layer::User).unwrap_err();
    assert_eq!(problems.len(), 1);
    // A key that is known counts, optional or not.
    let mut value = with("/OptionalKeys", json!(["Payload.Order"]));
    value["Payload"]["Order"] = json!(0);
    assert!(read(&value.to_string(), None, Layer::User).is_err());
}
