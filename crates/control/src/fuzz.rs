//! What the daemon reads from clients, and clients from whoever answers on the socket.

use offramp_fuzz::fuzz;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::blocking::Head;
use crate::error::{check_answer, read_json};
use crate::{
    ExplainRequest, Explanation, FlowEvent, RunAnswer, RunRequest, RunningApp, Status, StoreAnswer,
    SwitchRequest, UserFiles, paths,
};

/// What was understood means the same when it is written again.
fn round_trip<T: DeserializeOwned + Serialize>(input: &[u8]) {
    match read_json::<T>(input) {
        Ok(value) => {
            let text = serde_json::to_vec(&value).unwrap();
            let again = read_json::<T>(&text).expect("what was written can be read");
            assert_eq!(serde_json::to_vec(&again).unwrap(), text);
        }
        Err(error) => assert!(error.to_string().len() < 4096, "{error}"),
    }
}

#[test]
fn messages() {
    let seeds: &[&[u8]] = &[
        br#"{"profile":"work","server":{"url":"https://a:b@c","ca_pem":"x"},"program":"/bin/x"}"#,
        br#"{"subject":{"pid":1},"target":{"address":"a:1"}}"#,
        br#"{"policies":[{"name":"a.json","content":"e30="}],"credentials":[]}"#,
        br#"{"profile":null,"on":true}"#,
        br#"{"event":"missed","count":4}"#,
        br#"{"identifier":"x","changed":true,"problems":[{"severity":"error","message":"m"}]}"#,
        br#"{"profile":"x","label":1,"notices":[]}"#,
        br#"{"error":{"code":"limit_reached","message":"m","hint":"h"}}"#,
    ];
    fuzz("messages", seeds, |input| {
        round_trip::<RunRequest>(input);
        round_trip::<ExplainRequest>(input);
        round_trip::<UserFiles>(input);
        round_trip::<SwitchRequest>(input);
        round_trip::<Status>(input);
        round_trip::<FlowEvent>(input);
        round_trip::<Explanation>(input);
        round_trip::<StoreAnswer>(input);
        round_trip::<RunAnswer>(input);
        round_trip::<Vec<RunningApp>>(input);
        assert!(check_answer(500, input).is_err());
    });
}

#[test]
fn contents_stay_out_of_messages() {
    fuzz("contents", &[b"", b"\"}]}", b"\",", b"\\u00"], |input| {
        let rest = String::from_utf8_lossy(input);
        let text = format!(r#"{{"credentials":[{{"name":"a","content":"hunter2hunter2{rest}"#);
        match read_json::<UserFiles>(text.as_bytes()) {
            Ok(files) => assert!(!format!("{files:?}").contains("hunter2")),
            Err(error) => assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}"),
        }
    });
}

#[test]
fn heads_of_answers() {
    let seeds: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n",
        b"HTTP/1.1 429 \r\nTransfer-Encoding: chunked\r\n\r\n",
    ];
    fuzz("heads_of_answers", seeds, |input| {
        if let Ok(head) = Head::read(input) {
            assert!(head.length.is_none_or(|_| input.len() > 16));
        }
    });
}

#[test]
fn profile_paths() {
    let seeds: &[&[u8]] = &[
        b"/v1/profiles/com.example.work",
        b"/v1/profiles/a%2Fb%20c",
        b"work/\xc3\xa9",
    ];
    fuzz("profile_paths", seeds, |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        if let Some(identifier) = paths::identifier(text) {
            assert_eq!(
                paths::identifier(&paths::profile(&identifier)),
                Some(identifier)
            );
        }
        if !text.is_empty() {
            assert_eq!(
                paths::identifier(&paths::profile(text)).as_deref(),
                Some(text)
            );
        }
    });
}
