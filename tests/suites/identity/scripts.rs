//! Scripts: the script is the app, not its interpreter.

use offramp_tests::Case;
use offramp_tests::Expected::{Direct, Managed};

const SHELL: &str = r"
    printf '#!/bin/sh\nexec $first\n' >$dir/$name.sh; chmod +x $dir/$name.sh
    mkdir $dir/b; cp $dir/$name.sh $dir/b/$name.sh; cp $dir/$name.sh $dir/other.sh";

const PYTHON: &str = r"
    printf '#!/usr/bin/env python3\n$connect\n' >$dir/$name.py; chmod +x $dir/$name.py
    cp $dir/$name.py $dir/other.py; mkdir $dir/b; cp $dir/$name.py $dir/b/$name.py";

pub(crate) const CASES: [Case; 5] = [
    Case {
        label: "path of a shell script",
        rules: &[r#"{"SigningIdentifier": "exe:$dir/$name.sh"}"#],
        before: SHELL,
        starts: &[
            ("by its first line", "$dir/$name.sh", Managed),
            ("from its directory", "cd $dir; ./$name.sh", Managed),
            ("by its interpreter", "sh $dir/$name.sh", Managed),
            (
                "by its interpreter with an option",
                "sh -e $dir/$name.sh",
                Managed,
            ),
            (
                "by its interpreter, relative",
                "cd $dir/b; sh ../$name.sh",
                Managed,
            ),
            ("by a link", "ln -s $name.sh $dir/link; $dir/link", Managed),
            ("the same name elsewhere", "$dir/b/$name.sh", Direct),
            ("another script", "$dir/other.sh", Direct),
            ("the interpreter alone", "sh -c '$first'", Direct),
            (
                "as an argument of another script",
                "sh $dir/other.sh $dir/$name.sh",
                Direct,
            ),
            (
                "as an argument of a command",
                "sh -c '$first' $dir/$name.sh",
                Direct,
            ),
            ("read from a pipe", "cat $dir/$name.sh | sh", Direct),
        ],
    },
    Case {
        label: "path of a Python script",
        rules: &[r#"{"SigningIdentifier": "exe:$dir/$name.py"}"#],
        before: PYTHON,
        starts: &[
            ("by its first line", "$dir/$name.py", Managed),
            ("by its interpreter", "python3 $dir/$name.py", Managed),
            (
                "by its interpreter with an option",
                "python3 -u $dir/$name.py",
                Managed,
            ),
            (
                "by its interpreter with an option that has a value",
                "python3 -W ignore $dir/$name.py",
                Managed,
            ),
            (
                "by its interpreter, relative",
                "cd $dir; python3 $name.py",
                Managed,
            ),
            (
                "replaced",
                "cp $dir/$name.py $dir/new; mv $dir/new $dir/$name.py; $dir/$name.py",
                Managed,
            ),
            ("another script", "$dir/other.py", Direct),
            (
                "another script by the interpreter",
                "python3 $dir/other.py",
                Direct,
            ),
            ("the interpreter alone", "python3 -c '$connect'", Direct),
            (
                "as an argument of another script",
                "python3 $dir/other.py $dir/$name.py",
                Direct,
            ),
            (
                "as an argument of a command",
                "python3 -c '$connect' $dir/$name.py",
                Direct,
            ),
            ("the same name elsewhere", "$dir/b/$name.py", Direct),
        ],
    },
    Case {
        label: "name of a script",
        rules: &[r#"{"SigningIdentifier": "exe:$name.py"}"#],
        before: PYTHON,
        starts: &[
            ("by its first line", "$dir/$name.py", Managed),
            ("by its interpreter", "python3 $dir/$name.py", Managed),
            ("in another place", "$dir/b/$name.py", Managed),
            ("another script", "python3 $dir/other.py", Direct),
        ],
    },
    Case {
        label: "script without an ending",
        rules: &[r#"{"SigningIdentifier": "exe:$dir/tool"}"#],
        before: "printf '#!/bin/sh\\nexec $first\\n' >$dir/tool; chmod +x $dir/tool
            cp $dir/tool $dir/other",
        starts: &[
            ("by its first line", "$dir/tool", Managed),
            ("by its interpreter", "sh $dir/tool", Managed),
            ("another script", "$dir/other", Direct),
        ],
    },
    Case {
        label: "interpreter of a script",
        rules: &[r#"{"SigningIdentifier": "exe:$dir/dash"}"#],
        before: "cp /usr/bin/dash $dir/dash
            printf '#!$dir/dash\\nexec $first\\n' >$dir/script; chmod +x $dir/script",
        starts: &[
            ("whatever it runs", "$dir/script", Managed),
            ("a command", "$dir/dash -c $first", Managed),
            ("the same interpreter elsewhere", "dash -c $first", Direct),
        ],
    },
];
