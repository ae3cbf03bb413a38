//! What a user may write where the daemon looks: desktop entries, first lines of scripts, arguments,
//! names of processes.

use offramp_fuzz::fuzz;

use super::bundle::{flatpak_by_info, snap_by_label, snap_by_path};
use super::desktop::{commands_of, program, program_of};
use super::interpreter::{Family, Shebang};
use super::process::parse_status;

#[test]
fn desktop_entries() {
    let seeds: &[&[u8]] = &[
        b"[Desktop Entry]\nTryExec=x\nExec=\"/opt/My App/run\" --x %F\n[Desktop Action a]\nExec=env A=1 -u B x --new\n",
        b"[Desktop Entry]\nExec=\"a \\\\\"b\\\\\" \\\\$c\" d\\s%%\nHidden=true", b"Exec=flatpak run x",
    ];
    fuzz("desktop_entries", seeds, |input| {
        let text = String::from_utf8_lossy(input);
        for command in commands_of(&text, |program| program != "missing") {
            let length: usize = command.iter().map(String::len).sum();
            assert!(length <= text.len());
            if let Some((program, arguments)) = program(&command) {
                assert!(command.iter().any(|word| word == program));
                assert!(arguments.len() < command.len());
            }
        }
        program_of(&text);
    });
}

#[test]
fn first_lines() {
    let seeds: &[&[u8]] = &[
        b"#!/usr/bin/env -S A=1 python3 -u\n",
        b"#! /bin/sh -e\r\n",
        b"#!\n",
        b"#!/bin/x\0y",
    ];
    fuzz("first_lines", seeds, |input| {
        if let Some(found) = Shebang::parse(input) {
            assert!(!found.interpreter.as_os_str().is_empty());
            assert!(found.through_env.is_none_or(|name| !name.is_empty()));
        }
    });
}

#[test]
fn arguments() {
    let seeds: &[&[u8]] = &[
        b"python3\0-u\0-W\0ignore\0x.py\0-c",
        b"sh\0-eo\0pipefail\0--\0x.sh",
        b"node\0--require\0a\0x",
        b"perl\0-I/x\0-w\0x.pl",
        b"ld-linux-x86-64.so.2\0--library-path\0/x\0/usr/bin/y",
        b"bash\0-c\0x",
        b"php\0-d\0a=b\0-f\0x.php",
        b"busybox\0sh\0x",
        b"Rscript\0--vanilla\0x.R",
        b"ruby\0-ryaml\0x.rb",
    ];
    fuzz("arguments", seeds, |input| {
        let text = String::from_utf8_lossy(input);
        let mut words = text.split('\0');
        let name = words.next().unwrap_or_default();
        let words: Vec<String> = words.map(str::to_owned).collect();
        Family::of_script(name);
        if let Some(family) = Family::of_program(name)
            && let Some(script) = family.script(&words)
        {
            assert!(words.iter().any(|word| word.contains(script)));
        }
    });
}

#[test]
fn statuses() {
    let seeds: &[&[u8]] = &[
        b"Name:\ta\\nPPid:\t9\nState:\tS\nPPid:\t1\nUid:\t1000\t0\t0\t0\nGid:\t5\t5\t5\t5\nGroups:\t4 24 \n",
    ];
    fuzz("statuses", seeds, |input| {
        parse_status(input);
    });
}

#[test]
fn bundles() {
    let seeds: &[&[u8]] = &[
        b"[Instance]\nname=no\n[Application]\nruntime=x\nname = org.mozilla.firefox\n",
        b"snap.firefox.firefox (enforce)",
        b"/snap/firefox/x41/usr/lib/firefox",
    ];
    fuzz("bundles", seeds, |input| {
        let text = String::from_utf8_lossy(input);
        flatpak_by_info(&text);
        snap_by_label(&text);
        snap_by_path(std::path::Path::new(&*text));
    });
}
