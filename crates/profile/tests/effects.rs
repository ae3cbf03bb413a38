//! Every key that the reader takes shows in the profile: a key that is taken and forgotten would
//! be a promise that nobody keeps.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use offramp_profile::{Profile, read};
use offramp_rules::Layer;
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
    let mut profile = read(&value.to_string(), None, Layer::User)
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
    let named = json!([{ "Identifier": "n", "SigningIdentifier": "wrapper:a" }]);
    shows("/Payload/AppRules", named);
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
