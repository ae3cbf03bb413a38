//! The files of others that are looked through for `run`.

use std::path::Path;

use offramp_fuzz::fuzz;

use super::entries::{entry, service};
use super::leads_to;
use super::processes::listening;

#[test]
fn entries_and_services() {
    let seeds: &[&[u8]] = &[
        b"[Desktop Entry]\nName=x\nExec=/usr/bin/x %u\nTerminal=true\nDBusActivatable=true\n",
        b"[D-BUS Service]\nName=org.x.Y\nExec=/usr/bin/y --service\n",
        b"[Desktop Entry]\nHidden=true",
    ];
    fuzz("entries_and_services", seeds, |input| {
        let text = String::from_utf8_lossy(input);
        entry("x", &text);
        service(&text);
    });
}

#[test]
fn scripts_and_sockets() {
    let seeds: &[&[u8]] = &[
        b"#!/bin/sh\nexec /opt/x/x \"$@\"\n",
        b"Num\n0000000000000000: 00000002 00000000 00010000 0001 01 17 /run/a\n",
    ];
    fuzz("scripts_and_sockets", seeds, |input| {
        let text = String::from_utf8_lossy(input);
        leads_to(Path::new("/usr/local/bin/x"), &text, Path::new("/opt/x/x"));
        assert!(listening(&text).len() <= text.lines().count());
    });
}
